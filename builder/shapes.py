"""Concrete shapes of every value, for the input shapes that a model is planned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from swapnet.builder.graph import Graph, Value
from swapnet.builder.lookup import is_lookup
from swapnet.builder.optimise import open_session, quiet_options
from swapnet.errors import InputError, ModelError
from swapnet.sampling import sample_inputs
from swapnet.tensors import ONNX_TYPES

__all__ = ["input_shapes", "plan_shapes"]


def input_shapes(
    inputs: tuple[Value, ...], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shape of each input: given, or with symbolic dimensions set to those of others, or 1.

    Raises
    ------
    InputError
        A given shape is for no input, or does not fit it.
    """
    known = {value.name: value for value in inputs}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in known:
            raise InputError(
                f"--shapes names {name!r}",
                why=f"the model takes {', '.join(map(repr, known))}",
                hint="correct the name",
            )
        declared = known[name].shape
        if len(declared) != len(shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(declared, shape, strict=False)
        ):
            raise InputError(
                f"--shapes gives {name!r} {'x'.join(map(str, shape))}",
                why=f"the model takes {'x'.join(map(str, declared))}",
                hint="correct the shape",
            )
        for dim, size in zip(declared, shape, strict=True):
            if isinstance(dim, str):
                symbols.setdefault(dim, size)
    return {
        value.name: tuple(shapes[value.name])
        if value.name in shapes
        else tuple(symbols.get(d, 1) if isinstance(d, str) else d for d in value.shape)
        for value in inputs
    }


def plan_shapes(graph: Graph, types_path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with the planned shape of every value.

    Parameters
    ----------
    graph
        An optimised graph, not sliced yet.
    types_path
        The same graph as a model in which every value is an output; run once where shapes are
        symbolic.
    shapes
        Of inputs, as the user gave them.

    Raises
    ------
    InputError
        A given shape does not fit.
    ModelError
        The model does not run on seeded inputs of these shapes.
    """
    planned = input_shapes(graph.inputs, shapes)
    planned |= {
        value.name: tuple(int(dim) for dim in value.shape)
        for value in graph.values.values()
        if value.name not in planned
        and value.shape
        and all(isinstance(dim, int) for dim in value.shape)
    }
    unknown = [name for name in graph.values if name not in planned]
    if unknown:
        planned |= _run(graph, types_path, planned, unknown)
    return replace(
        graph,
        values={n: _planned(v, planned[n]) for n, v in graph.values.items()},
        inputs=tuple(_planned(v, planned[v.name]) for v in graph.inputs),
        outputs=tuple(_planned(v, planned[v.name]) for v in graph.outputs),
    )


def _planned(value: Value, shape: tuple[int, ...]) -> Value:
    """The value with its planned shape; ONNX Runtime reports an unknown rank as no dimensions."""
    known = len(value.shape) == len(shape)
    dims = value.shape if known else tuple(f"{value.name}.{axis}" for axis in range(len(shape)))
    return replace(value, shape=dims, planned=shape)


def _run(
    graph: Graph, path: Path, planned: Mapping[str, tuple[int, ...]], unknown: list[str]
) -> dict[str, tuple[int, ...]]:
    session = open_session(path, quiet_options(optimise=False))
    limits = {
        node.input[1]: graph.constants[node.input[0]].shape[0]
        for node in graph.nodes
        if is_lookup(graph, node)
    }
    feeds = sample_inputs([(v.name, v.dtype, planned[v.name]) for v in graph.inputs], limits)
    try:
        outputs = session.run_with_ort_values(unknown, _ort_values(feeds, graph.inputs))
    except Exception as error:
        given = ", ".join(f"{v.name}:{'x'.join(map(str, planned[v.name]))}" for v in graph.inputs)
        raise ModelError(
            f"the model does not run on seeded inputs of {given}",
            why=str(error).strip().splitlines()[0],
            hint="give the shapes that it is used with: --shapes name:1x3x224x224",
        ) from error
    return {
        name: tuple(value.shape()) if value.is_tensor() else ()
        for name, value in zip(unknown, outputs, strict=True)
    }


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
