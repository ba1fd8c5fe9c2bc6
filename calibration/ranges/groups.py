"""Tensors that are observed in one pass over the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swapnet.budget import Budget

__all__ = ["group_limit", "group_tensors"]

_SHARE = 4
"""Observed tensors take at most a quarter of the budget."""


def group_limit(budget: Budget, budget_bytes: int) -> int | None:
    """Bytes of the tensors that are held at once; None for all, where nothing is swapped.

    Parameters
    ----------
    budget, budget_bytes
        As it was written, and what it is for the whole model.
    """
    unlimited = budget.of != "bytes" and budget.amount >= 1
    return None if unlimited else budget_bytes // _SHARE


def group_tensors(
    tensors: Iterable[tuple[str, int]], limit_bytes: int | None
) -> Iterator[tuple[str, ...]]:
    """Consecutive tensors, as many as fit into the limit, at least one.

    Parameters
    ----------
    tensors
        Name and bytes of each, in the order in which they are computed.
    limit_bytes
        None for no limit.
    """
    group: list[str] = []
    held_bytes = 0
    for name, nbytes in tensors:
        if group and limit_bytes is not None and held_bytes + nbytes > limit_bytes:
            yield tuple(group)
            group, held_bytes = [], 0
        group.append(name)
        held_bytes += nbytes
    if group:
        yield tuple(group)
