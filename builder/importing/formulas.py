"""Sizes of values as formulas of the model's symbols: so that memory is planned for any input.

ONNX Runtime knows the shapes of a value only while it runs. The model runs at several small sizes,
and each dimension gets the simplest formula that explains all of them. Whoever uses a formula gives
ONNX Runtime memory of that shape, which it compares with the true one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from swapnet.builder.importing.graph import Graph, bodies, used_names
from swapnet.builder.importing.shapes import shapes_at
from swapnet.builder.importing.symbols import cached_sizes
from swapnet.symbols import model_symbols

__all__ = ["Solver", "known_by_shapes", "trial_sizes", "with_formulas"]

_BY_FIRST = frozenset({"ConstantOfShape", "Range", "HannWindow", "HammingWindow", "BlackmanWindow"})
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Equal", "Less", "Greater", "Where"}
    | {"LessOrEqual", "GreaterOrEqual", "And", "Or", "Concat", "Gather"}
)
"""Operators that take shapes first, and those of several inputs that take none."""
_FIRST_SIZE = {"GroupQueryAttention": 6}
"""The first input that may be a size, where it is not the second: those before are lengths of rows,
which say where values are written (com.microsoft.GroupQueryAttention)."""

Column = npt.NDArray[np.int64]
"""A size at each of the trials."""

_SHARES = (1 / 8, 3 / 16, 1 / 4, 5 / 16)
_ODD = (1, 17, 7, 30, 13)
"""Sizes to try: parts of the planned size, and numbers that are added to such a part."""

_FEW = 16
_FEWEST_TRIALS = 4
"""Number of different sizes without which a formula is a guess."""
_LARGEST_FACTOR = 64

_BY_DATA = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "If", "Scan"})
"""Operators whose output has as many elements as the data says."""


def with_formulas(graph: Graph, types_path: Path) -> Graph:
    """The graph with a formula for each dimension that follows from the model's symbols.

    A formula is an expression of ``_0``, ``_1`` …: sizes of the symbols of the inputs, in order.

    Parameters
    ----------
    graph
        With planned shapes.
    types_path
        As for `plan_shapes`.
    """
    symbols = model_symbols(graph.inputs)
    if not symbols or not graph.symbols.keys() >= set(symbols):
        return graph
    known = known_by_shapes(graph)
    names = [n for n, v in graph.values.items() if n in known and not _is_fixed(v.shape)]
    ends = {value.name: value.planned for value in graph.inputs}
    planned = {symbol: graph.symbols[symbol] for symbol in symbols}
    trials = [planned]
    for number, trial in enumerate(trial_sizes(list(planned.values()), symbols)):
        sizes = cached_sizes(graph.inputs, trial, is_first=number % 2 == 0)
        trials += [sizes] if sizes not in trials else []
    rows: list[tuple[Mapping[str, int], Mapping[str, tuple[int, ...]]]] = [
        (planned, {name: graph.values[name].planned for name in names})
    ]
    found = shapes_at(graph, types_path, [n for n in names if n not in ends], trials[1:])
    rows += [(sizes, shapes) for sizes, shapes in zip(trials[1:], found, strict=True) if shapes]
    if len(rows) < _FEWEST_TRIALS:
        return graph
    columns = [np.array([sizes[s] for sizes, _ in rows], np.int64) for s in symbols]
    return replace(graph, formulas=_formulas(graph, columns, [shapes for _, shapes in rows]))


def _is_fixed(shape: Iterable[int | str]) -> bool:
    return all(isinstance(dim, int) for dim in shape)


def _formulas(
    graph: Graph, symbols: Sequence[Column], rows: Sequence[Mapping[str, tuple[int, ...]]]
) -> dict[str, str]:
    """Formula of each dimension by its name; of a name with several meanings none."""
    traces: dict[str, set[tuple[int, ...]]] = {}
    for name in rows[0]:
        shape = graph.values[name].shape
        if all(len(row.get(name, shape)) == len(shape) for row in rows[1:]):
            for axis, dim in enumerate(shape):
                if isinstance(dim, str) and all(name in row for row in rows[1:]):
                    traces.setdefault(dim, set()).add(tuple(row[name][axis] for row in rows))
    alone = {dim: next(iter(trace)) for dim, trace in traces.items() if len(trace) == 1}
    solver = Solver(symbols)
    first = {trace: solver.of_one(np.array(trace)) for trace in set(alone.values())}
    basis = [(formula, np.array(trace)) for trace, formula in first.items() if formula]
    found = {t: f or solver.of_several(np.array(t), basis) for t, f in first.items()}
    return {dim: formula for dim, trace in alone.items() if (formula := found[trace])}


@dataclass(frozen=True)
class Solver:
    """Formulas that give a column of sizes, from columns of symbols."""

    symbols: Sequence[Column]

    def of_one(self, trace: Column) -> str | None:
        """``factor * floor((symbol + a) / step) + rest``: strides, padding and resizing give it."""
        if (trace == trace[0]).all():
            return str(int(trace[0]))
        factors = gcd(*(int(n) for n in np.diff(trace)))
        for factor in range(1, min(factors, _LARGEST_FACTOR) + 1):
            if factors % factor == 0:
                for index, symbol in enumerate(self.symbols):
                    if formula := _floored(trace, symbol, f"_{index}", factor):
                        return formula
        return None

    def of_several(self, trace: Column, basis: Sequence[tuple[str, Column]]) -> str | None:
        """A product of two or three of ``basis`` with a factor, or the sum of two."""
        for count in (2, 3):
            for chosen in combinations(basis, count) if len(basis) < _FEW * count else ():
                product = np.prod([column for _, column in chosen], axis=0)
                factor = int(trace[0]) // max(int(product[0]), 1)
                if factor and (factor * product == trace).all():
                    terms = [f"({formula})" for formula, _ in chosen]
                    return "*".join([str(factor), *terms] if factor > 1 else terms)
        for (one, first), (other, second) in combinations(basis, 2):
            if (first + second == trace).all():
                return f"{one}+{other}"
        return None


def _floored(trace: Column, symbol: Column, name: str, factor: int) -> str | None:
    low, high = int(symbol.argmin()), int(symbol.argmax())
    spread = int(symbol[high] - symbol[low])
    rise = (int(trace[high]) - int(trace[low])) // factor
    if rise <= 0:
        return None
    most = spread // (rise - 1) if rise > 1 else spread + 1
    steps = range(max(spread // (rise + 1), 1), most + 1)
    for step in sorted(steps, key=lambda step: (-(step & -step), step)):
        added = np.arange(step)[:, None]
        rests = trace - factor * ((symbol + added) // step)
        fitting = np.flatnonzero((rests == rests[:, :1]).all(axis=1))
        if len(fitting):
            # Strides round down or up, the first of them otherwise than the last at most.
            powers = [1 << bit for bit in range(step.bit_length())]
            usual = [0, step - 1, *(p - 1 for p in powers), *(step - p for p in powers)]
            chosen = next((a for a in usual if a in fitting), int(fitting[len(fitting) // 2]))
            rest = int(rests[chosen, 0])
            inner = f"({name}+{chosen})//{step}" if chosen else f"{name}//{step}"
            inner = name if step == 1 else inner
            formula = f"{factor}*({inner})" if factor > 1 else inner
            return f"{formula}{rest:+d}" if rest else formula
    return None


def trial_sizes(planned: Sequence[int], symbols: Sequence[str]) -> Iterator[dict[str, int]]:
    """Sizes of all symbols to try: each differs from the others, and has many remainders.

    Where all are small, as where only the batch is open, some trials are the same.
    """
    for trial in range(len(_SHARES) + len(_ODD)):
        sizes: dict[str, int] = {}
        for place, (symbol, size) in enumerate(zip(symbols, planned, strict=True)):
            turn = trial + place
            part = max(round(size * _SHARES[turn % len(_SHARES)] / 32), 1) * 32
            is_odd = trial >= len(_SHARES)
            odd = _ODD[turn % len(_ODD)] if is_odd else 0
            # Remainders by 4 alone would go with the share of another symbol.
            few = 1 + turn % (_FEWEST_TRIALS - (not is_odd))
            sizes[symbol] = part + odd if size > _FEW else few
        yield sizes


def known_by_shapes(graph: Graph) -> set[str]:
    """Values whose shapes follow from the shapes of the inputs, whatever the data is."""
    sized = {value.name for value in graph.inputs}
    counted = {*graph.constants, *graph.inline}
    """Names whose content follows from shapes."""
    for node in graph.nodes:
        read = [name for name in used_names(node) if name in graph.values]
        if node.op_type in _BY_DATA or any(bodies(node)) or not sized.issuperset(read):
            continue
        content = counted.issuperset(read)
        if node.op_type in ("Shape", "Size") or content:
            counted.update(node.output)
        if counted.issuperset(_sizes(graph, node)):
            sized.update(filter(None, node.output))
    return sized


def _sizes(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """Values whose content may be a shape, or a part of one, for an operator."""
    if node.op_type in _ELEMENTWISE:
        return
    first = 0 if node.op_type in _BY_FIRST else _FIRST_SIZE.get(node.op_type, 1)
    for name in node.input[first:]:
        value = graph.values.get(name)
        if value and value.dtype in ("int64", "int32") and len(value.shape) < 2:
            yield name
