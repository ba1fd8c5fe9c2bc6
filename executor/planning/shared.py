"""Weights that several blocks use: kept once beside the blocks, or read with each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from swapnet.manifest import Extent, Manifest

__all__ = ["extents_of", "kept_choices"]

_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Fractions of the memory that is left beside the largest block, for shared weights that stay."""

_GOLDEN = 0.618034
"""Multiples of the golden ratio, modulo 1, lie evenly however many are taken."""


def extents_of(manifest: Manifest, block: int, kept: Collection[int] = ()) -> tuple[Extent, ...]:
    """Extents that lie in the place of a block: its own, and shared ones that are not ``kept``."""
    if not manifest.blocks[block].is_graph:
        return ()
    used = (manifest.shared[i].extent for i in manifest.shared_by[block] if i not in kept)
    return (manifest.blocks[block].extent, *used)


def kept_choices(manifest: Manifest, available_bytes: int) -> Iterator[frozenset[int]]:
    """Choices of `Manifest.shared` that stay in this memory for weights; the most first.

    A byte that stays saves as many reads as blocks use it. So those of many blocks come first, and
    of equally many such as lie evenly over the model: streaming goes on between them.
    """
    room = available_bytes - max(manifest.block_bytes)
    choices = [_filled(manifest, int(room * share)) for share in _SHARES]
    largest = max(block.swapped_bytes for block in manifest.blocks)
    if largest + sum(each.extent.nbytes for each in manifest.shared) <= available_bytes:
        choices.insert(0, frozenset(range(len(manifest.shared))))
    yield from dict.fromkeys([*choices, frozenset()])


def _filled(manifest: Manifest, room: int) -> frozenset[int]:
    """As many as ``room`` has place for."""
    shared = manifest.shared
    order = sorted(range(len(shared)), key=lambda i: (-len(shared[i].blocks), i * _GOLDEN % 1))
    kept: set[int] = set()
    for i in order:
        if shared[i].extent.nbytes <= room:
            kept.add(i)
            room -= shared[i].extent.nbytes
    return frozenset(kept)
