"""Operators whose kernels pack constant weights: which of them read these in place, and pay.

A weight that is bound as an input is never packed. Some kernels then pack it again in every call,
or have no fast way at all: int4 products take thirty times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import onnx
from onnx import TensorProto

from swapnet.builder.compilers.packing import is_compared, pack, unpacked_copies
from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.cut import Span
from swapnet.builder.cutting.partition import part_of
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.lookup import looked_up
from swapnet.tensors import ONNX_TYPES

__all__ = ["PACKED", "PAYING", "SMALLEST_BYTES", "packing_operators", "with_packing"]

SMALLEST_BYTES = 32 << 10
"""Smaller weights of these operators stay in the skeleton, where ONNX Runtime packs them itself."""

_MICROSOFT = "com.microsoft"

PACKED: Final[Mapping[tuple[str, str], tuple[int, ...]]] = {
    (_MICROSOFT, "MatMulNBits"): (1,),
    ("", "LSTM"): (1, 2),
    ("", "GRU"): (1, 2),
    (_MICROSOFT, "DynamicQuantizeLSTM"): (1, 2),
    ("", "MatMulInteger"): (1,),
    (_MICROSOFT, "MatMulIntegerToFloat"): (1,),
    (_MICROSOFT, "DynamicQuantizeMatMul"): (1,),
    ("", "QLinearMatMul"): (3,),
    (_MICROSOFT, "Attention"): (1,),
    ("", "MatMul"): (1,),
    ("", "Gemm"): (1,),
    (_MICROSOFT, "FusedMatMul"): (1,),
    (_MICROSOFT, "FusedGemm"): (1,),
}
"""Positions of the inputs that a kernel packs, by domain and operator (``PrePack`` in
onnxruntime/core/providers/cpu and contrib_ops/cpu)."""

PAYING: Final = frozenset(
    {
        (_MICROSOFT, "MatMulNBits"),
        ("", "LSTM"),
        ("", "GRU"),
        (_MICROSOFT, "DynamicQuantizeLSTM"),
        ("", "MatMulInteger"),
        (_MICROSOFT, "MatMulIntegerToFloat"),
        (_MICROSOFT, "DynamicQuantizeMatMul"),
        ("", "QLinearMatMul"),
        (_MICROSOFT, "Attention"),
    }
)
"""Operators for which a model gets windows. Float products alone are as fast as inputs, where they
are stored as convolutions; beside others they have windows too, for the bits of ONNX Runtime."""


def packing_operators(graph: Graph) -> Iterator[onnx.NodeProto]:
    """Operators that pack a constant of `SMALLEST_BYTES` or more, or rows that are looked up."""
    large = _large(graph)
    for node in graph.nodes:
        positions = PACKED.get(_kind(node), ())
        names = [node.input[i] for i in positions if i < len(node.input)]
        if not large.isdisjoint(names):
            yield node


def with_packing(graph: Graph) -> Graph:
    """The graph with the operators marked that get windows, and with their small weights inline.

    There are none where nothing pays, or where this ONNX Runtime or this kernel can't.
    """
    found = list(packing_operators(graph))
    if not any(_kind(node) in PAYING for node in found):
        return graph
    refused = dict(_refused(graph, found))
    for operator, why in sorted({(form[1], why) for form, why in refused.items()}):
        getLogger("swapnet").warning("weights of %s stay inputs: %s", operator, why)
    kept = [node for node in found if _form(graph, node) not in refused]
    if not any(_kind(node) in PAYING for node in kept):
        return graph
    kinds = PACKED.keys() - ({form[:2] for form in refused} - {*map(_kind, kept)})
    large = _large(graph)
    small = {
        name: graph.constants[name]
        for node in graph.nodes
        if _kind(node) in kinds
        for name in node.input
        if name in graph.constants and name not in large
    }
    return replace(
        graph,
        constants={n: c for n, c in graph.constants.items() if n not in small},
        inline={**graph.inline, **{name: _tensor(graph, name) for name in small}},
        packing=frozenset(next(filter(None, node.output)) for node in kept),
    )


def _kind(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _form(graph: Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    """Operators of one form are all packed, or none is."""
    if node.op_type != "MatMulNBits":
        return _kind(node)
    numbers = sorted(f"{a.name}={a.i}" for a in node.attribute if a.name not in ("K", "N"))
    return (*_kind(node), *numbers, _never_packed(graph, node))


def _never_packed(graph: Graph, node: onnx.NodeProto) -> str:
    """Reason for which a product of few bits is not packed on any processor; empty for none."""
    points, order = [*node.input, *[""] * 5][3:5]
    dtype = graph.constants[points].dtype if points in graph.constants else "uint8"
    if points in graph.inline:
        dtype = {2: "uint8"}.get(graph.inline[points].data_type, "")
    if dtype != "uint8":
        return "ONNX Runtime packs no products with zero points of floats"
    return "ONNX Runtime packs no products with rows in another order" if order else ""


def _large(graph: Graph) -> frozenset[str]:
    """Weights that do not stay in the skeleton."""
    large = (name for name, c in graph.constants.items() if c.nbytes >= SMALLEST_BYTES)
    return looked_up(graph).union(large)


def _tensor(graph: Graph, name: str) -> onnx.TensorProto:
    constant = graph.constants[name]
    return TensorProto(
        name=name,
        data_type=ONNX_TYPES[constant.dtype],
        dims=constant.shape,
        raw_data=constant.bytes().tobytes(),
    )


def _refused(graph: Graph, found: list[onnx.NodeProto]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Forms of operators of which the smallest, packed alone, does not read what was saved.

    Nor may it read what other kernels packed: a session has to compare. With each comes why.
    """
    smallest: dict[tuple[str, ...], tuple[int, int]] = {}
    for node in found:
        index = graph.producers[next(filter(None, node.output))]
        nbytes = sum(graph.constants[name].nbytes for name in graph.weights_of[index])
        form = _form(graph, node)
        smallest[form] = min((nbytes, index), smallest.get(form, (nbytes, index)))
    for form, (_, index) in smallest.items():
        if why := _never_packed(graph, graph.nodes[index]) if len(form) > 2 else "":
            yield form, why
            continue
        outputs = list(filter(None, graph.nodes[index].output))
        part = part_of(graph, Span(index, index + 1), outputs)
        constants = [graph.constants[name] for name in part.weights]
        model = skeleton(graph, part, "probe", part.weights)
        with TemporaryDirectory() as folder:
            packed = pack(model, constants, Path(folder) / "probe.data")
            if unpacked_copies(packed, constants) or not is_compared(packed):
                yield (
                    form,
                    "this ONNX Runtime does not save what it packs of them, or does not compare it",
                )
