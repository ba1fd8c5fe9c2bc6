"""Values that are in memory together in one pass over the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from swapnet.budget import Budget

__all__ = ["group_limit", "group_tensors"]

T = TypeVar("T")

_SHARE = 4
"""Observed tensors take at most a quarter of the budget."""


def group_limit(budget: Budget, budget_bytes: int) -> int | None:
    """Bytes of the tensors that are held at once; None for all, where nothing is swapped.

    ``budget_bytes`` are those of ``budget`` for the whole model.
    """
    unlimited = budget.of != "bytes" and budget.amount >= 1
    return None if unlimited else budget_bytes // _SHARE


def group_tensors(
    tensors: Iterable[tuple[T, int]], limit_bytes: int | None
) -> Iterator[tuple[T, ...]]:
    """Consecutive tensors, each given with its bytes: as many as fit into the limit, at least one.

    The order is that in which they are computed; a limit of None is no limit.
    """
    group: list[T] = []
    held_bytes = 0
    for tensor, nbytes in tensors:
        if group and limit_bytes is not None and held_bytes + nbytes > limit_bytes:
            yield tuple(group)
            group, held_bytes = [], 0
        group.append(tensor)
        held_bytes += nbytes
    if group:
        yield tuple(group)
