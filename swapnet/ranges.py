"""Value ranges of a model's activations: the calibration cache, readable and editable JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from swapnet.errors import InputError, StorageError
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
"""How a range is taken from what was seen: all of it, what loses the least information (Kullback
and Leibler's divergence, as TensorRT's entropy calibrator), or what lies within a percentile of
absolute values."""

METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")

RANGES: Final = "ranges.json"
"""The ranges that an engine was built with, in its directory."""

_FLOAT32_LIMIT: Final = 3.4028234663852886e38

SCHEMA: Final = "swapnet-ranges/1"


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tensor's values lie in: ``low <= 0 <= high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -_FLOAT32_LIMIT <= self.low <= 0 <= self.high <= _FLOAT32_LIMIT:
            raise ValueError(
                f"a range is low <= 0 <= high, finite in float32; not {self.low} to {self.high}"
            )


class RangeCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A calibration cache.

    Attributes
    ----------
    model_sha256
        Of the ONNX file that was calibrated.
    model
        Its name, for people.
    method, percentile
        How ranges were taken; ``percentile`` is None but for that method.
    samples
        How many inputs were run.
    onnxruntime
        Version that ran them: names of tensors are those that its optimiser leaves.
    ranges
        By name of a float tensor.
    means
        Of each channel of what multiplies by a weight, by name of the tensor: biases make up for
        what rounding weights changes of them. Empty where they were not measured.
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
        There is no such file, or it is no calibration cache.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the calibration cache {path} can't be read",
            why=error.strerror or str(error),
            hint="make one: swapnet quantize MODEL.onnx --data …",
        ) from error
    try:
        return msgspec.json.decode(content, type=RangeCache)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path} is not a calibration cache",
            why=str(error),
            hint="make one: swapnet quantize MODEL.onnx --data …",
        ) from error


def check_ranges(cache: RangeCache, model_sha256: str, needed: Collection[str]) -> None:
    """Refuse ranges of another model, or too few.

    Parameters
    ----------
    cache
        What is to be used.
    model_sha256
        Of the ONNX file that it is to be used for.
    needed
        Names of values whose ranges are needed.

    Raises
    ------
    InputError
        The cache is of another model, or lacks a value.
    """
    if cache.model_sha256 != model_sha256:
        raise InputError(
            f"the calibration cache is of another model: {cache.model}",
            why=f"it was made of a file with hash {cache.model_sha256[:12]}, this one has "
            f"{model_sha256[:12]}",
            hint="calibrate again: swapnet quantize MODEL.onnx --data …",
        )
    missing = [name for name in needed if name not in cache.ranges]
    if missing:
        raise InputError(
            f"the calibration cache lacks {len(missing)} of {len(needed)} values",
            why=f"the first is {missing[0]!r}; it was made with ONNX Runtime {cache.onnxruntime}",
            hint="calibrate again: swapnet quantize MODEL.onnx --data …",
        )


def check_means(cache: RangeCache, channels: Mapping[str, int]) -> None:
    """Refuse means of too few or too many channels; a tensor may have none.

    Parameters
    ----------
    cache
        What is to be used.
    channels
        Of each tensor whose means are used.

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
                why=f"the value has {count} channels, and each has a mean",
                hint="remove them from the cache, or calibrate again: swapnet quantize "
                "MODEL.onnx --data …",
            )


def save_ranges(path: Path, cache: RangeCache) -> None:
    """Write a calibration cache; one that is there is replaced when the new one is whole.

    Raises
    ------
    StorageError
        It can't be written.
    """
    content = msgspec.json.format(msgspec.json.encode(cache), indent=1)
    try:
        make_folder(path.absolute().parent)
        with replacing(path) as temporary:
            temporary.write_bytes(content + b"\n")
    except OSError as error:
        raise StorageError(
            f"the calibration cache {path} can't be written",
            why=error.strerror or str(error),
            hint="choose another place",
        ) from error
