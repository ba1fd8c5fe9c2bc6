"""Measure an engine with blocks in strips of rows: its memory, and whether bits stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf, prod
from typing import NamedTuple

from swapnet.errors import BudgetError
from swapnet.executor.backends.strips import rows_of
from swapnet.executor.planning.layout import largest_within, late_outputs
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.usage import least_bytes
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest
from swapnet.strips import Run, Striped, Striping, strips_of
from swapnet.tensors import ELEMENT_BYTES
from swapnet.units import align_up

__all__ = ["Trial", "find_stripings"]

_COUNTS = (2, 4, 8, 16)
_TARGETS = (0.4, 0.2, 0.1, 0.05, 0.02, 0.0)
"""Memory that is aimed at, as parts of the way from the least that is possible to the whole."""
_LEAST_BYTES = 1 << 20
"""Smallest memory that is tried to make smaller."""
_PER_VALUE = 16
_PER_STRIP = 4e6
_PER_BYTE = 16
"""Work of an element of a value, of a call, and of reading a byte, in multiplications."""
_SPARE_UNITS = 2
"""Units that strips have at least where heights vary: other heights may leave more rows over."""
_ROWS = 2
"""The axis of rows."""
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
    whole = Striping((), manifest.session_memory.scratch_bytes, *late_outputs(manifest, ()))
    if not saves_little(whole):
        found.append(whole)
        smallest = least_bytes(manifest, whole)
    peaks: dict[tuple[Striped, ...], int] = {}
    """Peak of the runs in each way that was tried: other ways with these runs have it too."""
    for part in _TARGETS:
        spread = ways.most_bytes - ways.least_bytes
        runs = ways.cheapest(ways.least_bytes + int(spread * part))
        late = late_outputs(manifest, runs)
        beside = _scratch_beside(manifest, runs)
        known = (nbytes for others, nbytes in peaks.items() if {*others} <= {*runs})
        at_least = max(beside, *known, 0) + spare_bytes
        if not runs or runs in peaks or saves_little(Striping(runs, at_least, *late)):
            continue
        peaks[runs] = 0
        steps = _steps(manifest, runs)
        with suppress(BudgetError):  # it needs more than what is saved
            peak, digests = trial(steps, smallest)
            peaks[runs] = peak if peak > beside else 0
            if digests != expected or saves_little(Striping(runs, peak + spare_bytes, *late)):
                continue
            striping = Striping(runs, limit(steps, peak), *late)
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
    steps = [Step(b.index, b.index, 0) for b in manifest.blocks if b.index not in inside]
    for run in runs:
        blocks = [(b, b) for b in range(run.first, run.last + 1)]
        spans = blocks if run.apart else [(run.first, run.last)]
        strips = range(run.count) if run.apart else (None,)
        steps += [Step(first, last, 0, run, strip) for strip in strips for first, last in spans]
    return sorted(steps, key=lambda step: step.strips.first if step.strips else step.first)


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
        whole = [
            _Way(b.index, largest_within(manifest, b.index, b.index), b.activation_bytes, 0.0, None)
            for b in manifest.blocks
        ]
        self._ways = [[way] for way in whole]
        """By the last block."""
        self.most_bytes = max(way.values_bytes for way in whole)
        self.most_bytes += max(way.scratch_bytes for way in whole)
        costs = _costs(manifest)
        for run in manifest.runs:
            blocks = slice(run.first, run.last + 1)
            most_scratch = max(block.activation_bytes for block in manifest.blocks[blocks])
            weights = sum(manifest.block_bytes[blocks])
            for striped in _striped(manifest, run, heights):
                scratch = round(striped.work / striped.count * most_scratch)
                cost = (striped.work - 1) * sum(costs[blocks]) + striped.count * _PER_STRIP
                if striped.apart:
                    again = (run.last - run.first) * _PER_STRIP + weights * _PER_BYTE
                    cost += (striped.count - 1) * again
                nbytes = largest_within(manifest, run.first, run.last, striped)
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


def _costs(manifest: Manifest) -> list[float]:
    """Estimated work of each block, in multiplications."""
    costs: list[float] = []
    for block in manifest.blocks:
        written = [manifest.tensors[name] for name in block.outputs]
        elements = [tensor.nbytes // ELEMENT_BYTES[tensor.dtype] for tensor in written]
        channels = (t.shape[1] if len(t.shape) > _ROWS else 0 for t in written)
        pairs = zip(elements, channels, strict=True)
        pixels = [number // c for number, c in pairs if isinstance(c, int) and c]
        weights = (prod(weight.shape) for weight in manifest.weights_of(block.index))
        costs.append(max(pixels, default=1) * sum(weights) + _PER_VALUE * sum(elements))
    return costs


def _striped(manifest: Manifest, run: Run, heights: Mapping[str, int]) -> Iterator[Striped]:
    """The run in each number of strips that differs from the others."""
    rows, tensors = rows_of(manifest, run), manifest.tensors
    is_exact = all(isinstance(tensors[name].shape[2], int) for name in rows)
    apart = sum(manifest.block_bytes[run.first : run.last + 1]) > max(manifest.block_bytes)
    numbers = {len(strips_of(run, heights, count).strips) for count in _COUNTS}
    for number in sorted(numbers - {1}):
        strips = strips_of(run, heights, number)
        if is_exact or strips.crop_units > run.above + run.below + _SPARE_UNITS:
            cut = {name: heights[name] - strips.left_out(each) for name, each in rows.items()}
            nbytes = {
                name: align_up(height * (tensors[name].nbytes // heights[name]), TENSOR_ALIGNMENT)
                for name, height in cut.items()
            }
            yield Striped(run.first, run.last, number, nbytes, strips.work, apart)
