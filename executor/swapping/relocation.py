"""Change from one plan's arena to the next one's: blocks that stay in memory move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swapnet.executor.planning.plan import Place

__all__ = ["Move", "moves"]


@dataclass(frozen=True)
class Move:
    """Move of resident bytes from one offset of the arena to another."""

    position: int
    source: int
    target: int
    nbytes: int


def moves(before: Sequence[Place], after: Sequence[Place]) -> list[Move]:
    """Moves, in an order in which none overwrites the source of a later one.

    Residents lie one after the other, in the same order in every plan. Those that go down are moved
    first to last, then those that go up last to first: a target never reaches below the targets,
    nor above the sources, of those on its way.

    Parameters
    ----------
    before, after
        `Plan.residents`.

    Returns
    -------
    list of Move
        Moves of all that is resident in both plans, also of what keeps its place.
    """
    kept = [
        Move(position, old.offset, new.offset, new.nbytes)
        for position, (old, new) in enumerate(zip(before, after, strict=True))
        if old.resident and new.resident and new.nbytes and old.extents == new.extents
    ]
    kept.sort(key=lambda move: move.source)
    down = [move for move in kept if move.target <= move.source]
    up = [move for move in kept if move.target > move.source]
    return down + up[::-1]
