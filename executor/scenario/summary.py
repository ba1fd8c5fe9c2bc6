"""Rounds of all ways to share a budget, summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import msgspec

from swapnet.executor.bench.statistics import Summary, summarise
from swapnet.executor.scenario.expected_outputs import ExpectedOutputs
from swapnet.executor.scenario.messages import Moment, RoundResult, Served
from swapnet.executor.scenario.report import Phase, Way
from swapnet.executor.scenario.scenario import Entry
from swapnet.executor.scenario.steps import BudgetStep

__all__ = ["Played", "Summing", "bound_ms", "latencies", "samples", "summary"]


@dataclass(frozen=True)
class Played:
    """Result of one way.

    Attributes
    ----------
    rounds
        Fewer than of others where it failed.
    peak_bytes
        Peak above what is not its budget's; None where it is not known.
    note
        Reason why it failed.
    """

    rounds: tuple[RoundResult, ...] = ()
    peak_bytes: int | None = None
    note: str = ""

    @property
    def served(self) -> list[Served]:
        """All requests."""
        return [request for turn in self.rounds for request in turn.served]


@dataclass(frozen=True)
class Summing:
    """Sums up requests of one scenario.

    Attributes
    ----------
    entries
        DNNs of the scenario.
    answers
        The right outputs.
    """

    entries: Sequence[Entry]
    answers: ExpectedOutputs

    def weighted_ms(self, served: Iterable[Served]) -> float | None:
        """Mean latency of what did not fail, weighted by priority."""
        pairs = [(self.entries[s.model].priority, s.latency_ms) for s in served if not s.error]
        weight = sum(priority for priority, _ in pairs)
        return sum(priority * ms for priority, ms in pairs) / weight if pairs else None

    def ratio(self, ours: Played, others: Played) -> float | None:
        """Weighted latency of others over ours: the median over rounds."""
        return _ratio(others, ours, self.weighted_ms)

    def ratio_of(self, model: int, ours: Played, unlimited: Played) -> float | None:
        """Mean latency of one DNN over that with unlimited memory: the median over rounds."""

        def mean_ms(served: Iterable[Served]) -> float | None:
            found = latencies(served, model)
            return mean(found) if found else None

        return _ratio(ours, unlimited, mean_ms)

    def wrong(self, served: Iterable[Served]) -> int:
        """Requests that were answered otherwise than with unlimited memory."""
        return sum(
            not s.error and not self.answers.are_right((s.model, s.sample, s.digest))
            for s in served
        )

    def misses(self, served: Iterable[Served]) -> int:
        """Requests that ended after their deadline."""
        deadlines = [entry.deadline_ms for entry in self.entries]
        return sum(
            not s.error and (limit := deadlines[s.model]) is not None and s.latency_ms > limit
            for s in served
        )

    def way(self, played: Played) -> Way:
        """One way in short."""
        served = played.served
        return Way(
            weighted_latency_ms=self.weighted_ms(served),
            latency_ms={
                entry.name: summary(latencies(served, index))
                for index, entry in enumerate(self.entries)
            },
            requests=len(served),
            failures=sum(bool(s.error) for s in served),
            wrong_outputs=self.wrong(served),
            deadline_misses=self.misses(served),
            read_bytes=sum(sum(turn.read_bytes) for turn in played.rounds),
            peak_bytes=played.peak_bytes,
            note=played.note,
        )

    def phases(
        self,
        steps: Sequence[BudgetStep],
        budget_bytes: int,
        seconds: float,
        ours: Played,
        unlimited: Played,
    ) -> tuple[Phase, ...]:
        """The run in parts of one budget; none where it did not change.

        Parameters
        ----------
        steps, budget_bytes
            Changes, and the budget before.
        seconds
            Length of one round's traffic.
        ours, unlimited
            The rounds.
        """
        if not steps:
            return ()
        run_s = seconds * len(ours.rounds)
        borders = [0.0, *(step.share * run_s for step in steps), run_s]
        budgets = [budget_bytes, *(step.budget_bytes for step in steps)]
        took = [None, *(change.took_ms for turn in ours.rounds for change in turn.changed)]
        phases = []
        for index, (nbytes, ms) in enumerate(zip(budgets, took, strict=True)):
            start, end = borders[index : index + 2]
            last = index == len(steps)
            mine, theirs = (
                [
                    request
                    for turn, round_ in enumerate(played.rounds)
                    for request in round_.served
                    if start <= (due := turn * seconds + request.due_s) and (due < end or last)
                ]
                for played in (ours, unlimited)
            )
            phases.append(
                Phase(
                    budget_bytes=nbytes,
                    start_s=start,
                    end_s=end,
                    rebalance_ms=ms,
                    requests=len(mine),
                    failures=sum(bool(s.error) for s in mine),
                    weighted_latency_ms=self.weighted_ms(mine),
                    unlimited_weighted_latency_ms=self.weighted_ms(theirs),
                )
            )
        return tuple(phases)

    def errors(self, served: Iterable[Served]) -> dict[str, str]:
        """Reason of the first failed request, by DNN."""
        errors: dict[str, str] = {}
        for request in served:
            if request.error:
                errors.setdefault(self.entries[request.model].name, request.error)
        return errors


def latencies(served: Iterable[Served], model: int) -> list[float]:
    """Latencies of one DNN's requests that did not fail."""
    return [s.latency_ms for s in served if s.model == model and not s.error]


def summary(latency_ms: Sequence[float]) -> Summary | None:
    """Summary of latencies; None without any."""
    return summarise(latency_ms) if latency_ms else None


def bound_ms(
    compute_ms: float,
    *,
    weights_bytes: int,
    read_bytes: float,
    share_bytes: int,
    storage_bytes_per_s: float,
) -> float:
    """Lower bound of an inference: computing, or reading what the ring does not hold.

    Parameters
    ----------
    compute_ms
        Time of computing alone, with everything in memory.
    weights_bytes, read_bytes
        Bytes of the DNN, and read in one inference.
    share_bytes
        Memory for weights; the ring is what resident ones leave of it.
    storage_bytes_per_s
        Bandwidth of idle storage; 0 where there is nothing to read.
    """
    if not storage_bytes_per_s:
        return compute_ms
    ring_bytes = max(share_bytes - (weights_bytes - read_bytes), 0.0)
    return max(compute_ms, max(read_bytes - ring_bytes, 0.0) / storage_bytes_per_s * 1e3)


def samples(played: Played) -> tuple[Moment, ...]:
    """Moments of all rounds, one after the other."""
    found: list[Moment] = []
    before = 0.0
    for turn in played.rounds:
        found += [msgspec.structs.replace(m, time_s=before + m.time_s) for m in turn.moments]
        before += turn.seconds
    return tuple(found)


def _ratio(
    above: Played, below: Played, figure: Callable[[Iterable[Served]], float | None]
) -> float | None:
    pairs = zip(above.rounds, below.rounds, strict=False)
    figures = ((figure(one.served), figure(other.served)) for one, other in pairs)
    ratios = [one / other for one, other in figures if one and other]
    return median(ratios) if ratios else None
