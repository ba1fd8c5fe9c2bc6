"""Search the choice with the lowest predicted latency: resident and joined blocks, ring size.

Every candidate is simulated. The first candidates follow from the nature of a pipeline: residents
where bytes are dense in time, spread evenly, first or last, beside rings of several sizes. The best
of them is improved one change at a time. A simulation tells the step that waits longest, and a
block before it becomes resident in place of one that nothing waits for. Blocks join and part, the
ring grows and shrinks.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

from swapnet.executor.planning.schedule import Choice, Outline, schedule
from swapnet.executor.planning.timeline import Delays, simulate

__all__ = ["ALIKE", "Candidate", "Planner", "parted"]

ALIKE = 1.002
"""Predictions within this factor count as equal: among them the plan that reads least is taken."""

_STARTS = 5
"""Number of first candidates that are improved one after the other, while effort is left."""

_NEAR = 4
"""Number of blocks before a wait that are tried first."""

_KEPT = 16
"""Number of candidates that are remembered."""

_RINGS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""Ring sizes to try, as fractions of the memory."""


@dataclass(frozen=True)
class Candidate:
    """A choice and its predicted cost.

    Attributes
    ----------
    choice
        The choice, with the ring that is left beside its residents.
    steady_ms
        Latency once prefetching has settled.
    cost_ms
        Objective of the search: latency and weighted reading time.
    spans, stalls_ms
        First and last block of each step, and its wait for its bytes.
    streamed_bytes
        Bytes read in every inference.
    """

    choice: Choice
    steady_ms: float
    cost_ms: float
    spans: list[tuple[int, int]]
    stalls_ms: tuple[float, ...]
    streamed_bytes: int


class Planner:
    """Searches the choices for one engine and one amount of memory.

    Parameters
    ----------
    outline
        The blocks.
    delays
        Execution and reading times.
    available_bytes
        Memory for residents and ring together; every block fits.
    cyclic, least_bytes
        See `schedule`.
    reading_weight, resident
        See `PlanOptions`.
    join
        Execute several blocks in one step where that is faster.
    """

    EFFORT = 6_000
    """Number of simulated steps and streamed blocks after which the search ends: in about 7 ms."""
    EFFORT_PER_BLOCK = 1_000
    """Effort for each block of a small engine."""

    def __init__(
        self,
        outline: Outline,
        delays: Delays,
        available_bytes: int,
        *,
        cyclic: bool,
        least_bytes: int,
        reading_weight: float = 0.0,
        resident: bool = True,
        join: bool = True,
    ) -> None:
        self.outline = outline
        self.delays = delays
        self._reading_weight = reading_weight
        self._resident = resident
        self._join = join
        self._available = available_bytes
        self._cyclic = cyclic
        self._least = least_bytes
        self._effort = min(self.EFFORT, self.EFFORT_PER_BLOCK * len(outline.nbytes))
        self.simulated_events = 0
        """Number of steps and streamed blocks that were simulated until now."""
        self._tried: set[int] = set()
        """Hashes of choices, which are small: many are tried, and the process counts its memory."""
        self._found: list[Candidate] = []
        """The best ones, fastest first."""
        self._swapped = [b for b, nbytes in enumerate(outline.nbytes) if nbytes]
        able = {b for b, can in enumerate(outline.joinable) if can and join}
        self._joinable = sorted(able - outline.bound)
        self._ms = [delays.step(b, b)[0] for b in range(len(outline.nbytes))]

    def start(self) -> Candidate:
        """The best of the first candidates, before any is improved."""
        if not self._found:
            everything = frozenset(self._swapped)
            if (self._resident and sum(self.outline.nbytes) <= self._available) or not everything:
                joined = self._joined(everything, 0, after_streamed=True)
                self._found = [self._simulated(Choice(everything, joined, 0))]
            else:
                self._first()
        return self._least_reading()

    def best(self) -> Candidate:
        """The fastest candidate found; of equally fast ones, the one that reads least."""
        if self.start().streamed_bytes:
            for candidate in self._found[:_STARTS]:
                self._improve(candidate)
        return self._least_reading()

    def _least_reading(self) -> Candidate:
        alike = [c for c in self._found if c.cost_ms <= self._found[0].cost_ms * ALIKE]
        return min(alike, key=lambda c: (c.streamed_bytes, c.steady_ms))

    def _try(self, choice: Choice) -> Candidate | None:
        """Simulate a choice if it is possible and was not tried yet, while effort is left."""
        key = hash(choice)
        spent = bool(self._found) and self.simulated_events >= self._effort
        if key in self._tried or spent:
            return None
        self._tried.add(key)
        if not 0 < choice.ring_bytes <= self._left(choice.resident):
            return None
        try:
            candidate = self._simulated(choice)
        except ValueError:  # its blocks do not fit into the ring
            self.simulated_events += len(self._swapped)
            return None
        insort(self._found, candidate, key=lambda c: (c.cost_ms, c.streamed_bytes))
        del self._found[_KEPT:]
        return candidate

    def _simulated(self, choice: Choice) -> Candidate:
        order = schedule(self.outline, choice, cyclic=self._cyclic, least_bytes=self._least)
        timeline = simulate(order, self.delays)
        self.simulated_events += len(order.spans) + len(order.placed)
        reading_ms = order.lap_bytes * self.delays.ms_per_byte
        cost = timeline.steady_ms + self._reading_weight * reading_ms
        return Candidate(
            choice, timeline.steady_ms, cost, order.spans, timeline.stalls_ms, order.lap_bytes
        )

    def _first(self) -> None:
        # All combinations of a ring, an order of residents and joins are hundreds. Varied in turn,
        # from a ring of a quarter on, a few dozen come within 2 % of the best.
        largest = max(self.outline.nbytes)
        sizes = {int(self._available * share) // 4096 * 4096 for share in _RINGS}
        sizes |= {factor * largest for factor in (1, 2, 3)} | {self._available}
        rings = sorted(
            (s for s in sizes if s <= self._available), key=lambda s: abs(4 * s - self._available)
        )
        orders = [
            self._evenly_in_time,
            self._every_nth,
            lambda blocks, _: sorted(blocks, key=lambda b: (-self._density(b), b)),
            lambda blocks, _: blocks,
            lambda blocks, _: blocks[::-1],
        ]
        found: list[tuple[float, int, int, Choice]] = []

        def vary(ring: int, numbers: Iterable[int]) -> None:
            for number in numbers:
                kept = self._kept(ring, orders[number])
                if kept is None or (kept and not self._resident):
                    continue
                left = self._left(kept)
                joined = self._joined(kept, left // 4, after_streamed=True)
                candidate = self._try(Choice(kept, joined, left))
                if candidate is not None:
                    found.append((candidate.cost_ms, ring, number, candidate.choice))

        for ring in rings:
            vary(ring, [min(found)[2]] if found else range(len(orders)))
        for ring in [*dict.fromkeys(ring for _, ring, *_ in sorted(found))][:3]:
            vary(ring, range(len(orders)))
        best = min(found)[3]
        for limit, after_streamed in ((0, False), (0, True), (best.ring_bytes // 8, True)):
            joined = self._joined(best.resident, limit, after_streamed=after_streamed)
            self._try(best._replace(joined=joined))

    def _kept(
        self, ring: int, order: Callable[[Sequence[int], int], Sequence[int]]
    ) -> frozenset[int] | None:
        """Residents beside a ring, those that do not fit into it first; None where they do not."""
        nbytes = self.outline.nbytes
        forced = [b for b in self._swapped if nbytes[b] > ring]
        room = self._available - ring - sum(nbytes[b] for b in forced)
        if room < 0:
            return None
        optional = [b for b in self._swapped if nbytes[b] <= ring]
        return frozenset([*forced, *self._fill(order(optional, room), room)])

    def _joined(
        self, resident: frozenset[int], limit: int, *, after_streamed: bool
    ) -> frozenset[int]:
        """Join resident blocks to those before them, streamed ones up to ``limit`` bytes a step."""
        if not self._join:
            return self.outline.bound
        joined: list[int] = []
        bytes_of_step = 0
        for block, nbytes in enumerate(self.outline.nbytes):
            streamed = nbytes if block not in resident else 0
            fits = bytes_of_step + streamed <= limit if streamed else True
            if bytes_of_step and not streamed and not after_streamed:
                fits = False
            if (self.outline.joinable[block] and fits) or block in self.outline.bound:
                joined.append(block)
                bytes_of_step += streamed
            else:
                bytes_of_step = streamed
        return frozenset(joined)

    def _fill(self, order: Sequence[int], room: int) -> Iterator[int]:
        for block in order:
            if self.outline.nbytes[block] <= room:
                room -= self.outline.nbytes[block]
                yield block

    def _improve(self, candidate: Candidate) -> None:
        """Move to the first neighbour that is better, until there is none."""
        better: Candidate | None = candidate
        while better is not None:
            candidate = self._with_joins(better)
            better = self._better(candidate, self._neighbours(candidate))

    def _with_joins(self, candidate: Candidate) -> Candidate:
        """The candidate after one pass over its blocks, with each join that is better."""
        # A join that was worse is seldom better after another: only the neighbours try it again.
        for block in self._joinable:
            joined = candidate.choice.joined
            if block not in joined:
                choice = candidate.choice._replace(joined=joined | {block})
                candidate = self._better(candidate, [choice]) or candidate
        return candidate

    def _better(self, candidate: Candidate, choices: Iterable[Choice]) -> Candidate | None:
        """The first of these choices that is better, while effort is left."""
        for choice in choices:
            found = self._try(choice)
            if found is not None and _is_better(found, candidate):
                return found
            if self.simulated_events >= self._effort:
                break
        return None

    def _neighbours(self, candidate: Candidate) -> Iterator[Choice]:
        # The search moves to the first neighbour that is better and its effort is limited, so the
        # order decides how far it comes. Joining is better once in seven times, other residents
        # once in a hundred, all else hardly ever. At the end are changes that help only in pairs.
        # Two blocks that join at once pass a state in which each alone is worse. With other
        # residents the ring no longer ends where a block does, and other joins are possible.
        choice = candidate.choice
        joinable = self._joinable
        for block in joinable:
            if block not in choice.joined:
                yield choice._replace(joined=choice.joined | {block})
        if self._resident:
            yield from self._other_residents(candidate)
        for ring in self._rings(choice):
            yield choice._replace(ring_bytes=ring)
        for block in choice.joined.intersection(joinable):
            yield choice._replace(joined=choice.joined - {block})
        for pair in combinations(joinable, 2):
            yield choice._replace(joined=choice.joined ^ {*pair})
        for other in self._other_residents(candidate) if self._resident else ():
            for ring in self._rings(other):
                yield other._replace(ring_bytes=ring)
            for block in joinable:
                yield other._replace(joined=choice.joined ^ {block})

    def _rings(self, choice: Choice) -> list[int]:
        """Sizes of the largest rings that consecutive streamed blocks fill to the end."""
        nbytes = [self.outline.nbytes[b] for b in self._swapped if b not in choice.resident]
        ends = [0, *accumulate(nbytes)]
        sums = {end for end in ends if 0 < end <= choice.ring_bytes}
        for first, start in enumerate(ends[:-1]):
            last = bisect_right(ends, start + choice.ring_bytes) - 1
            if last > first:
                sums.add(ends[last] - start)
        return sorted(sums, reverse=True)[: 2 * _NEAR]

    def _other_residents(self, candidate: Candidate) -> Iterator[Choice]:
        """Choices in which a block near a long wait becomes resident, one leaves, or both."""
        choice, nbytes = candidate.choice, self.outline.nbytes
        spans = candidate.spans
        waits = sorted(range(len(spans)), key=lambda s: -candidate.stalls_ms[s])
        wanted = list(
            dict.fromkeys(
                block
                for step in waits
                for block in range(spans[step][1], max(spans[step][0] - _NEAR, -1), -1)
                if nbytes[block] and block not in choice.resident
            )
        )
        wanted += [b for b in self._swapped if b not in choice.resident and b not in set(wanted)]
        kept = sorted(choice.resident, key=self._density)
        for block in wanted:
            yield self._with(choice, add=block)
        for block in kept:
            yield self._with(choice, remove=block)
        for block in wanted:
            for other in kept:
                yield self._with(choice, add=block, remove=other)

    def _with(self, choice: Choice, add: int | None = None, remove: int | None = None) -> Choice:
        resident = choice.resident | {add} if add is not None else choice.resident
        resident = resident - {remove} if remove is not None else resident
        return Choice(resident, choice.joined, self._left(resident))

    def _left(self, resident: frozenset[int]) -> int:
        """Bytes for the ring beside these residents."""
        return self._available - sum(map(self.outline.nbytes.__getitem__, resident))

    def _density(self, block: int) -> float:
        return self.outline.nbytes[block] / (self._ms[block] or 1e-9)

    def _evenly_in_time(self, blocks: Sequence[int], room: int) -> list[int]:
        """Residents such that streamed bytes grow in proportion to time."""
        ends_ms = list(accumulate(self._ms))
        streamed = sum(self.outline.nbytes[b] for b in blocks) - room
        chosen: list[int] = []
        others: list[int] = []
        read = 0
        for block in blocks:
            nbytes = self.outline.nbytes[block]
            if read + nbytes / 2 > streamed * ends_ms[block] / (ends_ms[-1] or 1.0):
                chosen.append(block)
            else:
                others.append(block)
                read += nbytes
        return chosen + others

    def _every_nth(self, blocks: Sequence[int], room: int) -> list[int]:
        total = sum(self.outline.nbytes[b] for b in blocks)
        seen = kept = 0
        chosen: list[int] = []
        others: list[int] = []
        for block in blocks:
            nbytes = self.outline.nbytes[block]
            seen += nbytes
            if kept + nbytes <= room * seen / total:
                chosen.append(block)
                kept += nbytes
            else:
                others.append(block)
        return chosen + others


def parted(choice: Choice, outline: Outline, delays: Delays, most_ms: float) -> Choice:
    """The choice with its steps parted to at most ``most_ms``, unless one block takes longer."""
    joined: list[int] = []
    first = 0
    for block in range(len(outline.nbytes)):
        fits = block in choice.joined and delays.step(first, block)[0] <= most_ms
        if fits or block in outline.bound:
            joined.append(block)
        else:
            first = block
    return choice._replace(joined=frozenset(joined))


def _is_better(one: Candidate, other: Candidate) -> bool:
    if one.cost_ms < other.cost_ms / (1 + (ALIKE - 1) / 2):
        return True
    return one.cost_ms <= other.cost_ms and one.streamed_bytes < other.streamed_bytes
