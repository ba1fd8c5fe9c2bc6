"""Float32 values in two bytes each, and back: the forms in which an extent may be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from swapnet.manifest import Codec

__all__ = ["expand", "narrowed"]

Bytes = npt.NDArray[np.uint8]

_MOST_VALUES = 1 << 17
"""Values that are expanded at once: they stay in a core's cache."""

_OVERLAPPING_VALUES = 1 << 10
"""Values at the end that are expanded through a copy."""

_HALF_BITS = np.int32(-0x70002000)
"""Sign, exponent and fraction of a half that was shifted by 13 bits with its sign."""

_HALF_BIAS = np.float32(2.0**112)
"""Quotient of two float32 and float16 values with the same bits of exponent and fraction."""


def expand(place: Bytes, codec: Codec) -> None:
    """Replace stored values by float32 values, without other memory.

    Parameters
    ----------
    place
        Memory of the float32 values, a multiple of 4 bytes; its second half holds the stored ones.
    codec
        Their form; not plain.
    """
    wide, stored = place.view(np.uint32), place.view(np.uint16)[len(place) // 4 :]
    flushes = codec == "float16" and _flushes()
    for start, stop in _spans(len(stored)):
        target, source = wide[start:stop], stored[start:stop]
        if codec == "planes":
            np.left_shift(source, 16, out=target, dtype=np.uint32)
        elif flushes:
            np.copyto(target.view(np.float32), source.view(np.float16))
        else:
            _widen(source.view(np.int16), target)


def narrowed(values: Bytes, codec: Codec) -> Bytes | None:
    """Stored form of float32 values; None where `expand` would not give back every bit."""
    half: npt.NDArray[Any]
    if codec == "planes":
        half = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.view(np.float32).astype(np.float16)
    stored = half.view(np.uint8)
    again = np.concatenate([np.empty_like(stored), stored])
    expand(again, codec)
    return stored if np.array_equal(again, values) else None


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """Spans of values that do not overwrite stored ones of later spans, nor their own."""
    # Stored values begin at the middle. The first half of those that are left fits before them.
    start = 0
    while (rest := count - start) > _OVERLAPPING_VALUES:
        stop = start + min(rest // 2, _MOST_VALUES)
        yield start, stop
        start = stop
    # numpy copies what overlaps.
    yield start, count


def _widen(source: npt.NDArray[np.int16], target: npt.NDArray[np.uint32]) -> None:
    """Halves as float32 values, four times as fast as numpy's conversion.

    Exponent and fraction go to their places in float32, as a value that is 2**112 times too small.
    The product is exact, for subnormal halves too. Infinities and NaNs are not converted.
    """
    bits = target.view(np.int32)
    np.left_shift(source, 13, out=bits, dtype=np.int32)
    np.bitwise_and(bits, _HALF_BITS, out=bits)
    values = target.view(np.float32)
    np.multiply(values, _HALF_BIAS, out=values)


def _flushes() -> bool:
    """Whether this thread takes subnormal values for zero: libraries of the user's may set that."""
    return bool(np.float32(2.0**-140) * _HALF_BIAS == 0)
