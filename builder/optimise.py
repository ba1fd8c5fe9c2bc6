"""The whole graph optimised once by ONNX Runtime, hardware layouts in the stored weights."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swapnet.builder.graph import Constant, Graph, Value, in_execution_order
from swapnet.builder.source import SourceModel
from swapnet.errors import ModelError
from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

__all__ = [
    "INLINE_BELOW_BYTES",
    "TYPES",
    "open_session",
    "optimise",
    "quiet_options",
    "read_graph",
    "save_optimised",
]

INLINE_BELOW_BYTES = 1024
"""Smaller constants stay in the skeletons."""

TYPES = "types.onnx"
"""The optimised model with every value as an output; beside it lie its weights."""

STORED_LIMIT = 1.01
"""Stored weights over the original's, layout padding aside."""

_FOLDING = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""The optimisers that compute weights from weights."""

_SHAPE_INPUTS = {
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3),
    "ConstantOfShape": (0,),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
    "Split": (1,),
}
_DTYPES = {number: name for name, number in ONNX_TYPES.items()}
_NAMES = {"float": "float32", "double": "float64"}


def optimise(source: SourceModel, folder: Path, *, portable: bool) -> Graph:
    """Optimise ``source`` into ``folder`` and read the result.

    Parameters
    ----------
    source
        The model.
    folder
        Where the optimised model, its weights and `TYPES` are written; they must stay there while
        the graph is used.
    portable
        Leave out hardware layouts (NCHWc).

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model, or a value has no type that can be swapped.
    """
    path = save_optimised(source.path, folder, portable=portable)
    graph = read_graph(path, source.name)
    stored = sum(c.nbytes for c in graph.constants.values())
    if stored > STORED_LIMIT * source.weights_bytes:
        other = save_optimised(source.path, folder, portable=portable, fold_constants=False)
        unfolded = read_graph(other, source.name)
        if sum(c.nbytes for c in unfolded.constants.values()) < stored:
            path, graph = other, unfolded
    _types_path(path).replace(folder / TYPES)
    return graph


def save_optimised(
    source: Path, folder: Path, *, portable: bool, fold_constants: bool = True
) -> Path:
    """Write the optimised model: ``optimised[-unfolded].onnx`` and a file of weights beside it.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model.
    OSError
        The files can't be written.
    """
    import onnxruntime as ort

    stem = "optimised" if fold_constants else "optimised-unfolded"
    path = folder / f"{stem}.onnx"
    options = quiet_options()
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if portable
        else ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{stem}.data"
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(INLINE_BELOW_BYTES)
    )
    try:
        open_session(source, options, [] if fold_constants else _FOLDING)
    except ModelError as error:
        if str(folder / stem) in error.why:
            raise OSError(errno.ENOSPC, error.why) from error
        raise
    return path


def read_graph(path: Path, name: str) -> Graph:
    """The saved optimised model as a graph; its weights stay on disk behind memory maps.

    Raises
    ------
    ModelError
        A model input or output is no tensor, or has a type that can't be bound.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    proto = onnx.load_model(path, load_external_data=False)
    _keep_bodies_inline(proto.graph.node, path.parent)
    _compute_constant_outputs(proto.graph)
    shaping = {
        node.input[position]
        for node in proto.graph.node
        for position in _SHAPE_INPUTS.get(node.op_type, ())
        if position < len(node.input)
    }
    constants: dict[str, Constant] = {}
    inline: dict[str, onnx.TensorProto] = {}
    for tensor in proto.graph.initializer:
        constant = _constant(tensor, path.parent)
        if constant is None or tensor.name in shaping or constant.nbytes < INLINE_BELOW_BYTES:
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(path.parent))
            inline[tensor.name] = tensor
        else:
            constants[tensor.name] = constant
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


def _compute_constant_outputs(graph: onnx.GraphProto) -> None:
    """Give constants that are model outputs an operator, for outputs come from operators."""
    from onnx import helper

    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.name in outputs:
            name = f"{tensor.name}/constant"
            graph.node.insert(0, helper.make_node("Identity", [name], [tensor.name], name=name))
            tensor.name = name


def _keep_bodies_inline(nodes: Iterable[onnx.NodeProto], folder: Path) -> None:
    """Load the initialisers of the bodies of If and Loop, each once.

    ONNX Runtime 1.23 to 1.26 saves them twice.
    """
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    bodies = [
        body
        for node in nodes
        for attribute in node.attribute
        for body in (attribute.g, *attribute.graphs)
    ]
    for body in bodies:
        once = {tensor.name: tensor for tensor in body.initializer}
        if len(once) < len(body.initializer):
            kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in once.values()]
            del body.initializer[:]
            body.initializer.extend(kept)
        for tensor in body.initializer:
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(folder))
        _keep_bodies_inline(body.node, folder)


def _constant(tensor: onnx.TensorProto, folder: Path) -> Constant | None:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        return None
    shape = tuple(tensor.dims)
    if uses_external_data(tensor):
        info = ExternalDataInfo(tensor)
        count = int(np.prod(shape, dtype=np.int64)) * ELEMENT_BYTES[dtype]
        if count == 0:
            return None
        data: Any = np.memmap(
            folder / info.location, np.uint8, "r", offset=info.offset or 0, shape=(count,)
        )
    elif tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        from onnx import numpy_helper

        data = np.frombuffer(numpy_helper.to_array(tensor).tobytes(), np.uint8)
    return Constant(tensor.name, dtype, shape, data)


def _types_path(path: Path) -> Path:
    """Beside an optimised model: what becomes `TYPES` if it is chosen."""
    return path.with_suffix(".types.onnx")


def _value_types(proto: onnx.ModelProto, path: Path) -> dict[str, Value]:
    """Types of all values, read from a session in which each of them is an output."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    named = {v.name for v in (*probe.graph.input, *probe.graph.output)}
    produced = dict.fromkeys(n for node in probe.graph.node for n in node.output if n)
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in produced if n not in named)
    probe_path = _types_path(path)
    onnx.save_model(probe, probe_path)
    session = open_session(probe_path, quiet_options(optimise=False))
    values: dict[str, Value] = {}
    for arg in (*session.get_inputs(), *session.get_outputs()):
        match = re.fullmatch(r"tensor\((\w+)\)", arg.type)
        dtype = _NAMES.get(match[1], match[1]) if match else arg.type
        shape = tuple(
            dim if isinstance(dim, (int, str)) else f"{arg.name}.{axis}"
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


def quiet_options(*, optimise: bool = True) -> ort.SessionOptions:
    """Options of a session that prints nothing and packs no weights."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(
    path: Path, options: ort.SessionOptions, disabled: Iterable[str] = ()
) -> ort.InferenceSession:
    """A session on the CPU.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        return ort.InferenceSession(
            str(path), options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
    except (
        errors.Fail,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.NoSuchFile,
        errors.RuntimeException,
    ) as error:
        raise ModelError(
            "ONNX Runtime refuses the model",
            why=str(error).strip().splitlines()[0],
            hint="change or replace the operator that it names, or try another opset",
        ) from error
