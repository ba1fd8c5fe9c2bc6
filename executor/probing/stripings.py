"""Measure an engine with blocks in strips of rows: its memory, and whether bits stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf, prod
from typing import NamedTuple

import msgspec

from swapnet.errors import BackendError, BudgetError
from swapnet.executor.backends.strips import rows_of, run_of
from swapnet.executor.planning.layout import largest_within, late_outputs
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.usage import least_bytes
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest
from swapnet.strips import Run, Striped, Striping, strips_of
from swapnet.tensors import ELEMENT_BYTES
from swapnet.units import align_up

__all__ = [
    "OtherBits",
    "find_stripings",
    "steps_with",
    "strip_steps",
    "ways_to_try",
    "with_stripings",
]

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


class OtherBits(Exception):
    """A run in strips gives other bits than the whole."""


def ways_to_try(manifest: Manifest, heights: Mapping[str, int]) -> list[tuple[Striped, ...]]:
    """Ways to execute an engine, each with less memory than the one before by estimates.

    Parameters
    ----------
    manifest
        The engine, with what its blocks need.
    heights
        Rows of each tensor.
    """
    ways = _Ways(manifest, heights)
    if not manifest.runs or ways.most_bytes < _LEAST_BYTES:
        return []
    spread = ways.most_bytes - ways.least_bytes
    found = (ways.cheapest(ways.least_bytes + int(spread * part)) for part in _TARGETS)
    return list(dict.fromkeys(((), *found)))


def find_stripings(
    manifest: Manifest,
    ways: Sequence[tuple[Striped, ...]],
    limit_of: Callable[[Striped], int],
    together: Callable[[tuple[Striped, ...], int], int],
    spare_bytes: int,
) -> tuple[Striping, ...]:
    """Ways to execute an engine in strips, each with less memory than the one before.

    Parameters
    ----------
    manifest
        The engine, with what its blocks need.
    ways
        `ways_to_try`.
    limit_of
        Executes one run alone, and compares bits: the limit of an arena under which it runs. Raises
        `OtherBits`, BudgetError, or BackendError where ONNX Runtime refuses a strip.
    together
        The limit under which the engine runs, from the largest of its runs and other blocks on.
    spare_bytes
        Difference of the limit that is written and the one that is found.
    """
    most = least_bytes(manifest, None)
    limits: dict[Striped, int] = {}
    found: list[Striping] = []

    def tried(runs: tuple[Striped, ...]) -> Striping | None:
        late, beside = late_outputs(manifest, runs), _scratch_beside(manifest, runs)

        def saving(limit: int) -> Striping | None:
            striping = Striping(runs, limit + spare_bytes, *late)
            smallest = least_bytes(manifest, found[-1]) if found else most
            return striping if least_bytes(manifest, striping) * _GAIN < smallest else None

        unknown = [run for run in runs if run not in limits]
        while saving(limit := max(beside, *(limits.get(run, 0) for run in runs), 0)):
            if not unknown:
                return saving(together(runs, limit))
            run = unknown.pop()
            limits[run] = most  # strips that do not run, or give other bits, save nothing
            with suppress(BackendError, BudgetError, OtherBits):
                limits[run] = limit_of(run)
        return None

    for runs in ways:
        with suppress(BudgetError):
            found += filter(None, [tried(runs)])
    return tuple(found)


def with_stripings(manifest: Manifest, stripings: tuple[Striping, ...]) -> Manifest:
    """The manifest with these ways; other runs stay where inputs may have other shapes."""
    spans = {(run.first, run.last) for striping in stripings for run in striping.runs}
    is_open = any(tensor.is_symbolic for tensor in manifest.inputs)
    runs = tuple(run for run in manifest.runs if is_open or (run.first, run.last) in spans)
    return msgspec.structs.replace(manifest, runs=runs, stripings=stripings)


def _inside(runs: Sequence[Striped]) -> set[int]:
    return {block for run in runs for block in range(run.first, run.last + 1)}


def _scratch_beside(manifest: Manifest, runs: Sequence[Striped]) -> int:
    """What blocks that are not in strips take of the arena."""
    inside = _inside(runs)
    return max((b.activation_bytes for b in manifest.blocks if b.index not in inside), default=0)


def strip_steps(striped: Striped, strips: Iterable[int]) -> list[Step]:
    """Steps that execute some strips of a run."""
    blocks = [(b, b) for b in range(striped.first, striped.last + 1)]
    spans = blocks if striped.apart else [(striped.first, striped.last)]
    return [Step(first, last, 0, striped, strip) for strip in strips for first, last in spans]


def few_strips(manifest: Manifest, heights: Mapping[str, int], striped: Striped) -> list[int]:
    """The first strip of a run, one between, and the last.

    All have the same shapes, and so the same memory and the same order of sums. Those between the
    first and the last meet the same phase of strides, and have no true border.
    """
    count = len(strips_of(run_of(manifest, striped), heights, striped.count).strips)
    return sorted({0, count // 2, count - 1})


def steps_with(manifest: Manifest, runs: Sequence[Striped]) -> list[Step]:
    """The first and the last strip of each run, and steps of one block for all others."""
    inside = _inside(runs)
    steps = [[Step(b.index, b.index, 0)] for b in manifest.blocks if b.index not in inside]
    steps += [strip_steps(run, (0, run.count - 1)) for run in runs]
    return [step for each in sorted(steps, key=lambda each: each[0].first) for step in each]


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
    is_exact = all(isinstance(tensors[name].shape[r.axis], int) for name, r in rows.items())
    apart = sum(manifest.block_bytes[run.first : run.last + 1]) > max(manifest.block_bytes)
    numbers = {len(strips_of(run, heights, count).strips) for count in _COUNTS}
    for number in sorted(numbers - {1}):
        strips = strips_of(run, heights, number)
        if is_exact or strips.crop_units > run.above + run.below + _SPARE_UNITS:
            # Rows that are left over at another height then need no strip more than are planned.
            spare = int(apart and not is_exact)
            cut = {
                name: heights[name] - max(strips.left_out(each) - spare * each.per_unit, 0)
                for name, each in rows.items()
            }
            nbytes = {
                name: align_up(height * (tensors[name].nbytes // heights[name]), TENSOR_ALIGNMENT)
                for name, height in cut.items()
            }
            yield Striped(run.first, run.last, number, nbytes, strips.work, apart)
