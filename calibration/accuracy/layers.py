"""Where the error enters: values inside two models compared in the order of execution.

A quantised model keeps the names of the float values of the model that it was made of. A value is
compared before it is rounded to 8 bits, so that this rounding counts to the operators that read it:
they are what is excluded. Where a Relu became a part of the rounding, the value is compared after
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from math import prod
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from swapnet.arrays import Array
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.calibration.accuracy.metrics import Error, error_of
from swapnet.calibration.accuracy.report import LayerAccuracy
from swapnet.calibration.ranges.groups import group_tensors
from swapnet.errors import InputError, ModelError
from swapnet.progress import Progress, silent

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["MOST_SUGGESTED", "Layer", "compare_layers", "match_layers", "suggest"]

GROUP_BYTES = 64 << 20
"""Bytes of one sample's values that are in memory at once, for each model."""

MOST_SUGGESTED = 5
WORTH = 0.1
"""Share of all noise that an operator adds for which excluding it is suggested."""

_BEFORE = "{}_QuantizeLinear_Input"
_AFTER = "{}_DequantizeLinear_Output"
_SHAPES = frozenset({"Shape", "Size"})
_FLOATS = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(double)": 8}


@dataclass(frozen=True)
class Layer:
    """A value that both models have.

    Attributes
    ----------
    value, measured
        Its name in the reference, and in the candidate.
    operator, kind, excludable
        As in `LayerAccuracy`.
    inputs
        Compared values that it is computed from.
    """

    value: str
    measured: str
    operator: str
    kind: str
    inputs: tuple[str, ...]
    excludable: bool


def compare_layers(
    reference: Path,
    candidate: Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    limit: int = 8,
    group_bytes: int = GROUP_BYTES,
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[LayerAccuracy, ...]:
    """Compare the float values that two ONNX models have in common.

    Values become outputs, one group after the other, each in a session of its own; operators are
    not fused.

    Parameters
    ----------
    reference
        The float model that ``candidate`` was made of, after
        `swapnet.builder.precision.normalise`.
    candidate
        The model with Q/DQ pairs or dequantised weights, or in float16.
    samples, limit
        Inputs by name, iterated again for each group, and how many of them, from the first.
    group_bytes
        Bytes of one sample's values that are in memory at once, for each model.
    threads
        Threads of ONNX Runtime; by default all processors.

    Raises
    ------
    InputError
        The models have no value in common, or there are no samples.
    ModelError
        ONNX Runtime refuses a file.
    """
    models = [open_source(path).proto for path in (reference, candidate)]
    first = next(iter(samples), None)
    if first is None:
        raise InputError(
            "there are no samples to compare on", why="the data is empty", hint="give at least one"
        )
    layers = match_layers(*models)
    sizes = _sizes(reference, models[0], [layer.value for layer in layers], first, threads)
    floats = _sizes(candidate, models[1], [layer.measured for layer in layers], first, threads)
    layers = tuple(
        layer for layer in layers if sizes[layer.value] and floats[layer.measured] is not None
    )
    if not layers:
        raise InputError(
            f"{candidate} has no float value of {reference}",
            why="no operator writes a value with the name of one there",
            hint="compare a file that swapnet quantize wrote with the model that it was made from",
        )
    errors: dict[str, Error] = {}
    groups = list(
        group_tensors(((layer, sizes[layer.value] or 0) for layer in layers), group_bytes)
    )
    for done, group in enumerate(groups):
        progress("layers", done, len(groups))
        errors.update(_group_errors(reference, candidate, models, group, samples, limit, threads))
    progress("layers", len(groups), len(groups))
    return tuple(_accuracy(layer, errors) for layer in layers)


def suggest(layers: Sequence[LayerAccuracy]) -> tuple[str, ...]:
    """Operators to exclude: at most 5, each of which adds a tenth or more of all noise.

    Noise that grows in float operators is amplified, not added, and does not count. Noise early in
    a model that later layers average out counts as much as noise at its end.
    """
    lowered = [layer for layer in layers if layer.excludable]
    total = sum(layer.own_noise for layer in lowered)
    worst = sorted(lowered, key=lambda layer: -layer.own_noise)[:MOST_SUGGESTED]
    return tuple(
        dict.fromkeys(
            layer.operator
            for layer in worst
            if layer.own_noise > 0 and layer.own_noise >= WORTH * total
        )
    )


def match_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> tuple[Layer, ...]:
    """The values that both models have, in the reference's order of execution."""
    theirs = {name: node for node in candidate.graph.node for name in node.output if name}
    lowered = _lowered(candidate.graph)
    writers = {name: node for node in reference.graph.node for name in node.output if name}
    measured = {
        name: given for name, node in writers.items() if (given := _measured(name, node, theirs))
    }
    return tuple(
        _layer(name, measured, writers, lowered)
        for node in reference.graph.node
        for name in node.output
        if name in measured and node.op_type not in ("Constant", *_SHAPES)
    )


def _measured(
    name: str, writer: onnx.NodeProto, theirs: Mapping[str, onnx.NodeProto]
) -> str | None:
    before, after = _BEFORE.format(name), _AFTER.format(name)
    same = [n for n in (name, before) if n in theirs and theirs[n].op_type == writer.op_type]
    if same:
        return same[0]
    return next((n for n in (after, name) if n in theirs), None)


def _lowered(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of operators in lower precision: readers of dequantised values, or all in float16."""
    widened = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    plain = ("QuantizeLinear", "DequantizeLinear", "Cast")
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type not in plain
        if not widened or not widened.isdisjoint(node.input)
    )


def _layer(
    value: str,
    measured: Mapping[str, str],
    writers: Mapping[str, onnx.NodeProto],
    lowered: frozenset[str],
) -> Layer:
    """A value with the operators between it and other compared values."""
    region: dict[int, onnx.NodeProto] = {}
    inputs: dict[str, None] = {}
    waiting = [writers[value]]
    while waiting:
        node = waiting.pop()
        if id(node) in region or node.op_type in _SHAPES:
            continue
        region[id(node)] = node
        for name in node.input:
            if name in measured:
                inputs[name] = None
            elif name in writers:
                waiting.append(writers[name])
    operators = list(region.values())[::-1]
    candidates = [node for node in operators if node.name in lowered]
    chosen = candidates[0] if candidates else writers[value]
    return Layer(
        value, measured[value], chosen.name, chosen.op_type, tuple(inputs), bool(candidates)
    )


def _sizes(
    path: Path,
    proto: onnx.ModelProto,
    names: Sequence[str],
    feed: Mapping[str, Array],
    threads: int | None,
) -> dict[str, int | None]:
    """Bytes of each value for inputs of these shapes; None for other types than float.

    A value of unknown shape counts as the largest known one.
    """
    fixed = type(proto)()
    fixed.CopyFrom(proto)
    for given in fixed.graph.input:
        if given.name in feed:
            dims = given.type.tensor_type.shape.dim
            for dim, size in zip(dims, feed[given.name].shape, strict=False):
                dim.dim_value = size
    outputs = _session(path, fixed, names, threads).get_outputs()
    known = {
        output.name: prod(output.shape) * _FLOATS[output.type]
        for output in outputs
        if output.type in _FLOATS and all(isinstance(dim, int) for dim in output.shape)
    }
    largest = max(known.values(), default=1)
    return {
        output.name: known.get(output.name, largest) if output.type in _FLOATS else None
        for output in outputs
    }


def _group_errors(
    reference: Path,
    candidate: Path,
    models: Sequence[onnx.ModelProto],
    group: Sequence[Layer],
    samples: Iterable[Mapping[str, Array]],
    limit: int,
    threads: int | None,
) -> dict[str, Error]:
    values, measured = [layer.value for layer in group], [layer.measured for layer in group]
    ours = _session(reference, models[0], values, threads)
    theirs = _session(candidate, models[1], measured, threads)
    found: dict[str, list[Error]] = {name: [] for name in values}
    for feed in islice(samples, limit):
        expected = _run(ours, values, feed, reference)
        given = _run(theirs, measured, feed, candidate)
        for name, one, other in zip(values, expected, given, strict=True):
            found[name].append(error_of(one, other))
    return {name: reduce(add, errors) for name, errors in found.items()}


def _session(
    path: Path, proto: onnx.ModelProto, names: Iterable[str], threads: int | None
) -> onnxruntime.InferenceSession:
    """A session with these values as outputs; weights are read from beside the file."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    declared = {output.name: output for output in proto.graph.output}
    del changed.graph.output[:]
    changed.graph.output.extend(
        declared.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(names)
    )
    options = quiet_options(optimise=False, packs=True, threads=threads)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.absolute().parent)
    )
    try:
        return open_session(changed.SerializeToString(), options)
    except ModelError as error:
        raise _refused(path, error.why) from error


def _run(
    session: onnxruntime.InferenceSession,
    names: Sequence[str],
    feed: Mapping[str, Array],
    path: Path,
) -> list[Any]:
    try:
        return list(session.run(list(names), dict(feed)))
    except Exception as error:  # ONNX Runtime has a class of its own for each refusal
        raise _refused(path, str(error)) from error


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(
        f"ONNX Runtime refuses {path} layer by layer",
        why=why,
        hint="compare outputs only: leave --per-layer out",
    )


def _accuracy(layer: Layer, errors: Mapping[str, Error]) -> LayerAccuracy:
    error = errors[layer.value]
    before = [errors[name].noise_to_signal for name in layer.inputs if name in errors]
    return LayerAccuracy(
        value=layer.value,
        operator=layer.operator,
        kind=layer.kind,
        snr_db=error.snr_db,
        own_noise=max(error.noise_to_signal - max(before, default=0.0), 0.0),
        excludable=layer.excludable,
    )
