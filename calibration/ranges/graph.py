"""The observed model: its activations, and its graph with them as outputs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import helper
from onnx.external_data_helper import uses_external_data

from swapnet.builder.importing.graph import Graph, Value, bodies, external_bytes, used_names
from swapnet.builder.importing.shapes import plan_shapes
from swapnet.builder.importing.source import SourceModel, open_source
from swapnet.builder.precision.normalise import opset_of
from swapnet.builder.precision.selection import Channels
from swapnet.builder.rewriting.optimise import read_graph
from swapnet.calibration.ranges.collect import EXTREMES, extreme_name, mean_name
from swapnet.data.spool import Sample
from swapnet.errors import InputError, ModelError
from swapnet.files import working_folder, writing

__all__ = ["Model", "Variant", "open_model", "work_folder"]

_COPIED = "weights-copied.data"

_AXES_INPUT_OPSET = 18
"""Since this operator set ReduceMean takes its axes as an input."""

_HINT = "free some space, or set TMPDIR"


@dataclass(frozen=True)
class Variant:
    """A model with the observed values as outputs, beside the model that it shares weights with.

    ``inputs`` are the names of those that it still takes.
    """

    path: Path
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A model in a folder of its own, with its weights beside it."""

    path: Path
    source: SourceModel
    graph: Graph

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Inputs of the model."""
        return self.graph.inputs

    def activations(self) -> tuple[str, ...]:
        """Float32 inputs and computed values, in the order in which they are computed."""
        constant = {
            name for node in self.graph.nodes if node.op_type == "Constant" for name in node.output
        }
        computed = (name for node in self.graph.nodes for name in node.output if name)
        return tuple(
            name
            for name in (*(value.name for value in self.inputs), *computed)
            if name not in constant and self.graph.values[name].dtype == "float32"
        )

    def chosen(self, tensors: Collection[str]) -> tuple[str, ...]:
        """These tensors, each once, in the order in which they are computed.

        Raises
        ------
        InputError
            One of them is not a float activation, or there are none.
        """
        observable = self.activations()
        known = set(observable)
        strange = [name for name in tensors if name not in known]
        if strange:
            value = self.graph.values.get(strange[0])
            raise InputError(
                f"{strange[0]!r} can't be observed",
                why=f"it is {value.dtype}, and only float32 has ranges"
                if value
                else f"{self.source.name} computes no such value",
                hint="name activations of the model that is run, or leave the choice to SwapNet",
            )
        if not tensors:
            raise InputError(
                f"{self.source.name} has nothing to observe",
                why="no value is named, or none is float32",
                hint="name tensors, or leave calibration out",
            )
        wanted = set(tensors)
        return tuple(name for name in observable if name in wanted)

    def nbytes(self, shapes: Mapping[str, tuple[int, ...]], sample: Sample) -> dict[str, int]:
        """Bytes of every float32 value of a sample, at these input shapes.

        Raises
        ------
        InputError, ModelError
            The model does not run at them, or on the sample.
        """
        planned = plan_shapes(
            self.graph, self.path.with_suffix(".types.onnx"), shapes, samples=[sample]
        )
        return {
            name: value.nbytes or 0
            for name, value in planned.values.items()
            if value.dtype == "float32"
        }

    def ranked(self, channels: Mapping[str, Channels]) -> dict[str, Channels]:
        """Those of known rank."""
        return {name: c for name, c in channels.items() if len(self.graph.values[name].shape) > 1}

    def with_extremes(
        self,
        tensors: Sequence[str],
        channels: Mapping[str, Channels],
        name: str,
        *,
        finite: bool = False,
    ) -> Variant:
        """Write the model with scalars of each tensor as outputs.

        Parameters
        ----------
        tensors
            Computed ones; number ``i`` gets outputs ``extreme_name(i, …)``.
        channels
            `ranked` values; number ``i`` gets the output ``mean_name(i)``.
        name
            Stem of the file, beside the model.
        finite
            Count infinite elements as 0, which every range holds.
        """
        numbers = range(len(tensors))
        reduced = [_finite_name(number) if finite else t for number, t in enumerate(tensors)]
        outputs = [extreme_name(number, operator) for number in numbers for operator in EXTREMES]
        # ONNX Runtime sorts operators from the last that nobody uses: each of these then comes
        # right after what it reduces, which does not stay in memory for it.
        reductions = [
            helper.make_node(
                operator, [reduced[number]], [extreme_name(number, operator)], keepdims=0
            )
            for number in reversed(numbers)
            for operator in EXTREMES
        ]
        if finite:
            reductions = [*_without_infinities(tensors, reduced), *reductions]
        for number, (tensor, given) in reversed(list(enumerate(channels.items()))):
            reductions += self._mean(tensor, given, mean_name(number))
        outputs += [mean_name(number) for number in range(len(channels))]
        return self._write([*self.source.proto.graph.node, *reductions], outputs, name)

    def _mean(self, tensor: str, channels: Channels, output: str) -> list[onnx.NodeProto]:
        rank = len(self.graph.values[tensor].shape)
        axes = [axis for axis in range(rank) if axis != channels.axis % rank]
        if opset_of(self.source.proto) < _AXES_INPUT_OPSET:
            return [helper.make_node("ReduceMean", [tensor], [output], axes=axes, keepdims=0)]
        given = f"{output}.axes"
        return [
            helper.make_node("Constant", [], [given], value_ints=axes),
            helper.make_node("ReduceMean", [tensor, given], [output], keepdims=0),
        ]

    def with_outputs(self, tensors: Sequence[str], name: str) -> Variant:
        """Write the model with these tensors as outputs."""
        return self._write(list(self.source.proto.graph.node), list(tensors), name)

    def _write(self, nodes: list[onnx.NodeProto], outputs: list[str], name: str) -> Variant:
        """Write the operators that outputs need; by default the model's own outputs.

        Untyped outputs get their types from ONNX Runtime when it reads them.
        """
        before = self.source.proto
        wanted = outputs or [output.name for output in before.graph.output]
        needed = set(wanted)
        kept: list[onnx.NodeProto] = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(used_names(node))
        proto = onnx.ModelProto(ir_version=before.ir_version)
        proto.opset_import.extend(before.opset_import)
        proto.functions.extend(before.functions)
        graph, old = proto.graph, before.graph
        graph.name = old.name
        graph.node.extend(reversed(kept))
        graph.initializer.extend(t for t in old.initializer if t.name in needed)
        graph.sparse_initializer.extend(
            t for t in old.sparse_initializer if t.values.name in needed
        )
        graph.input.extend([v for v in old.input if v.name in needed] or old.input)
        graph.output.extend(onnx.ValueInfoProto(name=output) for output in wanted)
        path = self.path.with_name(f"{name}.onnx")
        _save(proto, path)
        stored = {tensor.name for tensor in graph.initializer}
        return Variant(path, tuple(v.name for v in graph.input if v.name not in stored))


def _finite_name(number: int) -> str:
    return f"swapnet.finite.{number}"


def _without_infinities(tensors: Sequence[str], results: Sequence[str]) -> list[onnx.NodeProto]:
    """Operators that give tensors with 0 for their infinite elements."""
    zero = "swapnet.finite.zero"
    nodes = [helper.make_node("Constant", [], [zero], value_float=0.0)]
    for tensor, result in reversed(list(zip(tensors, results, strict=True))):
        infinite = f"{result}.infinite"
        nodes += [
            helper.make_node("IsInf", [tensor], [infinite]),
            helper.make_node("Where", [infinite, zero, tensor], [result]),
        ]
    return nodes


@contextmanager
def work_folder(model: Path) -> Iterator[Path]:
    """A hidden folder beside a model, or a temporary one if that refuses; removed at the end.

    Raises
    ------
    StorageError
        Neither can be made.
    """
    prefix = f".{model.stem}.ranges."
    with ExitStack() as opened:
        try:
            folder = opened.enter_context(working_folder(prefix, model.parent))
        except OSError:
            with writing(f"a temporary folder for {model.name}", _HINT):
                folder = opened.enter_context(working_folder(prefix))
        yield folder


def open_model(model: Path, folder: Path) -> Model:
    """Put a model and links to its weights into a folder, and read it.

    Raises
    ------
    ModelError
        It can't be read, or ONNX Runtime refuses it.
    StorageError
        The folder can't be written.
    """
    source = open_source(model)
    path = folder / f"{source.name}.onnx"
    with writing(folder, _HINT):
        _link_weights(source.proto, model.parent, folder)
    _save(source.proto, path)
    graph = read_graph(path, source.name)
    if not graph.inputs:
        raise ModelError(
            f"{model} takes no inputs",
            why="its outputs never change",
            hint="give a model with inputs",
        )
    return Model(path, source, graph)


def _save(proto: onnx.ModelProto, path: Path) -> None:
    with writing(path, _HINT):
        onnx.save_model(proto, path)


def _link_weights(proto: onnx.ModelProto, source: Path, folder: Path) -> None:
    """Link external data under new names, or copy it from another filesystem.

    ONNX refuses a file with several links where a tensor is not an initialiser of the model itself,
    such as one of an If body. The bytes of those are copied.
    """
    names: dict[str, str] = {}
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            if entry.value not in names:
                names[entry.value] = f"weights-{len(names)}.data"
                _link((source / entry.value).resolve(), folder / names[entry.value])
            entry.value = names[entry.value]
    if inner := [tensor for tensor in _inner_tensors(proto.graph) if uses_external_data(tensor)]:
        with (folder / _COPIED).open("wb") as copied:
            for tensor in inner:
                _copy_data(tensor, source, copied)


def _inner_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All but a graph's own initialisers."""
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
        for body in bodies(node):
            yield from body.initializer
            yield from _inner_tensors(body)


def _copy_data(tensor: onnx.TensorProto, source: Path, copied: BinaryIO) -> None:
    data = external_bytes(tensor, source)
    placed = {"location": _COPIED, "offset": str(copied.tell()), "length": str(len(data))}
    del tensor.external_data[:]
    for key, value in placed.items():
        tensor.external_data.add(key=key, value=value)
    copied.write(data)


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:
        shutil.copyfile(file, link)
