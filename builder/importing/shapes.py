"""Concrete shapes of every value, for the input shapes that a model is planned for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.errors import InputError, ModelError
from swapnet.sampling import sample_inputs
from swapnet.shapes import as_option, input_shapes
from swapnet.tensors import ONNX_TYPES

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["plan_shapes", "plan_smallest"]

_BFLOAT16_SINCE = 13
"""The operator set since which Shape takes bfloat16."""


def plan_shapes(
    graph: Graph,
    types_path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    option: str = "--shapes",
) -> Graph:
    """The graph with the planned shape of every value.

    Parameters
    ----------
    graph
        An optimised graph, not sliced yet.
    types_path
        The same graph as a model in which every value is an output; where shapes are symbolic its
        operators run once, and each value lives until its last reader is done.
    shapes, option
        Shapes of inputs that the user gave, and the option that gave them.

    Raises
    ------
    InputError
        A given shape does not fit.
    ModelError
        The model does not run on seeded inputs of these shapes.
    """
    planned = input_shapes(graph.inputs, shapes, option=option)
    planned |= {
        value.name: tuple(int(dim) for dim in value.shape)
        for value in graph.values.values()
        if value.name not in planned
        and value.shape
        and all(isinstance(dim, int) for dim in value.shape)
    }
    unknown = [name for name in graph.values if name not in planned]
    if unknown:
        planned |= _run(graph, types_path, planned, unknown, option)
    return replace(
        graph,
        values={n: _planned(v, planned[n]) for n, v in graph.values.items()},
        inputs=tuple(_planned(v, planned[v.name]) for v in graph.inputs),
        outputs=tuple(_planned(v, planned[v.name]) for v in graph.outputs),
    )


def plan_smallest(graph: Graph, types_path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with the smallest shape of every value; no dimension exceeds the planned one.

    Symbolic dimensions that ``shapes`` leaves open are 1. The rest is as in `plan_shapes`.

    Raises
    ------
    InputError
        A shape does not fit, or exceeds the planned one.
    ModelError
        The model does not run on seeded inputs of these shapes.
    """
    smallest = plan_shapes(graph, types_path, shapes, "--min-shapes").values
    for value in graph.inputs:
        given = smallest[value.name].planned
        if any(low > high for low, high in zip(given, value.planned, strict=True)):
            raise InputError(
                f"--min-shapes gives {as_option({value.name: given})}",
                why=f"it is planned for {as_option({value.name: value.planned})}",
                hint="give smaller --min-shapes or larger --shapes",
            )
    return replace(
        graph,
        values={
            name: replace(value, smallest=_smaller(value.planned, smallest[name].planned))
            for name, value in graph.values.items()
        },
    )


def _smaller(planned: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The smaller of each dimension; a rank that depends on the input shapes has no smallest."""
    return tuple(map(min, planned, other)) if len(planned) == len(other) else ()


def _planned(value: Value, shape: tuple[int, ...]) -> Value:
    """The value with its planned shape; ONNX Runtime reports an unknown rank as no dimensions."""
    known = len(value.shape) == len(shape)
    dims = value.shape if known else tuple(f"{value.name}.{axis}" for axis in range(len(shape)))
    return replace(value, shape=dims, planned=shape)


def _run(
    graph: Graph,
    path: Path,
    planned: Mapping[str, tuple[int, ...]],
    unknown: list[str],
    option: str,
) -> dict[str, tuple[int, ...]]:
    asked = {name for name in unknown if _takes_shape(graph, graph.values[name])}
    session = _session_of_shapes(path, unknown, asked)
    limits = {
        node.input[1]: graph.constants[node.input[0]].shape[0]
        for node in graph.nodes
        if is_lookup(graph, node)
    }
    feeds = sample_inputs([(v.name, v.dtype, planned[v.name]) for v in graph.inputs], limits)
    try:
        outputs = session.run_with_ort_values(None, _ort_values(feeds, graph.inputs))
    except Exception as error:
        given = as_option({v.name: planned[v.name] for v in graph.inputs})
        raise ModelError(
            f"the model does not run on seeded inputs of {given}",
            why=str(error).strip().splitlines()[0],
            hint=f"give the shapes that it is used with: {option} name:1x3x224x224",
        ) from error
    return {
        name: tuple(map(int, value.numpy()))
        if name in asked
        else tuple(value.shape())
        if value.is_tensor()
        else ()
        for name, value in zip(unknown, outputs, strict=True)
    }


def _takes_shape(graph: Graph, value: Value) -> bool:
    """Whether the operator Shape reads such a value; else it becomes an output."""
    opset = next((o.version for o in graph.opset_imports if o.domain in ("", "ai.onnx")), 0)
    return opset >= (_BFLOAT16_SINCE if value.dtype == "bfloat16" else 1) and (
        value.dtype in ONNX_TYPES
    )


def _session_of_shapes(
    path: Path, names: Sequence[str], asked: Collection[str]
) -> ort.InferenceSession:
    """A session with an output for each name: its shape where it is asked for, else the value.

    Shapes go first in the order that is chosen: a value is free as soon as its readers are done.
    """
    import onnx
    import onnxruntime as ort
    from onnx import helper

    proto = onnx.load_model(path, load_external_data=False)
    outputs = [f"{name}/swapnet.shape" if name in asked else name for name in names]
    proto.graph.node.extend(
        helper.make_node("Shape", [name], [output])
        for name, output in zip(names, outputs, strict=True)
        if name in asked
    )
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    written = path.with_suffix(".shapes.onnx")
    onnx.save_model(proto, written)
    options = quiet_options(optimise=False)
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return open_session(written, options)


def _ort_values(feeds: Mapping[str, object], inputs: tuple[Value, ...]) -> dict[str, object]:
    import onnxruntime as ort

    make = ort.OrtValue
    return {
        value.name: make.ortvalue_from_numpy_with_onnx_type(
            feeds[value.name], ONNX_TYPES["bfloat16"]
        )
        if value.dtype == "bfloat16"
        else make.ortvalue_from_numpy(feeds[value.name])
        for value in inputs
    }
