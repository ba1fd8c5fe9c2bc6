"""Parts into the engine directory: extents, skeletons, and the manifest's record of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swapnet.builder.graph import Graph, Value
from swapnet.builder.inplace import inplace_outputs
from swapnet.builder.lookup import table_parts
from swapnet.builder.partition import Ownership, Part
from swapnet.builder.skeleton import skeleton
from swapnet.builder.weights import StoredExtent, WeightWriter
from swapnet.manifest import (
    SCHEMA,
    WEIGHTS,
    Block,
    Compiled,
    Lookup,
    Manifest,
    Rows,
    Source,
    Tensor,
    Weight,
    sha256_of,
)
from swapnet.progress import Progress

__all__ = ["compile_parts"]


def compile_parts(
    graph: Graph,
    parts: Sequence[Part],
    ownership: Ownership,
    folder: Path,
    *,
    source: Source,
    compiled: Compiled,
    max_block_bytes: int,
    progress: Progress,
) -> Manifest:
    """Write weights and skeletons for ONNX Runtime into ``folder``.

    Returns
    -------
    Manifest
        Complete but for what has to be measured: activations and loaded skeletons.
    """
    (folder / "blocks").mkdir()
    stored: list[StoredExtent] = []
    with WeightWriter(folder / WEIGHTS) as writer:
        shared = writer.append([graph.constants[n] for n in ownership.shared])
        for index, names in enumerate(ownership.own):
            progress("compile", index, len(parts))
            stored.append(writer.append([graph.constants[n] for n in names]))
    located = {w.name: w for extent in (shared, *stored) for w in extent.weights}
    blocks = tuple(
        _lookup_block(graph, index, part, extent, located)
        if part.lookup
        else _graph_block(graph, index, part, extent, folder)
        for index, (part, extent) in enumerate(zip(parts, stored, strict=True))
    )
    ends = {value.name for value in (*graph.inputs, *graph.outputs)}
    crossing = dict.fromkeys(n for part in parts for n in part.outputs if n not in ends)
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
        blocks=blocks,
        weights_nbytes=writer.nbytes,
        shared=shared.weights,
        shared_extent=shared.extent,
        shared_checksum=shared.checksum,
    )


def _graph_block(graph: Graph, index: int, part: Part, stored: StoredExtent, folder: Path) -> Block:
    data = skeleton(graph, part, f"block {index}").SerializeToString(deterministic=True)
    file = f"blocks/{index:03}.onnx"
    (folder / file).write_bytes(data)
    return Block(
        index=index,
        kind="graph",
        operators=part.operators,
        inputs=part.inputs,
        outputs=part.outputs,
        extent=stored.extent,
        checksum=stored.checksum,
        weights=stored.weights,
        inplace=inplace_outputs(graph, part),
        file=file,
        file_checksum=sha256_of(data),
    )


def _lookup_block(
    graph: Graph, index: int, part: Part, stored: StoredExtent, located: dict[str, Weight]
) -> Block:
    table = graph.constants[part.weights[0]]
    pieces = [located[name] for name in table_parts(graph, table.name)]
    return Block(
        index=index,
        kind="lookup",
        operators=part.operators,
        inputs=(part.nodes[0].input[1],),
        outputs=part.outputs,
        extent=stored.extent,
        checksum=stored.checksum,
        lookup=Lookup(
            dtype=table.dtype,
            row_shape=table.whole_shape[1:],
            row_nbytes=table.nbytes // table.shape[0],
            rows=tuple(Rows(piece.shape[0], piece.offset) for piece in pieces),
        ),
    )


def _tensor(value: Value) -> Tensor:
    return Tensor(value.name, value.dtype, value.shape, value.nbytes or 0)
