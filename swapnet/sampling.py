"""Seeded inputs that are valid for a model: sensible ones where a name tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import numpy.typing as npt

from swapnet.tensors import numpy_dtype
from swapnet.token_rows import IDS, ROWS, rows_wanted

__all__ = ["assumed_values", "sample_inputs"]

Array = npt.NDArray[np.generic]
Declared = tuple[str, str, tuple[int, ...]]


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[_./])(?:{'|'.join(words)})(?:$|[_./:])", re.IGNORECASE)


_LENGTHS = re.compile(r"[_.]?(?:lengths?|lens?)$", re.IGNORECASE)
_POSITIONS = _words("position_ids?", "positions?", "pos_ids?", "cache_position")
_DURATIONS = _words("durations?")
_RATES = _words("sr", "sampl(?:e|ing)_rate")
_SPEAKERS = _words("sid", "speakers?", "spk", "lang", "language")
_SCALES = _words("scales?", r"\w*_scales?", "speeds?", "temperature")
_MASKS = _words(r"(?:attention|attn|padding|pad|key)_mask")
_CACHED = _words("use_cache.*", "use_past.*")

_FRAMES_OF_A_TOKEN = 10
"""A sound of speech lasts about a tenth of a second, a frame a hundredth."""
_SAMPLES_PER_S = 16000
_MOST_SCALES = 16
"""A larger input of that name is data."""


def sample_inputs(
    inputs: Iterable[Declared],
    index_limits: Mapping[str, int],
    seed: int = 0,
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
) -> dict[str, Array]:
    """Random inputs, the same for the same seed.

    Parameters
    ----------
    inputs
        Name, element type and shape of each.
    index_limits
        Rows of the table that an input indexes.
    shapes
        Shapes as the model declares them: they tell which axes have a length.

    Returns
    -------
    dict
        Floats of a standard normal distribution, and indices below their limit; for others see
        `assumed_values`.
    """
    taken = list(inputs)
    assumed = _assumed(taken, index_limits, shapes or {})
    generator = np.random.default_rng(seed)
    sample: dict[str, Array] = {}
    for name, dtype, shape in taken:
        kind = numpy_dtype(dtype)
        if name in assumed:
            values, _ = assumed[name]
            sample[name] = _typed(np.broadcast_to(values, shape), dtype)
        elif name in index_limits:
            sample[name] = generator.integers(0, index_limits[name], shape).astype(kind)
        else:
            sample[name] = _typed(generator.standard_normal(shape, np.float32), dtype)
    return sample


def assumed_values(
    inputs: Iterable[Declared],
    index_limits: Mapping[str, int],
    shapes: Mapping[str, tuple[int | str, ...]],
) -> dict[str, str]:
    """Values of `sample_inputs` that are not plain floats, in words, by input."""
    taken = list(inputs)
    limited = {name: f"below {index_limits[name]}" for name, *_ in taken if name in index_limits}
    return limited | {n: words for n, (_, words) in _assumed(taken, index_limits, shapes).items()}


def _typed(values: npt.NDArray[np.generic], dtype: str) -> Array:
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(numpy_dtype(dtype))


def _assumed(
    inputs: list[Declared],
    index_limits: Mapping[str, int],
    declared: Mapping[str, tuple[int | str, ...]],
) -> dict[str, tuple[npt.NDArray[np.generic], str]]:
    """Values that follow from a name or a type, and words for them."""
    has_past = all(0 not in shape for _, _, shape in inputs)
    found: dict[str, tuple[npt.NDArray[np.generic], str]] = {}
    tokens = {name: shape for name, _, shape in inputs}.get(IDS, ())
    for name, dtype, shape in inputs:
        if name == ROWS and tokens:
            found[name] = rows_wanted(tokens[-1], shape[0]), f"the last {shape[0]}"
            continue
        whole = numpy_dtype(dtype).kind in "iu" and dtype != "bfloat16"
        if whole and _POSITIONS.search(name) and shape:
            start = max(0, _mask_length(inputs) - shape[-1])
            places = np.arange(start, start + shape[-1])
            if name in index_limits:
                places %= index_limits[name]
            found[name] = places, f"{start} to {start + shape[-1] - 1}" if shape[-1] else "empty"
        elif name in index_limits:
            continue
        elif whole:
            size = _whole(name, shape, inputs, declared)
            found[name] = np.array(size), str(size)
        elif dtype == "bool":
            value = has_past if _CACHED.search(name) else True
            found[name] = np.array(value), str(value)
        elif (
            (_SCALES.search(name) and prod(shape) <= _MOST_SCALES)
            or (_MASKS.search(name) and len(shape) <= 2)
            or (_LENGTHS.search(name) and len(shape) <= 1)
        ):
            found[name] = np.array(1.0), "1.0"
    return found


def _mask_length(inputs: list[Declared]) -> int:
    """Tokens of the past and of now, by the mask over both; 0 without one."""
    masks = [shape[-1] for name, _, shape in inputs if _MASKS.search(name) and len(shape) == 2]
    return masks[0] if masks else 0


def _whole(
    name: str,
    shape: tuple[int, ...],
    inputs: list[Declared],
    declared: Mapping[str, tuple[int | str, ...]],
) -> int:
    if _LENGTHS.search(name) and prod(shape) == (shape[0] if shape else 1):
        return _measured_length(name, inputs, declared)
    for words, value in (
        (_DURATIONS, _FRAMES_OF_A_TOKEN),
        (_RATES, _SAMPLES_PER_S),
        (_SPEAKERS, 0),
    ):
        if words.search(name):
            return value
    return 1


def _measured_length(
    name: str, inputs: list[Declared], declared: Mapping[str, tuple[int | str, ...]]
) -> int:
    """The length of the axis that a length is of: the first after the batch that is symbolic."""
    stem = _LENGTHS.sub("", name)
    others = [one for one in inputs if len(one[2]) > 1 and one[0] != name]
    if not others:
        return 1
    best = min(others, key=lambda one: not (stem and one[0].startswith(stem)))
    dims = declared.get(best[0], ())
    axis = next((i for i, dim in enumerate(dims) if i and isinstance(dim, str)), 1)
    return best[2][axis]
