"""The stages of a build, from a model that is read to an engine directory that is whole."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from swapnet.builder.compilers.base import Compiler, EngineMemory
from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler, OnnxRuntimeCudaCompiler
from swapnet.builder.compilers.tensorrt.compiler import TensorRTCompiler
from swapnet.builder.compilers.tensorrt.style import measure_styles
from swapnet.builder.cutting.partition import partition
from swapnet.builder.cutting.placing import with_inner_outputs
from swapnet.builder.cutting.runs import compute_factors_first, edges, open_tokens
from swapnet.builder.importing.formulas import with_formulas
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.inputs import inputs_of
from swapnet.builder.importing.shapes import plan_sizes, plan_smallest
from swapnet.builder.importing.source import SourceModel, random_reasons
from swapnet.builder.importing.symbols import context_sizes, likely_shapes
from swapnet.builder.options import BuildOptions
from swapnet.builder.precision.convert import Converted, convert
from swapnet.builder.precision.int8_or_float import slower_in_int8
from swapnet.builder.rewriting.asked_rows import ask_rows
from swapnet.builder.rewriting.columns_as_rows import lay_columns_as_rows
from swapnet.builder.rewriting.late import compute_late
from swapnet.builder.rewriting.narrowing import expanded_values, narrow_weights
from swapnet.builder.rewriting.optimise import TYPES, optimise
from swapnet.builder.rewriting.rows_first import gather_rows_first
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.builder.writing.blocks import CutGraph, compile_parts, with_owners
from swapnet.builder.writing.directory import staging_directory
from swapnet.data.samples import samples_of
from swapnet.data.spool import Sample, samples_to_plan, spool
from swapnet.executor.backends import can_run
from swapnet.executor.backends.onnxruntime import names_shapes
from swapnet.executor.probing.stripings import with_stripings
from swapnet.executor.samples import save_samples
from swapnet.executor.state import CONTEXT, known_pairs
from swapnet.manifest import TOKENIZER, Manifest, Source, save_manifest
from swapnet.progress import Progress
from swapnet.ranges import RANGES, save_ranges
from swapnet.tensorrt import TENSORRT
from swapnet.token_rows import IDS

__all__ = ["Build", "build_into", "import_model", "with_memory"]

_LOGGER = logging.getLogger("swapnet")

_NARROWER = {None: 1, "float16": 2, "int8": 4}
"""Float32 bytes over stored ones."""


@dataclass(frozen=True)
class Build:
    """A model on its way to an engine directory; each stage takes what the one before gave.

    Attributes
    ----------
    options
        Checked (`BuildOptions.checked`).
    source, converted
        The model as it was given, and in the precision that was asked for.
    max_block_bytes
        Limit of a block's weights.
    compiler
        Compiler of blocks.
    work
        Folder for files on their way; it must stay until the last stage.
    progress
        Called with each stage.
    samples
        Inputs to plan with; none for seeded ones.
    """

    options: BuildOptions
    source: SourceModel
    converted: Converted
    max_block_bytes: int
    compiler: Compiler
    work: Path
    progress: Progress
    samples: tuple[Sample, ...] = ()

    def rewrite(self) -> Graph:
        """Optimise the model; slice what is too large, and narrow weights, as the compiler asks."""
        options, converted = self.options, self.converted
        self.progress("optimise", 0, 1)
        graph = optimise(
            converted.source,
            self.work,
            operators=self.compiler.operators,
            shapes=options.shapes,
            dims=options.dims,
            samples=self.samples,
            keep_floats=converted.source is not self.source,
        )
        self.progress("shapes", 0, 1)
        graph = plan_sizes(
            graph,
            self.work / TYPES,
            options.shapes,
            options.dims,
            self.samples,
        )
        if self.compiler.inner_values and names_shapes():
            graph = with_formulas(graph, self.work / TYPES)
        if options.tensorrt.min_shapes:
            graph = plan_smallest(graph, self.work / TYPES, options.tensorrt.min_shapes)
        by_cost = options.max_block is None and options.smallest_budget is None
        graph = gather_rows_first(graph)
        if self.compiler.inner_values:
            graph = ask_rows(lay_columns_as_rows(graph))
        graph = slice_operators(graph, self.max_block_bytes, by_cost=by_cost)
        if converted.narrow:
            graph = narrow_weights(graph, converted.narrow, self.work, keep=converted.keep)
        graph = self.compiler.prepare(graph)
        return compute_late(graph) if self.compiler.inner_values else graph

    def cut(self, graph: Graph) -> CutGraph:
        """Cut the graph into blocks, each with the weights that it stores."""
        if self.compiler.inner_values:
            graph = compute_factors_first(open_tokens(graph))
        cutting = self.compiler.cutting(graph)
        parts = partition(
            graph,
            self.max_block_bytes,
            cut_cost_bytes=cutting.cut_cost_bytes,
            uncut=cutting.uncut | expanded_values(graph),
            edges=edges(graph) if self.compiler.inner_values else (),
        )
        if self.compiler.inner_values:
            parts = with_inner_outputs(graph, parts)
        return with_owners(graph, parts)

    def with_faster_styles(self, cut: CutGraph) -> Build:
        """Choose the weight style of each block that is faster on this GPU.

        Engines of both styles are built and run, unless a style was asked for or none runs here.
        """
        compiler = self.compiler
        if (
            not isinstance(compiler, TensorRTCompiler)
            or compiler.options.weights not in (None, "auto")
            or not can_run(compiler.backend)
        ):
            return self

        def make(style: str, folder: Path) -> None:
            chosen = replace(compiler, options=replace(compiler.options, weights=style))
            with staging_directory(folder) as staging:
                replace(self, compiler=chosen).finish(cut, staging)

        measured_ms = measure_styles(make, self.work)
        return replace(self, compiler=replace(compiler, measured_ms=measured_ms))

    def finish(self, cut: CutGraph, folder: Path) -> None:
        """Compile the blocks into ``folder``, write the manifest and the samples, and measure."""
        manifest = self.compile(cut, folder)
        self.write(manifest, folder)
        graph = cut.graph
        save_samples(folder, [Sample(path).arrays(graph.inputs) for path in graph.samples])
        self.measure(manifest, folder)

    def compile(self, cut: CutGraph, folder: Path) -> Manifest:
        """Write engines and weights, block by block; what blocks need is measured later."""
        source, precision = self.source, self.options.precision
        manifest = compile_parts(
            cut,
            folder,
            self.work,
            self.compiler,
            source=Source(
                source.name,
                source.sha256,
                str((source.origin or source.path).absolute()),
                source.data.sha256,
            ),
            max_block_bytes=self.max_block_bytes,
            progress=self.progress,
        )
        return msgspec.structs.replace(
            manifest,
            precision=precision.precision,
            weight_only=precision.is_stored_only(self.options.backend),
        )

    def write(self, manifest: Manifest, folder: Path) -> None:
        """Write the manifest, the ranges that the engine was built with, and the tokenizer."""
        save_manifest(folder, manifest)
        for path in self.source.tokenizer:
            (folder / TOKENIZER).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / TOKENIZER / path.name)
        if (ranges := self.options.precision.ranges) is not None:
            save_ranges(folder / RANGES, ranges)

    def measure(self, manifest: Manifest, folder: Path) -> None:
        """Measure what blocks need beside their weights, and write it into the manifest."""
        self.progress("measure", 0, 1)
        save_manifest(folder, with_memory(manifest, self.compiler.memory(folder, manifest)))


def with_memory(manifest: Manifest, memory: EngineMemory) -> Manifest:
    """The manifest with what the engine takes beside its weights."""
    skeletons = memory.skeleton_bytes or [block.skeleton_bytes for block in manifest.blocks]
    blocks = tuple(
        msgspec.structs.replace(block, activation_bytes=activations, skeleton_bytes=skeleton)
        for block, activations, skeleton in zip(
            manifest.blocks, memory.activation_bytes, skeletons, strict=True
        )
    )
    measured = msgspec.structs.replace(
        manifest, blocks=blocks, session_memory=memory.session_memory
    )
    return with_stripings(measured, memory.stripings)


def build_into(
    options: BuildOptions, source: SourceModel, staging: Path, work: Path, progress: Progress
) -> None:
    """All stages: the engine into ``staging``, other files into ``work``.

    Raises
    ------
    SwapnetError
        As `swapnet.builder.build`.
    OSError
        A file can't be written.
    """
    for reason in random_reasons(source):
        _LOGGER.warning("%s: %s", source.name, reason)
    building = import_model(options, source, work, progress)
    cut = building.cut(building.rewrite())
    building.with_faster_styles(cut).finish(cut, staging)


def import_model(
    options: BuildOptions, source: SourceModel, work: Path, progress: Progress
) -> Build:
    """Read the data, convert a model, choose the limits of its blocks, and open the compiler.

    Raises
    ------
    InputError, ModelError
        The data does not fit the model; or as `convert`.
    """
    samples: tuple[Sample, ...] = ()
    if options.data is not None:
        progress("data", 0, 1)
        inputs = inputs_of(source.proto.graph)
        spooled = spool(samples_of(options.data, inputs, options.shapes), inputs, work)
        planned, samples = samples_to_plan(spooled, inputs, options.shapes, options.dims)
        options = replace(options, shapes=planned, dims={})
    if options.backend in TENSORRT and not options.shapes:
        inputs = inputs_of(source.proto.graph)
        names = {value.name for value in inputs}
        if IDS in names and any(known_pairs((o.name for o in source.proto.graph.output), names)):
            in_place = source.has_operator("GroupQueryAttention")
            dims = context_sizes(inputs, options.dims, CONTEXT, in_place=in_place)
            options = replace(options, dims=dims)
    if options.precision.precision != "fp32":
        progress("convert", 0, 1)
    folder = work / "converted"
    folder.mkdir()
    converted = convert(
        source,
        options.precision,
        folder,
        backend=options.backend,
        portable=options.portable,
        slower=partial(
            slower_in_int8,
            shapes=likely_shapes(source.proto.graph, options.shapes, options.dims),
        ),
    )
    narrower = _NARROWER[converted.narrow if converted.source is source else None]
    limits = options.limits(converted.source, narrower)
    compiler: Compiler
    if options.backend in TENSORRT:
        compiler = TensorRTCompiler(
            options.backend, options.tensorrt, limits, work, options.process_per_block
        )
    elif options.backend == "onnxruntime-cuda":
        compiler = OnnxRuntimeCudaCompiler()
    else:
        compiler = OnnxRuntimeCompiler(portable=options.portable, full_range=converted.full_range)
    block_bytes = limits.max_block_bytes
    return Build(options, source, converted, block_bytes, compiler, work, progress, samples)
