"""Concrete shapes of every value, for the input shapes that a model is planned for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from swapnet.arrays import Array, save_npz
from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.data.spool import Sample, resized
from swapnet.errors import InputError, ModelError
from swapnet.executor.samples import MOST_SAMPLES
from swapnet.sampling import sample_inputs
from swapnet.shapes import as_option, input_shapes
from swapnet.tensors import ONNX_TYPES

__all__ = ["plan_shapes", "plan_smallest"]

Shape = tuple[int, ...]


def plan_shapes(
    graph: Graph,
    types_path: Path,
    shapes: Mapping[str, Shape],
    option: str = "--shapes",
    samples: Sequence[Sample] = (),
) -> Graph:
    """The graph with the planned shape of every value, and the samples that have the largest ones.

    Parameters
    ----------
    graph
        An optimised graph, not sliced yet.
    types_path
        The same graph as a model in which every value is an output; run where shapes are symbolic.
    shapes, option
        Shapes of inputs that the user gave, and the option that gave them.
    samples
        Inputs to run it on: the largest shape of each value counts. By default seeded ones.

    Raises
    ------
    InputError
        A given shape does not fit.
    ModelError
        The model does not run on the samples, or on seeded inputs of these shapes.
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
    kept = samples[:1]
    if unknown:
        found, kept = _largest(graph, types_path, planned, unknown, option, samples)
        planned |= found
    return replace(
        graph,
        samples=tuple(sample.path for sample in kept),
        values={n: _planned(v, planned[n]) for n, v in graph.values.items()},
        inputs=tuple(_planned(v, planned[v.name]) for v in graph.inputs),
        outputs=tuple(_planned(v, planned[v.name]) for v in graph.outputs),
    )


def plan_smallest(graph: Graph, types_path: Path, shapes: Mapping[str, Shape]) -> Graph:
    """The graph with the smallest shape of every value; no dimension exceeds the planned one.

    Symbolic dimensions that ``shapes`` leaves open are 1. Where the graph has samples the model
    runs on the first, cut off. The rest is as in `plan_shapes`.

    Raises
    ------
    InputError
        A shape does not fit, or exceeds the planned one.
    ModelError
        The model does not run on seeded inputs of these shapes.
    """
    option = "--min-shapes"
    samples = []
    if graph.samples:
        chosen = input_shapes(graph.inputs, shapes, option=option)
        arrays = Sample(graph.samples[0]).arrays(graph.inputs)
        samples = [Sample(types_path.with_name("smallest.npz"))]
        save_npz(samples[0].path, {n: resized(arrays[n], shape) for n, shape in chosen.items()})
    smallest = plan_shapes(graph, types_path, shapes, option, samples).values
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


def _smaller(planned: Shape, other: Shape) -> Shape:
    """The smaller of each dimension; a rank that depends on the input shapes has no smallest."""
    return tuple(map(min, planned, other)) if len(planned) == len(other) else ()


def _planned(value: Value, shape: Shape) -> Value:
    """The value with its planned shape; ONNX Runtime reports an unknown rank as no dimensions."""
    known = len(value.shape) == len(shape)
    dims = value.shape if known else tuple(f"{value.name}.{axis}" for axis in range(len(shape)))
    return replace(value, shape=dims, planned=shape)


def _largest(
    graph: Graph,
    path: Path,
    planned: Mapping[str, Shape],
    unknown: Sequence[str],
    option: str,
    samples: Sequence[Sample],
) -> tuple[dict[str, Shape], list[Sample]]:
    """The largest shape of each unknown value, and the samples that have them.

    The sample with the largest values together comes first; one that was made of it never does.
    """
    session = open_session(path, quiet_options(optimise=False))
    if not samples:
        feeds = _seeded(graph, planned)
        try:
            return _shapes(session, graph, feeds, unknown), []
        except Exception as error:
            raise _refused_seeded(graph, planned, option, error) from error
    found: dict[str, Shape] = {}
    holder: dict[str, Sample] = {}
    totals: dict[Sample, int] = {}
    for sample in samples:
        try:
            shapes = _shapes(session, graph, sample.arrays(graph.inputs), unknown)
        except Exception as error:
            if sample.optional:
                continue
            raise ModelError(
                f"the model does not run on {sample.name} of the data",
                why=_first_line(error),
                hint="correct the data, and leave --shapes out or give them as the data has them",
            ) from error
        totals[sample] = -1 if sample.optional else sum(map(prod, shapes.values()))
        for name, shape in shapes.items():
            if name not in found or prod(shape) > prod(found[name]):
                found[name], holder[name] = shape, sample
    first = max(totals, key=lambda sample: totals[sample])
    others = (sample for sample, _ in Counter(holder.values()).most_common() if sample != first)
    return found, [first, *others][:MOST_SAMPLES]


def _shapes(
    session: Any, graph: Graph, feeds: Mapping[str, Array], unknown: Sequence[str]
) -> dict[str, Shape]:
    outputs = session.run_with_ort_values(list(unknown), _ort_values(feeds, graph.inputs))
    return {
        name: tuple(value.shape()) if value.is_tensor() else ()
        for name, value in zip(unknown, outputs, strict=True)
    }


def _seeded(graph: Graph, planned: Mapping[str, Shape]) -> dict[str, Array]:
    limits = {
        node.input[1]: graph.constants[node.input[0]].shape[0]
        for node in graph.nodes
        if is_lookup(graph, node)
    }
    return sample_inputs([(v.name, v.dtype, planned[v.name]) for v in graph.inputs], limits)


def _refused_seeded(
    graph: Graph, planned: Mapping[str, Shape], option: str, error: Exception
) -> ModelError:
    arrays = ", ".join(
        f"{v.name}=…" if v.name.isidentifier() else f"**{{{v.name!r}: …}}" for v in graph.inputs
    )
    given = f"--data inputs.npz, which numpy.savez('inputs.npz', {arrays}) writes"
    is_open = any(isinstance(dim, str) for value in graph.inputs for dim in value.shape)
    return ModelError(
        f"the model does not run on seeded inputs of "
        f"{as_option({v.name: planned[v.name] for v in graph.inputs})}",
        why=_first_line(error),
        hint=f"give inputs that it runs on: {given}"
        + (f"; or the shapes that it is used with: {option} name:1x3x224x224" if is_open else ""),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


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
