"""Parts into TensorRT engines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import msgspec

from swapnet.builder.compilers.base import Cutting, Engine, EngineMemory, Piece, WeightStyle
from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.compilers.tensorrt.engine import compile_engine, compile_in_child
from swapnet.builder.compilers.tensorrt.errors import wants_memory
from swapnet.builder.compilers.tensorrt.job import Job, Profile
from swapnet.builder.compilers.tensorrt.operators import OF_BYTES, expand
from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.builder.compilers.tensorrt.style import choose_styles
from swapnet.builder.compilers.tensorrt.timing_cache import timing_cache_path
from swapnet.builder.cutting.limits import Limits
from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph, Value, used_names
from swapnet.builder.rewriting.localise_shapes import localise_shapes, shape_values
from swapnet.builder.rewriting.optimise import Operators
from swapnet.errors import BackendUnavailableError, ModelError
from swapnet.executor.planning.layout import Interval, pack, spans
from swapnet.executor.state import known_pairs
from swapnet.machine import Gpu, first_gpu
from swapnet.manifest import TENSOR_ALIGNMENT, Block, Compiled, Manifest
from swapnet.progress import Progress
from swapnet.shapes import SessionMemory
from swapnet.tensorrt import version
from swapnet.tensors import external_tensor
from swapnet.token_rows import IDS
from swapnet.units import align_up
from swapnet.version import VERSION

__all__ = ["ENGINE_CUT_COST_BYTES", "TensorRTCompiler"]

ENGINE_CUT_COST_BYTES = 64 << 20
"""Cost of one more engine, in bytes of live values: fusion across the cut, and launches. Not
measured here: onnxsim/onnxsim#1772 on GitHub reports 38.6 ms with 3 engines and 64 ms with 24 on an
Orin Nano, 1.2 ms each, in which it moves about 64 MiB."""


_OTHER_TYPES = {"float64": "float32"}
"""Types for which the parser takes another: bytes of one would be read as the other."""

_CONTEXT_BYTES = 256 << 10
"""Memory of an execution context: assumed, not measured on hardware."""


@dataclass(frozen=True)
class TensorRTCompiler:
    """Engines of ``tensorrt`` or ``tensorrt-rtx``.

    Attributes
    ----------
    options
        Checked options.
    limits
        Workspace and memory of kernels.
    work
        Folder for the temporary models of blocks.
    process_per_block
        Compile each block in a process of its own, which returns all of its memory.
    measured_ms
        Milliseconds of each style, by block, where they were measured (`measure_styles`).
    """

    backend: str
    options: TensorRTOptions
    limits: Limits
    work: Path
    process_per_block: bool = False
    measured_ms: Mapping[int, Mapping[WeightStyle, float]] = field(default_factory=dict)
    suffix: ClassVar[str] = ".plan"
    inplace: ClassVar[bool] = False
    inner_values: ClassVar[bool] = False
    operators: ClassVar[Operators] = Operators.STANDARD

    @cached_property
    def compiled(self) -> Compiled:
        """This version, and the GPUs that engines run on."""
        later = "+" if self.options.version_compatible else ""
        made = version(self.backend) + later
        return Compiled(self.backend, made, self._fingerprint, VERSION)

    @property
    def _fingerprint(self) -> str:
        if self.backend == "tensorrt-rtx":
            return "+".join(self.options.targets) or "any"
        target = self._gpu.target
        return "sm80+" if self.options.hardware_compatibility == "ampere+" else target

    @cached_property
    def _gpu(self) -> Gpu:
        """The GPU that ``tensorrt`` builds on."""
        gpu = first_gpu()
        if gpu is None:
            raise BackendUnavailableError(
                f"{self.backend} can't build here",
                why="it times kernels on a CUDA GPU, and there is none",
                hint="build on the GPU that executes, or with --backend tensorrt-rtx, "
                "which needs none",
            )
        return gpu

    def prepare(self, graph: Graph) -> Graph:
        """Shapes are computed where they are read, so that no cut has to carry them.

        Raises
        ------
        ModelError
            The graph computes with a type that the library would silently make another.
        """
        kinds = {name: value.dtype for name, value in graph.values.items()}
        kinds |= {name: constant.dtype for name, constant in graph.constants.items()}
        for name, dtype in kinds.items():
            if dtype in _OTHER_TYPES:
                raise ModelError(
                    f"{name!r} can't be computed by {self.backend}",
                    why=f"it is {dtype}, which the library would take for {_OTHER_TYPES[dtype]}",
                    hint="convert the model to float32, or build with --backend onnxruntime",
                )
        return localise_shapes(graph)

    def cutting(self, graph: Graph) -> Cutting:
        """Coarsely, and never across a shape."""
        shapes = shape_values(graph)
        for value in graph.inputs:
            if value.name in shapes:
                raise ModelError(
                    f"input {value.name!r} can't be bound by {self.backend}",
                    why="it says how large another value is, which must be known on the host",
                    hint="make it a constant, or build with --backend onnxruntime",
                )
        apart = {n for node in graph.nodes if node.op_type in OF_BYTES for n in node.output}
        of_bytes = {name for name in apart if graph.values[name].dtype == "uint8"}
        return Cutting(ENGINE_CUT_COST_BYTES, shapes | of_bytes)

    def styles(self, graph: Graph, pieces: Sequence[Piece]) -> tuple[WeightStyle, ...]:
        return choose_styles(pieces, self.options.weights or "auto", self.measured_ms)

    def compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        """Write the engine; embedded where external weights are refused and nobody asked for them.

        Raises
        ------
        ModelError
            The library refuses it.
        BackendUnavailableError
            The library can't build here.
        """
        try:
            return self._compile(graph, piece, style, target, progress)
        except ModelError as error:
            asked = style == "embedded" or self.options.weights == "external"
            if asked or wants_memory(error) or not _embeddable(piece):
                raise
            return self._compile(graph, piece, "embedded", target, progress)

    def _compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        model = self.work / f"{piece.index:03}.onnx"
        inputs = _save_model(
            graph,
            piece.part,
            piece.title,
            model,
            embedded=piece.own if style == "embedded" else (),
        )
        options = self.options
        given = {value.name: value for value in graph.inputs}
        pasts = dict(known_pairs((value.name for value in graph.outputs), given)).values()
        chunk = given[IDS].planned[-1] if IDS in given else 0
        job = Job(
            backend=self.backend,
            title=piece.title,
            model=str(model),
            engine=str(target),
            external=options.weights == "external" and bool(piece.own),
            profiles={
                v.name: _profile(v, chunk * (v.name in pasts)) for v in inputs if _is_symbolic(v)
            },
            workspace_bytes=self.limits.workspace_bytes,
            tactic_bytes=self.limits.tactic_bytes,
            targets=options.targets,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            builder_optimization_level=options.builder_optimization_level,
            timing_cache=self._timing_cache,
        )

        compile_ = compile_in_child if self.process_per_block else compile_engine
        try:
            activation_bytes = compile_(job, progress)
        except ModelError as error:
            if options.workspace is not None or not wants_memory(error):
                raise
            unlimited = msgspec.structs.replace(job, workspace_bytes=None, tactic_bytes=None)
            activation_bytes = compile_(unlimited, progress)
        model.unlink()
        model.with_suffix(".data").unlink()
        if activation_bytes is None:
            activation_bytes = _inner_bytes(graph, piece.part) + self.limits.workspace_bytes
        return Engine(style, activation_bytes)

    @cached_property
    def _timing_cache(self) -> str | None:
        """TensorRT-RTX times nothing when it builds."""
        if self.backend == "tensorrt-rtx":
            return None
        return str(timing_cache_path(version(self.backend), self._gpu.name))

    def memory(self, folder: Path, manifest: Manifest) -> EngineMemory:
        """Activations as the builder says; the executor asks the engines where there is a GPU."""
        return EngineMemory(
            tuple(block.activation_bytes for block in manifest.blocks),
            SessionMemory(),
            skeleton_bytes=tuple(
                _CONTEXT_BYTES + _size(folder, block) if block.is_graph else 0
                for block in manifest.blocks
            ),
        )


def _save_model(
    graph: Graph, part: Part, name: str, path: Path, *, embedded: Collection[str]
) -> list[Value]:
    """Write a part to ``path``, and its ``embedded`` weights to a file beside it (``.data``).

    Its inputs are returned, with the sizes that its operators fix.
    """
    model = skeleton(graph, part, name, embedded)
    data = path.with_suffix(".data")
    offset = 0
    with data.open("wb") as file:
        for weight in embedded:
            constant = graph.constants[weight]
            file.seek(offset)
            file.write(constant.bytes().data)
            place = (data.name, offset, constant.nbytes)
            stored = external_tensor(weight, constant.dtype, constant.shape, *place)
            model.graph.initializer.append(stored)
            offset = align_up(offset + constant.nbytes, TENSOR_ALIGNMENT)
    inputs = {n: graph.values[n] for n in part.inputs} | expand(model, name, graph.values)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return [inputs[n] for n in part.inputs]


def _inner_bytes(graph: Graph, part: Part) -> int:
    """Peak of the values that live inside a part, at the planned shapes, none written in place.

    Fused kernels keep less: a compiled engine has a figure of its own.
    """
    outside = {*part.inputs, *part.outputs}
    touched = ((*used_names(node), *node.output) for node in part.nodes)
    return pack(
        Interval(name, graph.values[name].nbytes or 0, first, last)
        for name, (first, last) in spans(touched).items()
        if name in graph.values and name not in outside
    ).nbytes


def _size(folder: Path, block: Block) -> int:
    """Bytes of a plan that stays in memory."""
    return (folder / block.file).stat().st_size if block.file else 0


def _embeddable(piece: Piece) -> bool:
    return bool(piece.own) and not piece.readable


def _is_symbolic(value: Value) -> bool:
    return any(isinstance(dim, str) for dim in value.shape)


def _profile(value: Value, chunk: int) -> Profile:
    """Shapes from the smallest, or 1 in each symbolic dimension, to the planned one.

    The past of a decoder, before at most a ``chunk`` of tokens, is empty at first and longer before
    a single token; ``chunk`` is 0 for others.
    """
    smallest = value.smallest or tuple(
        planned if isinstance(dim, int) else min(1, planned)
        for dim, planned in zip(value.shape, value.planned, strict=True)
    )
    largest = value.planned
    axis = max(axis for axis, dim in enumerate(value.shape) if isinstance(dim, str))
    if chunk and axis:
        smallest = (*smallest[:axis], 0, *smallest[axis + 1 :])
        largest = (*largest[:axis], largest[axis] + chunk - 1, *largest[axis + 1 :])
    return Profile(smallest, value.planned, largest)
