"""The whole graph optimised once by ONNX Runtime; hardware layouts in its stored weights."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from swapnet.builder.importing.constants import INLINE_BELOW_BYTES, read_weights
from swapnet.builder.importing.graph import Graph, Value, bodies, copied, in_execution_order
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.shapes import plan_sizes  # it opens sessions with this module
from swapnet.builder.importing.source import SourceModel
from swapnet.builder.importing.stripped import stripped
from swapnet.builder.rewriting.as_written import as_written
from swapnet.builder.rewriting.convolutions_as_products import has_quantised, product_forms
from swapnet.builder.rewriting.products_as_convolutions import NCHWC, has_products, pack_products
from swapnet.builder.rewriting.stand_ins import StandIns
from swapnet.data.spool import Sample
from swapnet.errors import ModelError
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.backends.windows import packs_bits
from swapnet.fingerprint import PORTABLE
from swapnet.manifest import Compiled
from swapnet.symbols import is_placeholder
from swapnet.tensors import ONNX_TYPES, external_tensor

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = [
    "TYPES",
    "WHOLE",
    "Operators",
    "channels_in_block",
    "operators_of",
    "optimise",
    "read_graph",
    "save_optimised",
]

TYPES = "types.onnx"
"""The optimised model with every value as an output; beside it lie its weights."""

WHOLE = "whole.onnx"
"""The same model with its own outputs only: what a swapped one must equal to the bit."""

_PACKED = "packed.data"
_PRODUCTS = "products.data"
"""Weights that were rearranged after ONNX Runtime's optimisation, of floats and of integers."""

STORED_LIMIT = 1.01
"""Stored weights over the original's, layout padding aside."""

_FOLDING = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""The optimisers that compute weights from weights."""

_QUANTISING = ("QDQSelectorActionTransformer",)
"""The optimiser that turns products with dequantised weights into MatMulNBits: those that are
dequantised in blocks, and since 1.25 others. Of 8 bits these get larger and less exact."""

_NARROWING = ("WeightBiasQuantization",)
"""The optimiser that stores float weights and biases between quantised values as integers."""

_FOUR_BITS = (21, 22)
"""uint4 and int4 as ``TensorProto.DataType``."""

_NAMES = {"float": "float32", "double": "float64"}


class Operators(Enum):
    """Operators that an optimised model may have."""

    HARDWARE = "hardware"
    """Those of ONNX Runtime, with layouts of this processor (NCHWc) in their weights."""
    PORTABLE = "portable"
    """Those of ONNX Runtime that run on any processor."""
    STANDARD = "standard"
    """Those of ONNX, which other libraries read too."""


def operators_of(compiled: Compiled) -> Operators:
    """The operators of an engine's blocks."""
    if compiled.backend != "onnxruntime":
        return Operators.STANDARD
    return Operators.PORTABLE if compiled.fingerprint == PORTABLE else Operators.HARDWARE


def optimise(
    source: SourceModel,
    folder: Path,
    *,
    operators: Operators,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    samples: Sequence[Sample] = (),
    keep_floats: bool = False,
) -> Graph:
    """Optimise ``source`` into ``folder`` and read the result.

    Parameters
    ----------
    folder
        Folder for the optimised model, its weights, `TYPES` and `WHOLE`; they must stay there
        while the graph is used.
    operators
        Operators that may be used.
    shapes, dims
        Input shapes and sizes of symbols to plan for: products of few rows get a hardware layout
        too.
    samples
        Inputs to run the model on, by default seeded ones; the first is taken.
    keep_floats
        Leave float weights between quantised values as they are.

    Raises
    ------
    InputError
        A given shape does not fit.
    ModelError
        ONNX Runtime refuses the model, or a value has no type that can be swapped.
    """
    disabled = _NARROWING if keep_floats else ()
    path = save_optimised(source.path, folder, operators=operators, disabled=disabled)
    graph = read_graph(path, source.name)
    keeps = operators is Operators.HARDWARE and packs_bits(version()) and _of_few_bits(source)
    if not keeps and _nbits(graph.nodes) > _nbits(source.proto.graph.node):
        disabled = (*disabled, *_QUANTISING)
        path = save_optimised(source.path, folder, operators=operators, disabled=disabled)
        graph = read_graph(path, source.name)
    stored = sum(c.nbytes for c in graph.constants.values())
    if stored > STORED_LIMIT * source.weights_bytes:
        disabled = (*disabled, *_FOLDING)
        other = save_optimised(source.path, folder, operators=operators, disabled=disabled)
        unfolded = read_graph(other, source.name)
        if sum(c.nbytes for c in unfolded.constants.values()) < stored:
            path, graph = other, unfolded
    _types_path(path).replace(folder / TYPES)
    shutil.copyfile(path, folder / WHOLE)
    graph = as_written(graph, source.proto.graph.node)
    if operators is Operators.HARDWARE:
        return _packed(graph, folder, shapes or {}, dims or {}, samples)
    return _of_used_domains(graph) if operators is Operators.STANDARD else graph


def _of_used_domains(graph: Graph) -> Graph:
    """The graph without imports of operator sets that it does not use: others don't know them."""
    used = {domain for node in graph.nodes for domain in _domains(node)}
    kept = [o for o in graph.opset_imports if o.domain in used or o.domain in ("", "ai.onnx")]
    return replace(graph, opset_imports=kept)


def _domains(node: onnx.NodeProto) -> set[str]:
    return {node.domain}.union(*(_domains(inner) for body in bodies(node) for inner in body.node))


def _packed(
    graph: Graph,
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    samples: Sequence[Sample],
) -> Graph:
    """The graph with products packed, which replaces `TYPES` and `WHOLE` too."""
    block = channels_in_block()
    floats = block >= 2 and has_products(graph, block)
    integers = has_quantised(graph)
    if not floats and not integers:
        return graph
    planned = packed = plan_sizes(graph, folder / TYPES, shapes, dims, samples[:1])
    if floats:
        packed = pack_products(packed, block, folder / _PACKED)
    if integers:
        packed = product_forms(packed, folder / _PRODUCTS)
    if packed is planned:
        return planned
    _save_packed(packed, folder)
    return packed


def channels_in_block() -> int:
    """Channels that lie together in the layout of this processor; 1 if it has none."""
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=NCHWC, channels_last=1)
    info = helper.make_tensor_value_info("x", 1, (1, 1, 1, 4))
    probe = helper.make_graph([node], "probe", [info], [helper.make_empty_tensor_value_info("y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(NCHWC, 1)]
    model = helper.make_model(probe, opset_imports=imports, ir_version=8)
    try:
        session = open_session(model.SerializeToString(), quiet_options(optimise=False))
    except ModelError:
        return 1
    (blocked,) = session.run(None, {"x": np.zeros((1, 1, 1, 4), np.float32)})
    return int(blocked.shape[1])


def _save_packed(graph: Graph, folder: Path) -> None:
    """Write `WHOLE` and `TYPES` again."""
    proto = onnx.load_model(folder / TYPES, load_external_data=False)
    del proto.graph.node[:]
    proto.graph.node.extend(graph.nodes)
    del proto.graph.output[len(graph.outputs) :]
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, tensor in tensors.items():
        constant = graph.constants.get(name)
        data = constant.data if constant else None
        location = Path(data.filename or "").name if isinstance(data, np.memmap) else ""
        if constant and isinstance(data, np.memmap) and location in (_PACKED, _PRODUCTS):
            place = (location, data.offset, constant.nbytes)
            tensor.CopyFrom(external_tensor(name, constant.dtype, constant.shape, *place))
    proto.graph.initializer.extend(t for n, t in graph.inline.items() if n not in tensors)
    del proto.opset_import[:]
    proto.opset_import.extend(graph.opset_imports)
    onnx.save_model(proto, folder / WHOLE)
    _give_every_value(proto)
    onnx.save_model(proto, folder / TYPES)


def _give_every_value(proto: onnx.ModelProto) -> None:
    """Add what operators compute to the outputs, without types."""
    named = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    produced = dict.fromkeys(n for node in proto.graph.node for n in node.output if n)
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in produced if n not in named)


def _of_few_bits(source: SourceModel) -> bool:
    """Whether weights are dequantised in blocks, or from 4 bits, which are not swapped so."""
    graph = source.proto.graph
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type in _FOUR_BITS}
    return any(
        node.input[0] in narrow or any(a.name == "block_size" and a.i for a in node.attribute)
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    )


def _nbits(nodes: Iterable[onnx.NodeProto]) -> int:
    """Number of products that need packed weights and round what they multiply."""
    return sum(
        (node.op_type == "MatMulNBits") + sum(_nbits(body.node) for body in bodies(node))
        for node in nodes
    )


def save_optimised(
    source: Path, folder: Path, *, operators: Operators, disabled: Sequence[str] = ()
) -> Path:
    """Write the optimised model and a file of weights beside it, without some optimisers.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model.
    OSError
        The files can't be written.
    """
    import onnxruntime as ort

    stem = "optimised" if not disabled else f"optimised-{len(disabled)}"
    if operators is Operators.STANDARD:
        disabled = (*disabled, *_NARROWING)  # int32 biases, which TensorRT can't widen
    path = folder / f"{stem}.onnx"
    real = Path(os.path.realpath(source))
    without_weights = stripped(real)
    if without_weights and without_weights.mixed and source.is_symlink():
        without_weights = None

    def saving(data: Path | None) -> ort.SessionOptions:
        """Options to write the model; external data of one in memory lies in a folder."""
        options = quiet_options()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = {
            Operators.HARDWARE: levels.ORT_ENABLE_ALL,
            Operators.PORTABLE: levels.ORT_ENABLE_EXTENDED,
            Operators.STANDARD: levels.ORT_ENABLE_BASIC,
        }[operators]
        options.optimized_model_filepath = str(path)
        entries = {
            "session.optimized_model_external_initializers_file_name": f"{stem}.data",
            "session.optimized_model_external_initializers_min_size_in_bytes": INLINE_BELOW_BYTES,
            "session.model_external_initializers_file_folder_path": data,
        }
        for key, value in entries.items():
            if value is not None:
                options.add_session_config_entry(key, str(value))
        return options

    if without_weights or not source.is_symlink():
        stand_ins = StandIns.of(
            onnx.load_model_from_string(without_weights.model)
            if without_weights
            else onnx.load_model(source, load_external_data=False),
            real.parent,
            path,
        )
        if stand_ins and _save_with(stand_ins, saving(real.parent), disabled):
            return path
    try:
        if without_weights:
            open_session(without_weights.model, saving(real.parent), disabled)
        else:
            open_session(source, saving(None), disabled)
    except ModelError as error:
        if str(folder / stem) in error.why:
            raise OSError(errno.ENOSPC, error.why) from error
        raise
    return path


def _save_with(stand_ins: StandIns, options: ort.SessionOptions, disabled: Sequence[str]) -> bool:
    """Write the optimised model by way of stand-ins; False where that does not do."""
    stand_ins.give(options)
    try:
        open_session(stand_ins.proto.SerializeToString(), options, disabled)
    except ModelError:  # it is refused with its own weights
        return False
    return stand_ins.restore()


def read_graph(path: Path, name: str) -> Graph:
    """The saved optimised model as a graph; its weights stay on disk behind memory maps.

    Raises
    ------
    ModelError
        A model input or output is no tensor, or has a type that can't be bound.
    """
    proto = onnx.load_model(path, load_external_data=False)
    constants, inline = read_weights(proto.graph, path.parent)
    values = _value_types(proto, path)
    given = {*constants, *inline}
    return Graph(
        name=name,
        nodes=in_execution_order(proto.graph.node),
        constants=constants,
        inline=inline,
        values=values,
        inputs=tuple(_bindable(values, v.name) for v in proto.graph.input if v.name not in given),
        outputs=tuple(_bindable(values, v.name) for v in proto.graph.output),
        opset_imports=list(proto.opset_import),
        ir_version=proto.ir_version,
    )


def _types_path(path: Path) -> Path:
    """File beside an optimised model that becomes `TYPES` if it is chosen."""
    return path.with_suffix(".types.onnx")


def _value_types(proto: onnx.ModelProto, path: Path) -> dict[str, Value]:
    """Types of all values, read from a session in which each of them is an output."""
    probe = copied(proto)
    _give_every_value(probe)
    probe_path = _types_path(path)
    onnx.save_model(probe, probe_path)
    session = open_session(probe_path, quiet_options(optimise=False))
    values: dict[str, Value] = {}
    for arg in (*session.get_inputs(), *session.get_outputs()):
        match = re.fullmatch(r"tensor\((\w+)\)", arg.type)
        dtype = _NAMES.get(match[1], match[1]) if match else arg.type
        shape = tuple(
            f"{arg.name}.{axis}" if is_placeholder(str(dim)) else dim
            for axis, dim in enumerate(arg.shape)
        )
        values[arg.name] = Value(arg.name, dtype, shape)
    return values


def _bindable(values: dict[str, Value], name: str) -> Value:
    value = values[name]
    if value.dtype not in ONNX_TYPES:
        raise ModelError(
            f"{name!r} can't be bound",
            why=f"it is a {value.dtype}; models take and give tensors of {', '.join(ONNX_TYPES)}",
            hint="remove it from the model's inputs and outputs",
        )
    return value
