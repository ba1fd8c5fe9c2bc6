"""Split one budget among engines.

``latency`` minimises the expected latency of all engines together. They read from one storage, so
what one gets changes what the others wait: reading has a price, which follows from the split, which
follows from the price. For given prices it is a multiple-choice knapsack, solved by dynamic
programming over a grid of bytes. ``equal`` and ``proportional`` are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from swapnet.executor.runtime.objectives import Objectives

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["RULES", "Claim", "Option", "cost_of", "fitting", "split"]

RULES = ("latency", "equal", "proportional")
"""Names of the ways to split a budget."""

_CELLS = 2048
"""Cells of the grid; more where each of many engines could lose a part of one."""

_CELLS_PER_CLAIM = 8

_BUSIEST = 0.95
"""Utilisation that is assumed at most: beyond it, waiting has no expectation."""

_ROUNDS = 4
"""Splits, each at the prices of the one before."""

_EQUAL = 1e-12
"""Costs that differ by less, relatively, are equal: they were added in another order."""


@dataclass(frozen=True)
class Option:
    """One point of an engine's latency over memory.

    Attributes
    ----------
    nbytes
        The engine's share.
    latency_ms
        Latency of one inference, alone on the device.
    reading_ms
        Time in which storage is busy for one inference, hidden behind computing or not.
    prefetch_ms
        Part of ``reading_ms`` that may be read before a request comes: the ring holds it.
    """

    nbytes: int
    latency_ms: float
    reading_ms: float = 0.0
    prefetch_ms: float = 0.0


@dataclass(frozen=True)
class Claim(Objectives):
    """An engine's use of a share, and its objectives.

    Attributes
    ----------
    name
        Unique.
    options
        One option or more, in any order; a share is never below the smallest.
    """

    name: str
    options: tuple[Option, ...]


def split(
    claims: Sequence[Claim], available_bytes: int, *, rule: str = "latency"
) -> dict[str, int]:
    """Split a budget.

    Parameters
    ----------
    claims
        The engines.
    available_bytes
        For all of them together; not less than all smallest options.
    rule
        ``latency``: the split with the lowest `cost_of` among the equal one, the proportional one
        and a few knapsacks, each at the prices of the split before. A knapsack is exact to 1/2048
        of the bytes beside the smallest shares. Between equal costs the earliest deadline gets
        more. Bytes that the grid leaves over go where they gain most. ``equal``: as much for each,
        never more than its largest option. ``proportional``: by largest options. In the last two
        an engine whose smallest option is larger gets that, and the others share what remains.

    Returns
    -------
    dict
        Share of each claim in bytes, by name.

    Raises
    ------
    ValueError
        A claim has no option.
    """
    fronts = [_front(claim) for claim in claims]
    if rule == "latency":
        sizes = _least_cost(claims, fronts, available_bytes)
    else:
        sizes = _in_proportion(fronts, available_bytes, rule)
    return {claim.name: nbytes for claim, nbytes in zip(claims, sizes, strict=True)}


def cost_of(claims: Sequence[Claim], shares_bytes: Mapping[str, int]) -> float:
    """Expected cost of shares, of all requests together.

    Parameters
    ----------
    claims
        The engines, with their rates.
    shares_bytes
        Share of each claim, by name; a share between two options counts as the smaller one.

    Returns
    -------
    float
        Weighted milliseconds of latency per second.

    Notes
    -----
    With rate r, priority p, latency L and reading R, the cost is the sum of r p u L / (1 - s). The
    urgency u is 1 up to the deadline and L / deadline beyond it. Storage is busy with requests of
    earlier deadlines for the share s of the time, the sum of their r R, at most 0.95: reading is
    served by deadline, and everything stands still in the time of others (priority queueing;
    Kleinrock, Queueing Systems II, 1976, section 3.3).
    """
    fronts = [_front(claim) for claim in claims]
    return _total(claims, fronts, [shares_bytes[claim.name] for claim in claims])


def fitting(claim: Claim, nbytes: int) -> Option:
    """The option that a claim uses within a share: the largest useful one that fits."""
    return _fitting(_front(claim), nbytes)


def _front(claim: Claim) -> tuple[Option, ...]:
    """Options by size, without those that are neither faster nor read less than a smaller one."""
    if not claim.options:
        raise ValueError(f"{claim.name} has no option")
    front: list[Option] = []
    for option in sorted(claim.options, key=lambda o: (o.nbytes, o.latency_ms, o.reading_ms)):
        is_faster = option.latency_ms < min((o.latency_ms for o in front), default=inf)
        reads_less = option.reading_ms < min((o.reading_ms for o in front), default=inf)
        is_larger = not front or option.nbytes > front[-1].nbytes
        if is_larger and (is_faster or reads_less):
            front.append(option)
    return tuple(front)


def _costs(
    claims: Sequence[Claim], fronts: Sequence[Sequence[Option]], reading_ms: Sequence[float]
) -> list[tuple[float, ...]]:
    """Cost of each claim's options: its own term of the sum, and the price of its reading."""
    idle = _idle(claims, reading_ms)
    prices = _prices(claims, fronts, reading_ms, idle)
    return [
        tuple(
            claim.rate_per_s
            * (_own_ms(claim, option.latency_ms) / share + price * option.reading_ms)
            for option in front
        )
        for claim, front, share, price in zip(claims, fronts, idle, prices, strict=True)
    ]


def _total(
    claims: Sequence[Claim], fronts: Sequence[Sequence[Option]], sizes: Sequence[int]
) -> float:
    options = [_fitting(front, size) for front, size in zip(fronts, sizes, strict=True)]
    idle = _idle(claims, [option.reading_ms for option in options])
    return sum(
        claim.rate_per_s * _own_ms(claim, option.latency_ms) / share
        for claim, option, share in zip(claims, options, idle, strict=True)
    )


def _idle(claims: Sequence[Claim], reading_ms: Sequence[float]) -> list[float]:
    """Fraction of time in which storage does not read for deadlines before each claim's."""
    busy = [c.rate_per_s * ms / 1e3 for c, ms in zip(claims, reading_ms, strict=True)]
    earlier = _running([_deadline(claim) for claim in claims], busy)
    return [
        1 - min(all_of_them - own, _BUSIEST) for all_of_them, own in zip(earlier, busy, strict=True)
    ]


def _prices(
    claims: Sequence[Claim],
    fronts: Sequence[Sequence[Option]],
    reading_ms: Sequence[float],
    idle: Sequence[float],
) -> list[float]:
    """Weighted waiting of others for each millisecond that a claim reads."""
    # Reading delays other claims whose deadlines are not earlier. Such a claim costs
    # r p u L / (1 - s), and its s grows with each millisecond that is read for an earlier deadline.
    # The price of that millisecond is the derivative with respect to s, r p u L / (1 - s)^2, over
    # the 1e3 ms of a second. The share that the later claim will have is not known yet. Its L is
    # that of the option that reads as much as in the split before.
    waits = [
        claim.rate_per_s * _own_ms(claim, _latency_at(front, reading)) / share**2 / 1e3
        for claim, front, reading, share in zip(claims, fronts, reading_ms, idle, strict=True)
    ]
    # The sum over later deadlines contains the claim itself, which does not wait for its own reads.
    later = _running([-_deadline(claim) for claim in claims], waits)
    return [all_of_them - own for all_of_them, own in zip(later, waits, strict=True)]


def _running(keys: Sequence[float], values: Sequence[float]) -> list[float]:
    """Sum of the values with keys that are not larger, for each entry."""
    sums: dict[float, float] = {}
    for key, value in sorted(zip(keys, values, strict=True)):
        sums[key] = sums.get(key, next(reversed(sums.values()), 0.0)) + value
    return [sums[key] for key in keys]


def _own_ms(claim: Claim, latency_ms: float) -> float:
    late = latency_ms / claim.deadline_ms if claim.deadline_ms else 1.0
    return claim.priority * max(late, 1.0) * latency_ms


def _fitting(front: Sequence[Option], nbytes: int) -> Option:
    return next(option for option in reversed(front) if option.nbytes <= nbytes)


def _latency_at(front: Sequence[Option], reading_ms: float) -> float:
    """Latency of the option with the closest reading time."""
    return min(front, key=lambda option: abs(option.reading_ms - reading_ms)).latency_ms


def _least_cost(
    claims: Sequence[Claim], fronts: Sequence[Sequence[Option]], available_bytes: int
) -> list[int]:
    spare = available_bytes - sum(front[0].nbytes for front in fronts)
    by_deadline = sorted(range(len(claims)), key=lambda c: (_deadline(claims[c]), c))
    equal, proportional = (_in_proportion(fronts, available_bytes, rule) for rule in RULES[1:])
    found: list[list[int]] = []
    before = proportional
    for _ in range(_ROUNDS if any(o.reading_ms for front in fronts for o in front) else 1):
        reading = [
            _fitting(front, size).reading_ms for front, size in zip(fronts, before, strict=True)
        ]
        costs = _costs(claims, fronts, reading)
        chosen = _knapsack(fronts, costs, spare, by_deadline)
        before = _with_leftover(claims, fronts, costs, chosen, spare, by_deadline)
        found.append(before)
    return min((*found, equal, proportional), key=lambda sizes: _total(claims, fronts, sizes))


def _knapsack(
    fronts: Sequence[Sequence[Option]],
    costs: Sequence[Sequence[float]],
    spare_bytes: int,
    by_deadline: Sequence[int],
) -> list[int]:
    """Option of each claim; bytes are counted beyond the smallest ones, in whole cells.

    The earliest deadline is decided last, and takes the larger of two options if nothing else
    becomes worse.
    """
    import numpy as np

    # best[b] is the least cost of the claims so far within b cells; each table notes the option of
    # one claim for every b. Sizes are rounded up to cells, so that a choice always fits in bytes.
    # Claims enter by deadline, the latest first: the earliest one is decided last, with a look at
    # what all others can do with the rest, and `<=` lets it take the larger of two equal options.
    # _EQUAL is needed because equal sums were added in another order.
    cells = max(_CELLS, _CELLS_PER_CLAIM * len(fronts))
    cell_bytes = max(-(-spare_bytes // cells), 1)
    cells = spare_bytes // cell_bytes
    best = np.zeros(cells + 1)
    tables: list[npt.NDArray[np.uint16]] = []
    for claim in reversed(by_deadline):
        front, extra = fronts[claim], costs[claim]
        sizes = [-(-(option.nbytes - front[0].nbytes) // cell_bytes) for option in front]
        total = best + extra[0]
        table = np.zeros(cells + 1, np.uint16)
        for option in range(1, len(front)):
            size = sizes[option]
            if size > cells:
                break
            other = best[: cells + 1 - size] + extra[option]
            better = other <= total[size:] * (1 + _EQUAL)
            np.copyto(total[size:], other, where=better)
            table[size:][better] = option
        best = total
        tables.append(table)
    chosen = [0] * len(fronts)
    left = cells
    for claim, table in zip(by_deadline, reversed(tables), strict=True):
        front = fronts[claim]
        chosen[claim] = option = int(table[left])
        left -= -(-(front[option].nbytes - front[0].nbytes) // cell_bytes)
    return chosen


def _with_leftover(
    claims: Sequence[Claim],
    fronts: Sequence[Sequence[Option]],
    costs: Sequence[Sequence[float]],
    chosen: list[int],
    spare_bytes: int,
    by_deadline: Sequence[int],
) -> list[int]:
    """Give the bytes left over, step by step, to the largest gain per byte."""

    def more(claim: int) -> int:
        """Bytes up to the next option."""
        return fronts[claim][chosen[claim] + 1].nbytes - fronts[claim][chosen[claim]].nbytes

    def gain(claim: int) -> tuple[float, float]:
        """Per byte, up to the next option: of cost, and of latency where nothing is expected."""
        front, at = fronts[claim], chosen[claim]
        faster_ms = front[at].latency_ms - front[at + 1].latency_ms
        saved = costs[claim][at] - costs[claim][at + 1]
        return max(saved, 0.0) / more(claim), claims[claim].priority * faster_ms / more(claim)

    left = spare_bytes - sum(
        front[at].nbytes - front[0].nbytes for front, at in zip(fronts, chosen, strict=True)
    )
    order = list(by_deadline)
    while True:
        order = [claim for claim in order if chosen[claim] + 1 < len(fronts[claim])]
        fitting = [claim for claim in order if more(claim) <= left]
        if not fitting:
            break
        taken = max(fitting, key=gain)
        left -= more(taken)
        chosen[taken] += 1
    sizes = [front[at].nbytes for front, at in zip(fronts, chosen, strict=True)]
    if order:
        sizes[max(order, key=gain)] += left
    return sizes


def _in_proportion(
    fronts: Sequence[Sequence[Option]], available_bytes: int, rule: str
) -> list[int]:
    """Parts as the rule says, at least the smallest and at most the largest option."""
    weights = [1 if rule == "equal" else max(front[-1].nbytes, 1) for front in fronts]
    rest = list(range(len(fronts)))
    left, sizes = available_bytes, [front[0].nbytes for front in fronts]
    while rest:
        total = sum(weights[claim] for claim in rest)
        parts = {claim: left * weights[claim] // total for claim in rest}
        larger = [claim for claim in rest if fronts[claim][0].nbytes > parts[claim]]
        if not larger:
            for claim in rest:
                sizes[claim] = min(parts[claim], fronts[claim][-1].nbytes)
            break
        left -= sum(fronts[claim][0].nbytes for claim in larger)
        rest = [claim for claim in rest if claim not in set(larger)]
    return sizes


def _deadline(claim: Claim) -> float:
    return inf if claim.deadline_ms is None else claim.deadline_ms
