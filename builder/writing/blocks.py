"""Parts into the engine directory: extents, engines, and the manifest's record of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import msgspec

from swapnet.builder.compilers.base import Compiler, Engine, Piece
from swapnet.builder.compilers.packing import Packed
from swapnet.builder.cutting.inplace import inplace_outputs
from swapnet.builder.cutting.partition import Part, assign_weights
from swapnet.builder.cutting.placing import lives_of
from swapnet.builder.cutting.runs import local_runs, rows_of_values
from swapnet.builder.importing.graph import Constant, Graph, Value
from swapnet.builder.importing.lookup import table_parts
from swapnet.builder.importing.source import file_sha256
from swapnet.builder.rewriting.optimise import channels_in_block
from swapnet.builder.writing.codecs import Coded, choose_codecs
from swapnet.builder.writing.weights import StoredExtent, WeightWriter
from swapnet.executor.backends.windows import window_alignment
from swapnet.fingerprint import kernel_fingerprint
from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    GPU_BACKENDS,
    SCHEMA,
    WEIGHTS,
    Block,
    Lookup,
    Manifest,
    Rows,
    Shared,
    Source,
    Tensor,
    Weight,
    sha256_of,
)
from swapnet.progress import Progress

__all__ = ["CutGraph", "Stored", "compile_parts", "store", "with_owners", "with_skeleton"]

_LARGE_CONSTANT_BYTES = 64 << 10


@dataclass(frozen=True)
class CutGraph:
    """A graph and the parts that it was cut into.

    Attributes
    ----------
    pieces
        The parts in execution order, with what each of them stores.
    shared
        Weights that several parts use, by these parts: stored once, beside them.
    """

    graph: Graph
    pieces: tuple[Piece, ...]
    shared: Mapping[tuple[int, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Stored:
    """Place of a block's bytes."""

    extent: StoredExtent
    file: str = ""
    file_checksum: str = ""
    file_nbytes: int = 0
    plan_nbytes: int = 0
    activation_bytes: int = 0
    packed: Packed | None = None
    originals: StoredExtent | None = None

    @property
    def offsets(self) -> dict[int, int]:
        """Place of each window by its offset in the file that was packed."""
        windows = () if self.packed is None else self.packed.windows
        pairs = zip(windows, self.extent.windows, strict=True)
        return {before.offset: window.offset for before, window in pairs}

    @property
    def in_place(self) -> dict[str, int]:
        """Place of each weight that is read in place."""
        originals = {} if self.packed is None else self.packed.originals
        places = {n: self.offsets.get(place.offset) for n, place in originals.items()}
        return {name: place for name, place in places.items() if place is not None}


def with_owners(graph: Graph, parts: Sequence[Part]) -> CutGraph:
    """The parts with what each stores."""
    ownership = assign_weights(graph, parts)
    tables = _tables(graph, parts)
    pieces = tuple(
        Piece(index, part, own, kept, readable=not part.lookup and not tables.isdisjoint(own))
        for index, (part, own, kept) in enumerate(
            zip(parts, ownership.own, ownership.originals, strict=True)
        )
    )
    return CutGraph(graph, pieces, ownership.shared)


def compile_parts(
    cut: CutGraph,
    folder: Path,
    work: Path,
    compiler: Compiler,
    *,
    source: Source,
    max_block_bytes: int,
    progress: Progress,
) -> Manifest:
    """Write weights and engines into ``folder``; temporary files go to ``work`` beside it.

    Returns
    -------
    Manifest
        Complete but for the needs of blocks beside their weights.

    Raises
    ------
    ModelError
        The library refuses a block.
    """
    graph, pieces = cut.graph, cut.pieces
    (folder / "blocks").mkdir()
    styles = compiler.styles(graph, pieces)
    alignment = window_alignment() if graph.packing else EXTENT_ALIGNMENT
    is_on_gpu = compiler.compiled.backend in GPU_BACKENDS
    shared_codecs, codecs = _codecs(cut, none=is_on_gpu)
    is_coded = any(coded.names for coded in (*shared_codecs, *codecs))
    with WeightWriter(folder / WEIGHTS, alignment, coded=is_coded) as writer:
        shared = {
            parts: writer.append([graph.constants[name] for name in names], coded=coded)
            for (parts, names), coded in zip(cut.shared.items(), shared_codecs, strict=True)
        }
        stored: list[Stored] = []
        for piece, style, coded in zip(pieces, styles, codecs, strict=True):
            progress("compile", piece.index, len(pieces))
            constants = [graph.constants[name] for name in piece.own]
            if piece.part.lookup:
                stored.append(Stored(writer.append(constants)))
                continue
            file = work / f"{piece.index:03}{compiler.suffix}"
            engine = compiler.compile(graph, piece, style, file, progress)
            originals = [graph.constants[name] for name in piece.originals]
            stored.append(store(writer, constants, engine, originals, file, folder, coded))
    extents = (e for block in stored for e in (block.extent, block.originals) if e is not None)
    located = {weight.name: weight for e in (*shared.values(), *extents) for weight in e.weights}
    originals_at = {name: weight.offset for name, weight in located.items()}
    for record in stored:
        originals_at |= record.in_place
    stored = [with_skeleton(record, originals_at, folder) for record in stored]
    parts = [piece.part for piece in pieces]
    lives = lives_of(graph, parts)
    starts = accumulate((len(part.nodes) for part in parts), initial=0)
    blocks = tuple(
        _lookup_block(graph, piece, record.extent, located)
        if piece.part.lookup
        else _graph_block(
            piece,
            record,
            inplace_outputs(graph, piece.part, lives, start) if compiler.inplace else {},
        )
        for piece, record, start in zip(pieces, stored, starts, strict=False)
    )
    nbytes = [record.extent.extent.nbytes for record in stored]
    ends = {value.name for value in (*graph.inputs, *graph.outputs)}
    crossing = dict.fromkeys(n for part in parts for n in part.outputs if n not in ends)
    rows = rows_of_values(graph, channels_in_block()) if compiler.inner_values else {}
    runs = local_runs(graph, parts, nbytes, rows)
    compiled = compiler.compiled
    if any(block.windows for block in blocks):
        compiled = msgspec.structs.replace(compiled, kernels=kernel_fingerprint())
    return Manifest(
        schema=SCHEMA,
        source=source,
        compiled=compiled,
        max_block_bytes=max_block_bytes,
        sliced=graph.sliced,
        inputs=tuple(map(_tensor, graph.inputs)),
        outputs=tuple(map(_tensor, graph.outputs)),
        values=tuple(_tensor(graph.values[name]) for name in crossing),
        planned_shapes={value.name: value.planned for value in graph.inputs},
        symbols=dict(graph.symbols),
        blocks=blocks,
        formulas=_formulas(graph, crossing),
        lives={name: live for name, live in lives.items() if name in crossing},
        weights_nbytes=writer.nbytes,
        shared=tuple(
            Shared(each.extent, each.checksum, each.weights, parts)
            for parts, each in shared.items()
        ),
        inline=_inline(graph, parts),
        rows={name: each for name, each in rows.items() if runs and name in {*crossing, *ends}},
        runs=runs,
    )


def _formulas(graph: Graph, crossing: Iterable[str]) -> dict[str, str]:
    """Formulas of the dimensions of values across cuts, and of outputs."""
    names = (*crossing, *(value.name for value in graph.outputs))
    dims = (str(dim) for name in names for dim in graph.values[name].shape)
    return {dim: graph.formulas[dim] for dim in dict.fromkeys(dims) if dim in graph.formulas}


def _codecs(cut: CutGraph, *, none: bool) -> tuple[list[Coded], list[Coded]]:
    """Codecs of shared weights, and of each piece's.

    Rows of tables, and what was packed, are read from storage as they are.
    """
    read = _tables(cut.graph, [piece.part for piece in cut.pieces])
    read.update(name for piece in cut.pieces for name in piece.part.packed)
    extents = [*cut.shared.values(), *(piece.own for piece in cut.pieces)]
    if none:
        read.update(name for names in extents for name in names)
    chosen = choose_codecs(cut.graph.constants, extents, read)
    return chosen[: len(cut.shared)], chosen[len(cut.shared) :]


def _tables(graph: Graph, parts: Iterable[Part]) -> set[str]:
    """Weights of which rows are looked up, as they are stored."""
    return {name for part in parts if part.lookup for name in table_parts(graph, part.weights[0])}


def _inline(graph: Graph, parts: Sequence[Part]) -> dict[str, int]:
    """Bytes of large constants that stay in skeletons, by element type; once for each block."""
    from onnx import TensorProto

    found: Counter[str] = Counter()
    for tensor in (graph.inline[name] for part in parts for name in part.inline):
        if (nbytes := tensor.ByteSize()) >= _LARGE_CONSTANT_BYTES:
            found[TensorProto.DataType.Name(tensor.data_type).lower()] += nbytes
    return dict(found)


def store(
    writer: WeightWriter,
    constants: Sequence[Constant],
    engine: Engine,
    originals: Sequence[Constant],
    file: Path,
    folder: Path,
    coded: Coded,
) -> Stored:
    """Put an engine into the weights with what it embeds, or beside them."""
    activations = engine.activation_bytes
    if (packed := engine.packed) is not None:
        extent = writer.append(constants, packed, coded)
        packed.file.unlink()
        kept = [constant for constant in originals if constant.name not in packed.in_place]
        return Stored(
            extent,
            f"blocks/{file.name}",
            packed=packed,
            originals=writer.append(kept) if kept else None,
        )
    if engine.style == "embedded":
        nbytes = file.stat().st_size
        extent = writer.append_file(file)
        file.unlink()
        return Stored(extent, plan_nbytes=nbytes, activation_bytes=activations)
    name = f"blocks/{file.name}"
    checksum = file_sha256(file)
    nbytes = file.stat().st_size
    file.replace(folder / name)
    extent = writer.append(constants, coded=coded)
    return Stored(extent, name, checksum, nbytes, activation_bytes=activations)


def with_skeleton(stored: Stored, originals: Mapping[str, int], folder: Path) -> Stored:
    """Write the skeleton of a block with windows: all places are known."""
    if stored.packed is None:
        return stored
    skeleton = stored.packed.placed(stored.offsets, originals)
    (folder / stored.file).write_bytes(skeleton)
    return replace(stored, file_checksum=sha256_of(skeleton), file_nbytes=len(skeleton))


def _graph_block(piece: Piece, stored: Stored, inplace: dict[str, str]) -> Block:
    return Block(
        index=piece.index,
        kind="graph",
        operators=piece.part.operators,
        inputs=piece.part.inputs,
        outputs=piece.part.outputs,
        extent=stored.extent.extent,
        checksum=stored.extent.checksum,
        weights=stored.extent.weights,
        windows=stored.extent.windows,
        originals=None if stored.originals is None else stored.originals.extent,
        originals_checksum="" if stored.originals is None else stored.originals.checksum,
        weight_style="embedded" if stored.plan_nbytes else "external",
        plan_nbytes=stored.plan_nbytes,
        inplace=inplace,
        file=stored.file,
        file_checksum=stored.file_checksum,
        skeleton_bytes=0 if stored.plan_nbytes else stored.file_nbytes,
        activation_bytes=stored.activation_bytes,
    )


def _lookup_block(
    graph: Graph, piece: Piece, stored: StoredExtent, located: Mapping[str, Weight]
) -> Block:
    table = graph.constants[piece.part.weights[0]]
    rows = [located[name] for name in table_parts(graph, table.name)]
    return Block(
        index=piece.index,
        kind="lookup",
        operators=piece.part.operators,
        inputs=(piece.part.nodes[0].input[1],),
        outputs=piece.part.outputs,
        extent=stored.extent,
        checksum=stored.checksum,
        lookup=Lookup(
            dtype=table.dtype,
            row_shape=table.whole_shape[1:],
            row_nbytes=table.nbytes // table.shape[0],
            rows=tuple(Rows(piece.shape[0], piece.offset) for piece in rows),
        ),
    )


def _tensor(value: Value) -> Tensor:
    return Tensor(value.name, value.dtype, value.shape, value.nbytes or 0)
