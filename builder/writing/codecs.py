"""Which weights are float32 in name only, and are stored in half the bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from swapnet.builder.importing.graph import Constant
from swapnet.executor.swapping.codecs import narrowed
from swapnet.manifest import Codec

__all__ = ["PLAIN", "Coded", "choose_codecs"]

_CODECS: Final[tuple[Codec, ...]] = ("planes", "float16")

_LEAST_BYTES = 64 << 10
"""Float32 bytes of an extent from which a codec pays: parts of extents begin at whole pages."""

_PROBE_BYTES = 4 << 10
_PIECE_BYTES = 1 << 20


class Coded(NamedTuple):
    """Codec of an extent, and the names of the weights that are stored in it."""

    codec: Codec = "plain"
    names: frozenset[str] = frozenset()


PLAIN = Coded()


def choose_codecs(
    constants: Mapping[str, Constant], extents: Iterable[Sequence[str]], plain: Collection[str]
) -> list[Coded]:
    """For each extent, the codec that saves most bytes of its weights.

    Parameters
    ----------
    constants
        Weights by name.
    extents
        Names of the weights of each.
    plain
        Weights that others read from storage as they are.
    """
    known: dict[int, tuple[Codec, ...]] = {}
    chosen: list[Coded] = []
    for names in extents:
        found: dict[Codec, list[str]] = {codec: [] for codec in _CODECS}
        for name in names:
            constant = constants[name]
            if constant.dtype != "float32" or name in plain:
                continue
            if (key := id(constant.data)) not in known:
                known[key] = _holding(constant.data)
            for codec in known[key]:
                found[codec].append(name)
        sizes = {codec: sum(constants[n].nbytes for n in found[codec]) for codec in _CODECS}
        best = max(_CODECS, key=sizes.__getitem__)
        chosen.append(Coded(best, frozenset(found[best])) if sizes[best] >= _LEAST_BYTES else PLAIN)
    return chosen


def _holding(data: npt.NDArray[np.uint8]) -> tuple[Codec, ...]:
    """Codecs that hold every bit of float32 values; most weights are none's at a first look."""
    codecs = _CODECS
    start, stop = 0, _PROBE_BYTES
    while codecs and start < len(data):
        piece = data[start:stop]
        codecs = tuple(codec for codec in codecs if narrowed(piece, codec) is not None)
        start, stop = stop, stop + _PIECE_BYTES
    return codecs
