"""Weights stored as float16 or int8 and expanded right before the operator that reads them.

The operators stay as they are: a block reads fewer bytes and widens them itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from swapnet.builder.importing.graph import Constant, Graph, Value, copied, used_names
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.rewriting.slicing_rules import WIDENING
from swapnet.builder.rewriting.writer import GraphWriter
from swapnet.tensors import ONNX_TYPES

__all__ = ["Narrow", "StoredForm", "expanded_values", "narrow_weights", "weight_forms"]

Narrow = Literal["float16", "int8"]
StoredForm = Literal["float32", "float16", "int8"]

_CONVOLUTIONS = ("Conv", "FusedConv")
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys((*_CONVOLUTIONS, "ConvTranspose", "Attention"), (1,)),
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul"), (0, 1)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2)),
    "Gather": (0,),
}
"""Positions of weights. Biases, scales and coordinates are few bytes or need all their digits."""

_SMALLEST_BYTES = 16 << 10
"""Smaller weights are read faster than an operator is called."""

_GROUPS = range(64, 513)
"""Elements that share a scale: more of them save nothing, fewer store more scales."""

_LARGEST = 127
"""Largest int8; symmetric, so -128 is not used."""

_PIECE_ELEMENTS = 1 << 20
"""Converted at once."""

_EXPANDING = WIDENING | {"Reshape"}
_FILE = "narrow.data"
_MICROSOFT = "com.microsoft"
_SCALES_SINCE = 13
"""The operator set since which DequantizeLinear takes more than one scale."""


def weight_forms(
    graph: Graph, form: Narrow, *, keep: Collection[str] = ()
) -> dict[str, StoredForm]:
    """Stored form of each weight that could be stored narrower.

    Parameters
    ----------
    graph
        Sliced already.
    form
        The narrowest form. A weight with fewer elements for each output channel than share a
        scale, or with elements that do not divide into groups, is float16 instead of int8. One with
        values that float16 does not hold (beyond 65504, or not finite) stays float32 instead.
    keep
        Names of weights, or of operators that read them: left out, with all their slices.

    Returns
    -------
    dict
        Forms by name. Weights are left out that are looked up in, that bodies of If, Loop and Scan
        read, or that are read as something else than a weight.
    """
    return {
        name: _form(graph.constants[name], form, short=short)
        for name, short in _candidates(graph, keep).items()
    }


def narrow_weights(
    graph: Graph, form: Narrow, folder: Path, *, keep: Collection[str] = ()
) -> Graph:
    """Store weights narrower, and expand each right before every operator that reads it.

    Cut the result with `expanded_values` uncut.

    Parameters
    ----------
    graph
        Sliced already; its shapes are planned.
    form, keep
        As for `weight_forms`, which says what becomes of each weight.
    folder
        Where the narrow weights are written; the graph reads them from there.

    Notes
    -----
    An int8 weight is a matrix of groups that are contiguous in the stored layout, whichever that
    is, with a scale for each group: ``DequantizeLinear`` along axis 0 is ten times as fast as
    along the last. The layout is restored by a Reshape, which copies nothing.
    """
    forms = {n: f for n, f in weight_forms(graph, form, keep=keep).items() if f != "float32"}
    if not forms:
        return graph
    path = folder / _FILE
    with path.open("wb") as file:
        stored = {
            name: _write_float16(graph.constants[name], path, file)
            if kind == "float16"
            else _write_int8(graph.constants[name], path, file)
            for name, kind in forms.items()
        }
    writer = _Writer(graph, stored)
    for node in graph.nodes:
        writer.operator(node)
    return replace(writer.graph(), opset_imports=writer.opset_imports)


def expanded_values(graph: Graph) -> frozenset[str]:
    """Values that are computed from weights alone, right before the only operator that reads them.

    A cut behind one of them would carry the wide weight from block to block.
    """
    last_uses = {name: i for i, node in enumerate(graph.nodes) for name in used_names(node)}
    given = {value.name for value in graph.outputs}
    found: set[str] = set()
    pending: set[str] = set()
    known = (graph.constants, graph.inline, pending)
    for index, node in enumerate(graph.nodes):
        if node.op_type in _EXPANDING and all(
            any(name in names for names in known) for name in used_names(node)
        ):
            pending.update(node.output)
            continue
        found.update(n for n in pending if last_uses.get(n, -1) <= index and n not in given)
        pending.clear()
    return frozenset(found)


def _candidates(graph: Graph, keep: Collection[str]) -> dict[str, bool]:
    """Weights that may be stored narrower, by name: whether groups would span output channels."""
    weights: dict[str, bool] = {}
    others: set[str] = set()
    tables: set[int] = set()
    for node in graph.nodes:
        positions = _WEIGHTS.get(node.op_type, ())
        if is_lookup(graph, node):
            tables.add(id(graph.constants[node.input[0]].data))
        read = {node.input[i] for i in positions if i < len(node.input)} & graph.constants.keys()
        for name in read:
            shape = graph.constants[name].shape
            short = node.op_type in _CONVOLUTIONS and prod(shape[1:]) < _GROUPS.start
            weights[name] = weights.get(name, False) or short
        if {node.name, node.name.rpartition("/")[0]} & set(keep):
            positions = ()
        others.update(name for i, name in enumerate(node.input) if i not in positions)
        others.update(set(used_names(node)).difference(node.input))
    return {
        name: short
        for name, short in weights.items()
        if (constant := graph.constants[name]).dtype == "float32"
        and constant.nbytes >= _SMALLEST_BYTES
        and name not in others
        and id(constant.data) not in tables
        and not _is_kept(constant, keep)
    }


def _is_kept(constant: Constant, names: Collection[str]) -> bool:
    """Whether a weight or what it is a slice of is among ``names``."""
    sliced = constant.axis is not None
    return constant.name in names or (
        sliced and any(constant.name.startswith(f"{whole}/") for whole in names)
    )


def _form(constant: Constant, form: Narrow, *, short: bool) -> StoredForm:
    largest = np.max([np.abs(piece).max() for piece in _pieces(constant)])
    grouped = not short and _group_length(prod(constant.shape)) is not None
    if form == "int8" and grouped and np.isfinite(largest):
        return "int8"
    return "float16" if largest <= np.finfo(np.float16).max else "float32"


def _group_length(elements: int) -> int | None:
    """Elements that share a scale."""
    return next((length for length in reversed(_GROUPS) if elements % length == 0), None)


def _pieces(constant: Constant, multiple: int = 1) -> Iterator[npt.NDArray[np.float32]]:
    """The elements in stored order, a multiple of ``multiple`` at once."""
    flat = constant.bytes().view(np.float32)
    step = _PIECE_ELEMENTS // multiple * multiple
    for start in range(0, len(flat), step):
        yield flat[start : start + step]


@dataclass(frozen=True)
class _Stored:
    """A weight as it is stored: as numbers; of int8, with a scale for each row of them."""

    numbers: Constant
    scales: Constant | None = None


def _write_float16(constant: Constant, path: Path, file: BinaryIO) -> _Stored:
    start = file.tell()
    for piece in _pieces(constant):
        file.write(piece.astype(np.float16).data)
    file.flush()
    return _Stored(
        Constant.mapped(f"{constant.name}/float16", "float16", constant.shape, path, start)
    )


def _write_int8(constant: Constant, path: Path, file: BinaryIO) -> _Stored:
    length = _group_length(prod(constant.shape))
    assert length is not None
    start = file.tell()
    scales = np.empty(prod(constant.shape) // length, np.float32)
    done = 0
    for piece in _pieces(constant, length):
        rows = piece.reshape(-1, length)
        scale = np.abs(rows).max(axis=1) / np.float32(_LARGEST)
        numbers = np.rint(rows / np.where(scale, scale, 1)[:, None])
        file.write(numbers.clip(-_LARGEST, _LARGEST).astype(np.int8).data)
        scales[done : done + len(rows)] = scale
        done += len(rows)
    file.write(scales.data)
    file.flush()
    shape = (len(scales), length)
    return _Stored(
        Constant.mapped(f"{constant.name}/int8", "int8", shape, path, start),
        Constant.mapped(f"{constant.name}/scale", "float32", shape[:1], path, start + prod(shape)),
    )


class _Writer(GraphWriter):
    """Writes what expands weights before the operators that read them."""

    def __init__(self, graph: Graph, stored: Mapping[str, _Stored]) -> None:
        super().__init__(graph)
        for name in stored:
            del self.constants[name]
        self._stored = {name: self._named(weight) for name, weight in stored.items()}
        opsets = {entry.domain: entry.version for entry in graph.opset_imports}
        plain = opsets.get("", opsets.get("ai.onnx", 0))
        self._domain = "" if plain >= _SCALES_SINCE else _MICROSOFT
        self.opset_imports = list(graph.opset_imports)
        if self._domain and _MICROSOFT not in opsets:
            self.opset_imports.append(helper.make_opsetid(_MICROSOFT, 1))

    def operator(self, node: onnx.NodeProto) -> None:
        """Write what expands the weights of an operator, and the operator."""
        names = {
            name: self._expand(name) for name in dict.fromkeys(node.input) if name in self._stored
        }
        if any(name != new for name, new in names.items()):
            node = copied(node)
            node.input[:] = [names.get(name, name) for name in node.input]
        self.nodes.append(node)

    def _expand(self, name: str) -> str:
        """Write what expands a weight for one operator; the name of the result."""
        weight, shape = self._stored[name], self.source.constants[name].shape
        wide = Value(self.fresh(name), "float32", shape, shape)
        numbers = weight.numbers
        if weight.scales is None:
            self.write("Cast", [numbers.name], wide, to=ONNX_TYPES["float32"])
            return wide.name
        rows = Value(self.fresh(f"{wide.name}/rows"), "float32", numbers.shape, numbers.shape)
        given = [numbers.name, weight.scales.name]
        self.write("DequantizeLinear", given, rows, self._domain, axis=0)
        dims = self.integers(f"{name}/dims", shape, key=name)
        self.write("Reshape", [rows.name, dims], wide)
        return wide.name

    def _named(self, weight: _Stored) -> _Stored:
        """The weight under names that are free."""
        parts = [weight.numbers, *filter(None, [weight.scales])]
        named = [replace(part, name=self.fresh(part.name)) for part in parts]
        self.constants |= {part.name: part for part in named}
        return _Stored(*named)
