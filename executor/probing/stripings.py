"""Measure an engine with blocks in strips of rows: its memory, and whether bits stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import NamedTuple

from swapnet.errors import BudgetError
from swapnet.executor.backends.strips import buffer_bytes
from swapnet.executor.planning.layout import Interval, inside_run, largest_sum, lives_of, span_of
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.usage import least_bytes
from swapnet.manifest import Manifest
from swapnet.strips import Run, Striped, Striping, strips_of

__all__ = ["Trial", "find_stripings"]

_COUNTS = (2, 4, 8, 16)
_TARGETS = (0.5, 0.25, 0.12, 0.06, 0.0)
"""Memory that is aimed at, as parts of the way from the least that is possible to the whole."""
_LEAST_BYTES = 1 << 20
"""Smallest memory that is tried to make smaller."""
_GAIN = 1.02
"""Smallest budget over that of the next way to execute: less is not worth more strips."""

Trial = Callable[[Sequence[Step], int], tuple[int, list[str]]]
"""Runs steps in an arena of so many bytes; its peak, and digests of the outputs."""


def find_stripings(
    manifest: Manifest,
    heights: Mapping[str, int],
    expected: Sequence[str],
    trial: Trial,
    limit: Callable[[Sequence[Step], int], int],
    spare_bytes: int,
) -> tuple[Striping, ...]:
    """Ways to execute an engine in strips, each with less memory than the one before.

    Parameters
    ----------
    manifest
        The engine, with what its blocks need.
    heights
        Rows of each tensor.
    expected
        Digests of the outputs of steps of one block each.
    trial
        Runs steps.
    limit
        The limit of an arena under which steps run, from a peak on.
    spare_bytes
        Difference of the limit and the peak at least.
    """
    ways = _Ways(manifest, heights)
    if not manifest.runs or ways.most_bytes < _LEAST_BYTES:
        return ()
    smallest = least_bytes(manifest, None)

    def saves_little(striping: Striping) -> bool:
        return least_bytes(manifest, striping) * _GAIN >= smallest

    found: list[Striping] = []
    peaks: dict[tuple[Striped, ...], int] = {}
    """Peak of the runs in each way that was tried: other ways with these runs have it too."""
    for part in _TARGETS:
        spread = ways.most_bytes - ways.least_bytes
        runs = ways.cheapest(ways.least_bytes + int(spread * part))
        beside = _scratch_beside(manifest, runs)
        known = (nbytes for others, nbytes in peaks.items() if {*others} <= {*runs})
        at_least = max(beside, *known, 0) + spare_bytes
        if not runs or runs in peaks or saves_little(Striping(runs, at_least)):
            continue
        peaks[runs] = 0
        steps = _steps(manifest, runs)
        with suppress(BudgetError):  # it needs more than what is saved
            peak, digests = trial(steps, smallest)
            peaks[runs] = peak if peak > beside else 0
            if digests != expected or saves_little(Striping(runs, peak + spare_bytes)):
                continue
            striping = Striping(runs, limit(steps, peak))
            if not saves_little(striping):
                found.append(striping)
                smallest = least_bytes(manifest, striping)
    return tuple(found)


def _inside(runs: Sequence[Striped]) -> set[int]:
    return {block for run in runs for block in range(run.first, run.last + 1)}


def _scratch_beside(manifest: Manifest, runs: Sequence[Striped]) -> int:
    """What blocks that are not in strips take of the arena."""
    inside = _inside(runs)
    return max((b.activation_bytes for b in manifest.blocks if b.index not in inside), default=0)


def _steps(manifest: Manifest, runs: Sequence[Striped]) -> list[Step]:
    """The runs, and steps of one block for all others."""
    inside = _inside(runs)
    others = [Step(b.index, b.index, 0) for b in manifest.blocks if b.index not in inside]
    strips = [Step(run.first, run.last, 0, run) for run in runs]
    return sorted([*others, *strips], key=lambda step: step.first)


class _Way(NamedTuple):
    """Blocks ``first`` to ``last`` in strips, or one block whole, with estimates."""

    first: int
    values_bytes: int
    scratch_bytes: int
    cost: float
    striped: Striped | None


class _Ways:
    """Ways to execute blocks; values and scratch lie apart, so the largest of each count."""

    def __init__(self, manifest: Manifest, heights: Mapping[str, int]) -> None:
        lives = lives_of(manifest)
        values = [Interval(v.name, v.nbytes, *lives[v.name]) for v in manifest.values]

        def alive(first: int, last: int) -> list[Interval]:
            start, stop = span_of(manifest, first, last)
            kept = (v for v in values if v.first <= stop and start <= v.last)
            return [replace(v, first=max(v.first, start), last=min(v.last, stop)) for v in kept]

        whole = [
            _Way(b.index, largest_sum(alive(b.index, b.index)), b.activation_bytes, 0.0, None)
            for b in manifest.blocks
        ]
        self._ways = [[way] for way in whole]
        """By the last block."""
        self.most_bytes = max(way.values_bytes for way in whole)
        self.most_bytes += max(way.scratch_bytes for way in whole)
        for run in manifest.runs:
            inside, around = inside_run(manifest, run), alive(run.first, run.last)
            blocks = manifest.blocks[run.first : run.last + 1]
            kept = sum(value.nbytes for value in around if value.name not in inside)
            inner = largest_sum([value for value in around if value.name in inside])
            inner += max(block.activation_bytes for block in blocks)
            inner += sum(manifest.tensors[name].nbytes for name in run.outputs)
            operators = sum(len(block.operators) for block in blocks)
            weights = sum(manifest.block_bytes[run.first : run.last + 1])
            more_weights = max(0, weights - max(manifest.block_bytes))
            for striped in _striped(manifest, run, heights):
                scratch = round(striped.work / striped.count * inner) + more_weights
                cost = (striped.work - 1) * operators + striped.count / 64
                nbytes = kept + striped.buffer_bytes
                self._ways[run.last].append(_Way(run.first, nbytes, scratch, cost, striped))
        self._limits = sorted({way.scratch_bytes for ways in self._ways for way in ways})
        self.least_bytes = round(min(limit + self._least_values(limit) for limit in self._limits))

    def _least_values(self, scratch_bytes: int) -> float:
        best: list[float] = [0]
        for ways in self._ways:
            fitting = (way for way in ways if way.scratch_bytes <= scratch_bytes)
            options = (max(best[way.first], way.values_bytes) for way in fitting)
            best.append(min(options, default=inf))
        return best[-1]

    def cheapest(self, nbytes: int) -> tuple[Striped, ...]:
        """The runs in strips that compute the fewest rows twice within ``nbytes``.

        By dynamic programming over the blocks. ``nbytes`` is `least_bytes` or more.
        """
        found = (self._cheapest(limit, nbytes - limit) for limit in self._limits)
        return min(found, key=lambda option: option[0])[1]

    def _cheapest(self, scratch_bytes: int, values_bytes: int) -> tuple[float, tuple[Striped, ...]]:
        best: list[tuple[float, tuple[Striped, ...]]] = [(0.0, ())]
        for ways in self._ways:
            options = [
                (best[way.first][0] + way.cost, (*best[way.first][1], *filter(None, [way.striped])))
                for way in ways
                if way.scratch_bytes <= scratch_bytes and way.values_bytes <= values_bytes
            ]
            best.append(min(options, key=lambda option: option[0], default=(inf, ())))
        return best[-1]


def _striped(manifest: Manifest, run: Run, heights: Mapping[str, int]) -> Iterator[Striped]:
    """The run in each number of strips that differs from the others."""
    sizes = {name: (heights[name], manifest.tensors[name].nbytes) for name in run.inputs}
    numbers = {len(strips_of(run, heights, count).strips) for count in _COUNTS}
    for number in sorted(numbers - {1}):
        strips = strips_of(run, heights, number)
        yield Striped(run.first, run.last, number, buffer_bytes(run, strips, sizes), strips.work)
