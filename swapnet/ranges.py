"""Value ranges of a model's activations: the calibration cache, readable and editable JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from swapnet.errors import InputError
from swapnet.files import make_folder, replacing

__all__ = [
    "METHODS",
    "RANGES",
    "Method",
    "Range",
    "RangeCache",
    "check_means",
    "check_ranges",
    "load_ranges",
    "save_ranges",
]

Method = Literal["minmax", "entropy", "percentile"]
"""Way to take a range from the observed values: all of them, the part that loses the least
information (Kullback and Leibler's divergence, as in TensorRT's entropy calibrator), or the part
within a percentile of absolute values."""

METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")

_AGAIN = "calibrate again: swapnet quantize MODEL.onnx --data …"
_MAKE = "make one: swapnet quantize MODEL.onnx --data …"

RANGES: Final = "ranges.json"
"""The ranges that an engine was built with, in its directory."""

_FLOAT32_LIMIT: Final = 3.4028234663852886e38

SCHEMA: Final = "swapnet-ranges/1"


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a tensor's values: ``low <= 0 <= high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -_FLOAT32_LIMIT <= self.low <= 0 <= self.high <= _FLOAT32_LIMIT:
            raise ValueError(
                f"{self.low} to {self.high} is not a range: low <= 0 <= high, finite in float32"
            )


class RangeCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A calibration cache.

    Attributes
    ----------
    model_sha256, model
        Hash and name of the ONNX file that was calibrated; the hash is of its external data too.
    method, percentile
        Way to take ranges; ``percentile`` is None for other methods.
    samples
        Number of inputs that were run.
    onnxruntime
        Version that ran them: names of tensors are those that its optimiser leaves.
    ranges
        By name of a float tensor.
    means
        Mean of each channel, by name of a tensor that a weight multiplies: biases are corrected
        for the shift in them that weight rounding causes. Empty where they were not measured.
    """

    schema: Literal["swapnet-ranges/1"]
    model_sha256: str
    model: str
    method: Method
    samples: int
    onnxruntime: str
    ranges: dict[str, Range]
    percentile: float | None = None
    means: dict[str, tuple[float, ...]] = {}

    def __post_init__(self) -> None:
        for name, means in self.means.items():
            if not all(-_FLOAT32_LIMIT <= mean <= _FLOAT32_LIMIT for mean in means):
                raise ValueError(f"the means of {name!r} are not all finite in float32")


def load_ranges(path: Path) -> RangeCache:
    """Read a calibration cache.

    Raises
    ------
    InputError
        The file is missing, or is not a calibration cache.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the calibration cache {path} can't be read",
            why=error.strerror or str(error),
            hint=_MAKE,
        ) from error
    try:
        return msgspec.json.decode(content, type=RangeCache)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path} is not a calibration cache", why=str(error), hint=_MAKE
        ) from error


def check_ranges(cache: RangeCache, model_sha256: str, needed: Collection[str]) -> None:
    """Refuse ranges of another model, and a cache that lacks ranges.

    Parameters
    ----------
    cache
        Ranges to use.
    model_sha256
        Hash of the ONNX file to use them for, and of its external data.
    needed
        Names of the values that need a range.

    Raises
    ------
    InputError
        The cache is of another model, or lacks a value.
    """
    if cache.model_sha256 != model_sha256:
        raise InputError(
            f"the calibration cache is of another model: {cache.model}",
            why=f"it and its weights have SHA-256 {cache.model_sha256[:12]}…, this one has "
            f"{model_sha256[:12]}…",
            hint=_AGAIN,
        )
    missing = [name for name in needed if name not in cache.ranges]
    if missing:
        raise InputError(
            f"the calibration cache lacks {len(missing)} of {len(needed)} values",
            why=f"the first is {missing[0]!r}; it was made with ONNX Runtime {cache.onnxruntime}",
            hint=_AGAIN,
        )


def check_means(cache: RangeCache, channels: Mapping[str, int]) -> None:
    """Refuse means of too few or too many channels; a tensor may have none.

    Parameters
    ----------
    cache
        Means to use.
    channels
        Number of channels by tensor.

    Raises
    ------
    InputError
        A tensor has another number of channels.
    """
    for name, count in channels.items():
        found = len(cache.means.get(name, ()))
        if name in cache.means and found != count:
            raise InputError(
                f"the calibration cache has {found} means of {name!r}",
                why=f"the value has {count} channels, and each needs a mean",
                hint=f"remove them from the cache, or {_AGAIN}",
            )


def save_ranges(path: Path, cache: RangeCache) -> None:
    """Write a calibration cache; one that is there is replaced when the new one is whole.

    Raises
    ------
    StorageError
        It can't be written.
    """
    content = msgspec.json.format(msgspec.json.encode(cache), indent=1)
    make_folder(path.absolute().parent)
    with replacing(path) as temporary:
        temporary.write_bytes(content + b"\n")
