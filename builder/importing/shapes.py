"""Concrete shapes of every value, for the input shapes that a model is planned for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from swapnet.arrays import Array, save_npz
from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.symbols import candidates, fixed_sizes, with_fixed
from swapnet.data.spool import Sample, resized
from swapnet.errors import InputError, ModelError, SwapnetError
from swapnet.executor.samples import MOST_SAMPLES
from swapnet.sampling import sample_inputs
from swapnet.shapes import as_option, as_title, given_sizes, input_shapes, shapes_of
from swapnet.symbols import as_sizes, check_fixed, model_symbols, refusal_text
from swapnet.tensors import ONNX_TYPES

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["plan_shapes", "plan_sizes", "plan_smallest", "shapes_at"]

Shape = tuple[int, ...]

_SHOWN = 4
"""Number of inputs that a hint names: a decoder has one for each tensor of its cache."""

_REPAIRS = 4
"""Number of sizes to try that ONNX Runtime names when it refuses others."""


def plan_sizes(
    graph: Graph,
    types_path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    samples: Sequence[Sample] = (),
) -> Graph:
    """The graph with the planned shape of every value, where some sizes may be left open.

    Symbols that the graph fixes become numbers. The others that are not given are assumed: the
    first of `candidates` at which the model runs. Inputs that are planned keep their shapes, and a
    graph that is planned on all samples is returned as it is.

    Parameters
    ----------
    graph, types_path
        As for `plan_shapes`.
    shapes, dims
        Shapes of inputs and sizes of symbols that the user gave.
    samples
        As for `plan_shapes`; ``shapes`` are then those of all inputs.

    Raises
    ------
    InputError
        A given size does not fit, or contradicts another.
    ModelError
        The model does not run at any of these sizes, or not on the samples.
    """
    if graph.inputs and all(len(v.planned) == len(v.shape) for v in graph.inputs):
        if len(samples) < 2 and all(len(v.planned) == len(v.shape) for v in graph.values.values()):
            return graph
        kept = {v.name: v.planned for v in graph.inputs}
        return plan_shapes(graph, types_path, kept, samples=samples)
    fixed = fixed_sizes(graph)
    for symbol in fixed.keys() & dims.keys():
        check_fixed(symbol, dims[symbol], fixed[symbol])
    graph = with_fixed(graph, fixed)
    open_dims = {name: size for name, size in dims.items() if name not in fixed}
    likely = next(candidates(graph.inputs, {}))
    known = given_sizes(graph.inputs, shapes, likely, dims=open_dims)
    refusals: list[tuple[dict[str, int], SwapnetError]] = []

    def runs(sizes: dict[str, int]) -> Graph | None:
        try:
            planned = shapes_of(graph.inputs, sizes)
            planned_graph = plan_shapes(graph, types_path, planned, samples=samples)
            return replace(planned_graph, symbols={**sizes, **fixed})
        except (ModelError, InputError) as error:
            refusals.append((sizes, error))
            return None

    for sizes in candidates(graph.inputs, known):
        if planned := runs(sizes):
            return planned
        if len(refusals) == 1:
            repairs = islice(_repairs(sizes, refusals[0][1], given=known), _REPAIRS)
            if planned := next(filter(None, map(runs, repairs)), None):
                return planned
    sizes, refusal = refusals[0]
    if not sizes or samples:
        raise refusal
    repairs = islice(_repairs(sizes, refusal, given={}), _REPAIRS)
    working = next((other for other in repairs if runs(other)), None)
    raise ModelError(
        f"the model does not run at {as_sizes(sizes)}",
        why=refusal.why,
        hint=f"it runs at --dims {quote(as_sizes(working))}"
        if working
        else f"give sizes that it is used with: --dims {next(iter(sizes))}=SIZE,…; or "
        f"{refusal.hint}",
    )


def _repairs(
    sizes: Mapping[str, int], refusal: SwapnetError, given: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Sizes with another number for one symbol that was not given, out of a refusal's text."""
    numbers = dict.fromkeys(map(int, re.findall(r"\b\d{1,6}\b", refusal.why)))
    for symbol, size in sizes.items():
        if symbol not in given and size in numbers:
            # Every axis of 1 is broadcast: it says little.
            others = sorted((n for n in numbers if n != size), key=lambda number: number < 2)
            yield from ({**sizes, symbol: number} for number in others)


_BFLOAT16_SINCE = 13
"""The operator set since which Shape takes bfloat16."""


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
        The same graph as a model in which every value is an output; where shapes are symbolic its
        operators run for each sample, and each value lives until its last reader is done.
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
    if unknown or model_symbols(graph.inputs):
        names = unknown or [graph.outputs[-1].name]
        found, kept = _largest(graph, types_path, planned, names, option, samples)
        planned |= found
    return replace(
        graph,
        samples=tuple(sample.path for sample in kept),
        values={n: _planned(v, planned[n]) for n, v in graph.values.items()},
        inputs=tuple(_planned(v, planned[v.name]) for v in graph.inputs),
        outputs=tuple(_planned(v, planned[v.name]) for v in graph.outputs),
    )


def shapes_at(
    graph: Graph, types_path: Path, names: Sequence[str], trials: Iterable[Mapping[str, int]]
) -> Iterator[dict[str, Shape] | None]:
    """Shapes of the inputs and of values at sizes of the symbols; None where nothing runs.

    Parameters
    ----------
    graph, types_path
        As for `plan_shapes`.
    names
        The values.
    trials
        Sizes of all symbols.
    """
    asked = {name for name in names if _takes_shape(graph, graph.values[name])}
    session = _session_of_shapes(types_path, names, asked)
    for sizes in trials:
        planned = {v.name: v.planned for v in graph.inputs}
        try:
            planned |= shapes_of(graph.inputs, dict(sizes))
            found = _seeded_shapes(session, graph, planned, names, "--shapes", asked)
        except SwapnetError:
            yield None
        else:
            yield planned | found


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
    planned = {value.name: value.planned for value in graph.inputs}
    least = {s: min(1, size) for s, size in given_sizes(graph.inputs, planned).items()}
    wanted = input_shapes(graph.inputs, shapes, least, option)
    samples = []
    if graph.samples:
        arrays = Sample(graph.samples[0]).arrays(graph.inputs)
        samples = [Sample(types_path.with_name("smallest.npz"))]
        save_npz(samples[0].path, {n: resized(arrays[n], shape) for n, shape in wanted.items()})
    smallest = plan_shapes(graph, types_path, wanted, option, samples).values
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
    asked = {name for name in unknown if _takes_shape(graph, graph.values[name])}
    session = _session_of_shapes(path, unknown, asked)
    if not samples:
        return _seeded_shapes(session, graph, planned, unknown, option, asked), []
    found: dict[str, Shape] = {}
    holder: dict[str, Sample] = {}
    totals: dict[Sample, int] = {}
    for sample in samples:
        try:
            shapes = _shapes(session, graph, sample.arrays(graph.inputs), unknown, asked)
        except Exception as error:
            if sample.optional:
                continue
            raise ModelError(
                f"the model does not run on {sample.name} of the data",
                why=refusal_text(str(error)),
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
    session: ort.InferenceSession,
    graph: Graph,
    feeds: Mapping[str, Array],
    names: Sequence[str],
    asked: Collection[str] = (),
) -> dict[str, Shape]:
    """Shapes of values: outputs of the session, or of those ``asked`` for, whose shapes are."""
    outputs = session.run_with_ort_values(
        [_output(name, asked) for name in names], _ort_values(feeds, graph.inputs)
    )
    return {
        name: tuple(map(int, value.numpy()))
        if name in asked
        else tuple(value.shape())
        if value.is_tensor()
        else ()
        for name, value in zip(names, outputs, strict=True)
    }


def _seeded_shapes(
    session: ort.InferenceSession,
    graph: Graph,
    planned: Mapping[str, Shape],
    names: Sequence[str],
    option: str,
    asked: Collection[str] = (),
) -> dict[str, Shape]:
    """Shapes of values for seeded inputs of the planned shapes."""
    limits = {
        node.input[1]: graph.constants[node.input[0]].shape[0]
        for node in graph.nodes
        if is_lookup(graph, node)
    }
    feeds = sample_inputs(
        [(v.name, v.dtype, planned[v.name]) for v in graph.inputs],
        limits,
        shapes={v.name: v.shape for v in graph.inputs},
    )
    try:
        return _shapes(session, graph, feeds, names, asked)
    except Exception as error:
        raise _refused_seeded(graph, planned, option, error) from error


def _refused_seeded(
    graph: Graph, planned: Mapping[str, Shape], option: str, error: Exception
) -> ModelError:
    arrays = [
        f"{v.name}=…" if v.name.isidentifier() else f"**{{{v.name!r}: …}}" for v in graph.inputs
    ]
    arrays[_SHOWN:] = ["…"] * (len(arrays) > _SHOWN)
    given = f"--data inputs.npz, which numpy.savez('inputs.npz', {', '.join(arrays)}) writes"
    is_open = any(isinstance(dim, str) for value in graph.inputs for dim in value.shape)
    return ModelError(
        f"the model does not run on seeded inputs of "
        f"{as_title({v.name: planned[v.name] for v in graph.inputs})}",
        why=refusal_text(str(error)),
        hint=f"give inputs that it runs on: {given}"
        + (f"; or shapes: {option} name:1x3x224x224" if is_open else ""),
    )


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
    import onnxruntime as ort

    proto = onnx.load_model(path, load_external_data=False)
    outputs = [_output(name, asked) for name in names]
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


def _output(name: str, asked: Collection[str]) -> str:
    return f"{name}/swapnet.shape" if name in asked else name


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
