"""The engine directory, format 4: content of ``manifest.json``, and its checks.

::

    engines/resnet101/
      manifest.json      this module
      blocks/000.onnx    skeleton: operators and tiny constants; weights are graph inputs
      weights.bin        one extent per block, 4096-aligned; tensors 256-aligned inside, windows
                         16 KiB-aligned
      profile.json       block times on a device, written by `swapnet measure`
      samples/           0.npz: inputs that it was built with, if any were given
      shapes/            KEY.json, profile-KEY.json, samples-KEY/: the same at other input shapes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import msgspec

from swapnet.errors import EngineError
from swapnet.sealed_json import read_sealed, sha256_of, write_sealed
from swapnet.shapes import (
    MeasuredShapes,
    SessionMemory,
    as_title,
    given_sizes,
    load_shapes,
    shapes_key,
    shapes_of,
    sizes_option,
)
from swapnet.strips import Rows as CutRows
from swapnet.strips import Run, Striping
from swapnet.symbols import check_fixed, model_symbols, size_of
from swapnet.tensorrt import TENSORRT
from swapnet.tensors import ELEMENT_BYTES, concrete_nbytes
from swapnet.token_rows import IDS, ROWS

__all__ = [
    "CURVE",
    "EXTENT_ALIGNMENT",
    "GPU_BACKENDS",
    "MANIFEST",
    "SCHEMA",
    "TENSOR_ALIGNMENT",
    "TOKENIZER",
    "WEIGHTS",
    "WINDOW_ALIGNMENT",
    "Block",
    "Codec",
    "Compiled",
    "Extent",
    "Lookup",
    "Manifest",
    "Precision",
    "Rows",
    "Shared",
    "Source",
    "Tensor",
    "Weight",
    "Window",
    "at_shapes",
    "given_at",
    "load_manifest",
    "save_manifest",
    "sha256_of",
    "sizes_at",
]

SCHEMA: Final = "swapnet-engine/4"
MANIFEST = "manifest.json"
GPU_BACKENDS = (*TENSORRT, "onnxruntime-cuda")
WEIGHTS = "weights.bin"
CURVE = "curve.json"
"""Latency over memory, which a runtime plans once and keeps in an engine directory."""
TOKENIZER = "tokenizer"
"""Folder of a language model's tokenizer, and of the files that say how to use it."""
EXTENT_ALIGNMENT = 4096
"""Alignment of offsets, lengths and addresses for direct I/O."""
TENSOR_ALIGNMENT = 256
"""Alignment of tensors inside an extent, for vector kernels and CUDA."""

WINDOW_ALIGNMENT = 16384
"""Alignment of windows, and of all extents where there are any: pages of this size and smaller."""

Size = Annotated[int, msgspec.Meta(ge=0)]

Precision = Literal["fp32", "fp16", "int8", "int4"]
"""Type of stored weights, and of computed values where the backend can."""

Codec = Literal["plain", "planes", "float16"]
"""Form of stored bytes. ``plain``: as in memory. ``planes``: the two low byte planes of float32
values, all zero, are left out (bfloat16). ``float16``: float32 values that are finite ones of
float16."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Source(_Record, frozen=True):
    """The ONNX file that the engine was built from."""

    name: str
    sha256: str
    path: str
    """Path at build time: a hint for comparisons, never opened to execute."""
    data_sha256: str = ""
    """SHA-256 of its external data; empty where it has none."""


class Compiled(_Record, frozen=True, omit_defaults=True):
    """Library and devices that the blocks were compiled with and for."""

    backend: str
    version: str
    fingerprint: str
    builder: str = ""
    """Version of SwapNet: engines of a newer one may be faster."""
    kernels: str = ""
    """Processor and pages that windows were packed for; empty without windows."""


class Tensor(_Record, frozen=True):
    """A model input or output, or a value that lives across a cut."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """A string is a symbolic dimension."""
    nbytes: Size
    """At the planned shapes."""

    @property
    def is_symbolic(self) -> bool:
        """Whether its size depends on the input shapes."""
        return str in map(type, self.shape)


class Extent(_Record, frozen=True, omit_defaults=True):
    """A contiguous part of ``weights.bin``; its last bytes may be stored in half as many."""

    offset: Size
    nbytes: Size
    """In memory."""
    codec: Codec = "plain"
    """Form of its last bytes; those before are plain."""
    stored_nbytes: Size = 0
    """In ``weights.bin``; 0 where that is as in memory."""

    @property
    def file_nbytes(self) -> int:
        """Length in ``weights.bin``."""
        return self.stored_nbytes or self.nbytes

    @property
    def end(self) -> int:
        """The first byte after it in ``weights.bin``."""
        return self.offset + self.file_nbytes

    @property
    def plain_nbytes(self) -> int:
        """Bytes at its start that are stored as they are."""
        return 2 * self.file_nbytes - self.nbytes

    def file_offset(self, position: int) -> int:
        """Place in ``weights.bin`` of a byte in memory, counted from the extent's start."""
        coded = max(position - self.plain_nbytes, 0)
        return self.offset + position - coded // 2


class Weight(_Record, frozen=True):
    """A tensor of ``weights.bin``, bound to a graph input of its block by address."""

    name: str
    dtype: str
    shape: tuple[Size, ...]
    offset: Size
    """From the start of ``weights.bin``, as if its extent were plain, in bytes."""
    nbytes: Size


class Window(_Record, frozen=True):
    """Bytes of an extent that a kernel reads in place: a packed weight, or one as it is.

    The skeleton says where they lie. A session maps them from ``weights.bin``, and the executor
    puts pages of its arena in the place of that mapping.
    """

    name: str
    """The weight; one that several kernels pack has several windows."""
    offset: Size
    """From the start of ``weights.bin``, in bytes."""
    nbytes: Size

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.nbytes


class Rows(_Record, frozen=True):
    """Consecutive rows of a table."""

    count: Size
    offset: Size
    """From the start of ``weights.bin``, in bytes."""


class Lookup(_Record, frozen=True):
    """A table of which only the requested rows are read."""

    dtype: str
    row_shape: tuple[Size, ...]
    row_nbytes: Size
    rows: tuple[Rows, ...]

    @property
    def count(self) -> int:
        """Rows of the whole table."""
        return sum(run.count for run in self.rows)


class Block(_Record, frozen=True, omit_defaults=True):
    """Consecutive operators: the unit of swapping."""

    index: Size
    kind: Literal["graph", "lookup"]
    operators: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    extent: Extent
    checksum: str
    """SHA-256 of the extent."""
    weights: tuple[Weight, ...] = ()
    windows: tuple[Window, ...] = ()
    """Parts of the extent that are no inputs of the skeleton."""
    originals: Extent | None = None
    """Weights that are packed in windows: read when a session is made, never swapped."""
    originals_checksum: str = ""
    """SHA-256 of that extent."""
    weight_style: Literal["external", "embedded"] = "external"
    """Weights are inputs of the skeleton, or inside the engine that the extent holds."""
    plan_nbytes: Size = 0
    """Bytes of the serialized engine at the start of the extent, if weights are embedded."""
    inplace: dict[str, str] = {}
    """Outputs that may be written over an input, by output."""
    file: str = ""
    file_checksum: str = ""
    skeleton_bytes: Size = 0
    """Bytes of a skeleton with its constants; memory of a loaded TensorRT engine on the host."""
    activation_bytes: Size = 0
    """Peak of the values inside the block and its kernels' scratch, at the planned shapes."""
    lookup: Lookup | None = None

    @property
    def is_graph(self) -> bool:
        """Whether a backend executes it; its extent is then swapped."""
        return self.kind == "graph"

    @property
    def swapped_bytes(self) -> int:
        """Bytes of weights that are read into memory: none of a lookup block."""
        return self.extent.nbytes if self.is_graph else 0

    @property
    def window_bytes(self) -> int:
        """Bytes of all windows."""
        return sum(window.nbytes for window in self.windows)


class Shared(_Record, frozen=True):
    """Weights that the same blocks use: stored once, and read with each of them or kept."""

    extent: Extent
    checksum: str
    """SHA-256 of the extent."""
    weights: tuple[Weight, ...]
    blocks: tuple[Size, ...]
    """Blocks that use them, in order."""


class Manifest(_Record, frozen=True, dict=True, omit_defaults=True):
    """All facts of an engine that an executor needs."""

    schema: Literal["swapnet-engine/4"]
    source: Source
    compiled: Compiled
    max_block_bytes: Size
    sliced: tuple[str, ...]
    """Outputs of the operators that were split along their output channels."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    """Live across at least one cut, or are large and live inside a block."""
    planned_shapes: dict[str, tuple[Size, ...]]
    blocks: tuple[Block, ...]
    weights_nbytes: Size
    """Length of ``weights.bin``."""
    shared: tuple[Shared, ...] = ()
    """Weights that several blocks use, by the blocks that use them."""
    symbols: dict[str, Size] = {}
    """Sizes of the symbols in the shapes of inputs, and of those that the graph fixes."""
    precision: Precision = "fp32"
    """Precision of the build."""
    weight_only: bool = False
    """Weights are stored in that precision, and computed with in float32."""
    session_memory: SessionMemory = SessionMemory()
    """At the planned shapes."""
    formulas: dict[str, str] = {}
    """Symbolic dimensions of values and outputs that follow from the symbols of the inputs:
    expressions of ``_0``, ``_1`` …, their sizes in the order of `model_symbols`."""
    lives: dict[str, tuple[Size, Size]] = {}
    """First and last operator that touch the memory of each value, counted over all blocks."""
    inline: dict[str, Size] = {}
    """Bytes of large constants that stay in skeletons, by element type: they are not swapped."""
    rows: dict[str, CutRows] = {}
    """Rows of tensors in a unit that is common to those that depend on each other's rows."""
    runs: tuple[Run, ...] = ()
    """Blocks that can be executed in strips of rows. Runs overlap."""
    stripings: tuple[Striping, ...] = ()
    """Ways to do so, each with less memory than the one before; at the planned shapes."""
    cache_bytes: Size = 0
    """Memory of a decoder's cache, where an executor keeps it; never stored."""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs, outputs and values by name."""
        return {t.name: t for t in (*self.inputs, *self.values, *self.outputs)}

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the executed content and its shapes: the key of measurements."""
        executed = [(b.checksum, b.file_checksum, b.operators) for b in self.blocks]
        executed += [(each.checksum, "", ()) for each in self.shared]
        return sha256_of(msgspec.json.encode((executed, self.compiled, self.planned_shapes)))

    @property
    def extents(self) -> tuple[Extent, ...]:
        """What several blocks share, and what each has for itself."""
        own = (block.extent for block in self.blocks)
        return (*(each.extent for each in self.shared), *own)

    @cached_property
    def coded(self) -> dict[Codec, tuple[int, int]]:
        """Bytes in memory of weights that are stored in fewer, and bytes stored, by codec."""
        found: dict[Codec, tuple[int, int]] = {}
        for extent in self.extents:
            if saved := extent.nbytes - extent.file_nbytes:
                nbytes, stored = found.get(extent.codec, (0, 0))
                found[extent.codec] = (nbytes + 2 * saved, stored + saved)
        return found

    @property
    def coded_share(self) -> float:
        """Share of the bytes in memory that are stored in half as many."""
        return sum(nbytes for nbytes, _ in self.coded.values()) / max(self.swappable_bytes, 1)

    @cached_property
    def has_windows(self) -> bool:
        """Whether kernels of any block read weights in place."""
        return any(block.windows for block in self.blocks)

    @cached_property
    def found(self) -> dict[Any, Any]:
        """Results of functions of the manifest, which stays as it is, by function."""
        return {}

    def is_sized(self, tensor: Tensor) -> bool:
        """Whether its shape follows from the shapes of the inputs; others depend on data."""
        symbols = [dim for dim in tensor.shape if isinstance(dim, str)]
        return not symbols or self.formulas.keys() >= {*symbols}

    @property
    def runs_on_gpu(self) -> bool:
        """Whether its backend executes on a GPU."""
        return self.is_tensorrt or self.compiled.backend.endswith("-cuda")

    @property
    def is_tensorrt(self) -> bool:
        """Whether its blocks are serialized TensorRT engines."""
        return self.compiled.backend in TENSORRT

    @cached_property
    def swappable_bytes(self) -> int:
        """All extents of graph blocks: what an unswapped executor keeps in memory."""
        own = sum(block.swapped_bytes for block in self.blocks)
        return own + sum(each.extent.nbytes for each in self.shared)

    @cached_property
    def shared_by(self) -> tuple[tuple[int, ...], ...]:
        """Positions in `shared` of what each block uses, by block."""
        return tuple(
            tuple(i for i, each in enumerate(self.shared) if block.index in each.blocks)
            for block in self.blocks
        )

    @cached_property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of weights of each block, with those that it shares."""
        return tuple(
            block.swapped_bytes + sum(e.extent.nbytes for e in self.shared_with(block.index))
            for block in self.blocks
        )

    def sized(self, nbytes: Mapping[str, int]) -> Manifest:
        """The manifest with these bytes of inputs, outputs and values, by name."""

        def resized(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            sizes = ((t, nbytes.get(t.name, t.nbytes)) for t in tensors)
            return tuple(msgspec.structs.replace(tensor, nbytes=size) for tensor, size in sizes)

        parts = {"inputs": self.inputs, "outputs": self.outputs, "values": self.values}
        return msgspec.structs.replace(self, **{n: resized(ts) for n, ts in parts.items()})

    def shared_with(self, block: int) -> tuple[Shared, ...]:
        """What a block shares with others."""
        return tuple(self.shared[i] for i in self.shared_by[block])

    def stored_for(self, block: int) -> Iterator[tuple[Extent, tuple[Weight, ...]]]:
        """Extents with the weights that are inputs of a block, its own and what it shares."""
        if self.blocks[block].is_graph:
            yield self.blocks[block].extent, self.blocks[block].weights
            for each in self.shared_with(block):
                yield each.extent, each.weights

    def weights_of(self, block: int) -> tuple[Weight, ...]:
        """Weights that are inputs of a block, with those that it shares."""
        return tuple(chain.from_iterable(weights for _, weights in self.stored_for(block)))


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, sealed with its own checksum."""
    write_sealed(folder / MANIFEST, SCHEMA, manifest)


def load_manifest(
    folder: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Manifest:
    """Read and validate ``manifest.json``.

    Parameters
    ----------
    folder
        Engine directory.
    shapes, dims
        Input shapes to plan for, by input, and sizes by symbol; others stay those of the build.

    Raises
    ------
    EngineError
        The folder is not an engine directory, is damaged or of another format, or was not measured
        at these shapes.
    InputError
        A shape is not what the model takes.
    """
    rebuild = "build it again: swapnet build MODEL.onnx -o " + str(folder)
    try:
        manifest = read_sealed(folder / MANIFEST, SCHEMA, Manifest, rebuild)
    except OSError as error:
        raise _no_engine(folder, error) from error
    if fault := next(_faults(manifest), None):
        raise EngineError(f"{folder / MANIFEST} is damaged", why=fault, hint=rebuild)
    return at_shapes(folder, manifest, shapes, dims)


def _no_engine(folder: Path, error: OSError) -> EngineError:
    what = f"{folder} is not an engine directory"
    if folder.is_file():
        if folder.suffix.lower() not in (".onnx", ".gguf"):
            return EngineError(what, why="it is a file", hint="give the folder of an engine")
        engine = f"engines/{folder.stem}"
        return EngineError(
            f"{folder} is a model, not an engine directory",
            why="models are built into engines first",
            hint=f"swapnet build {folder} -o {engine}, then give {engine}",
        )
    models = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    if (folder / "tokenizer.json").is_file():  # an exporter's folder: the file alone has no words
        models = [folder]
    return EngineError(
        what,
        why=f"{MANIFEST} can't be read: {error.strerror}",
        hint=f"give the folder that swapnet build wrote: swapnet build "
        f"{models[0] if models else 'MODEL.onnx'} -o DIR",
    )


def sizes_at(
    manifest: Manifest,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The size of each symbol of an engine at other input shapes; see `load_manifest`.

    Raises
    ------
    InputError
        A size is not what the model takes.
    """
    sizes = {**manifest.symbols, **(given := given_at(manifest, shapes, dims))}
    tokens = {taken.name: taken.shape for taken in manifest.inputs}.get(IDS, ())
    if ROWS in sizes and ROWS not in given:
        sizes[ROWS] = size_of(tokens[1], sizes) or 0
    return sizes


def given_at(
    manifest: Manifest,
    shapes: Mapping[str, Sequence[int]] | None,
    dims: Mapping[str, int] | None,
) -> dict[str, int]:
    """Sizes of the symbols of an engine that are not left open; otherwise as `sizes_at`."""
    open_dims = dict(dims or {})
    fixed = manifest.symbols.keys() - set(model_symbols(manifest.inputs))
    for symbol in fixed & open_dims.keys():
        check_fixed(symbol, open_dims.pop(symbol), manifest.symbols[symbol])
    return given_sizes(manifest.inputs, shapes or {}, manifest.symbols, dims=open_dims)


def at_shapes(
    folder: Path,
    manifest: Manifest,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    conversations: int = 1,
) -> Manifest:
    """The manifest of an engine at other input shapes; see `load_manifest` and `shapes_key`."""
    if not shapes and not dims:
        return manifest
    sizes = sizes_at(manifest, shapes, dims)
    planned = shapes_of(manifest.inputs, sizes)
    if planned == manifest.planned_shapes:
        return manifest
    measured = load_shapes(folder, shapes_key(manifest.inputs, planned, conversations))
    if measured is None or not _describes(measured, manifest, planned):
        raise EngineError(
            f"{folder} was not measured at {as_title(planned)}",
            why=f"it was built for {as_title(manifest.planned_shapes)}",
            hint=f"measure it: swapnet measure {folder} {sizes_option(manifest.inputs, planned)}",
        )
    return msgspec.structs.replace(
        manifest.sized(measured.nbytes),
        planned_shapes=planned,
        symbols=sizes,
        blocks=tuple(
            msgspec.structs.replace(block, activation_bytes=peak)
            for block, peak in zip(manifest.blocks, measured.activation_bytes, strict=True)
        ),
        session_memory=measured.session_memory,
        stripings=measured.stripings,
    )


def _describes(
    measured: MeasuredShapes, manifest: Manifest, planned: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether the record is of this engine at these shapes, and whole."""
    symbolic = {name for name, tensor in manifest.tensors.items() if tensor.is_symbolic}
    return (
        measured.engine == manifest.identity
        and measured.planned_shapes == planned
        and symbolic <= measured.nbytes.keys()
        and len(measured.activation_bytes) == len(manifest.blocks)
    )


def _faults(manifest: Manifest) -> Iterator[str]:
    """Contradictions in the manifest: addresses are computed from it."""
    yield from _tensor_faults(manifest)
    for tensor in manifest.inputs:
        if len(manifest.planned_shapes.get(tensor.name, ())) != len(tensor.shape):
            yield f"input {tensor.name!r} has no planned shape of its rank"
    for shared in manifest.shared:
        yield from _extent_faults("shared weights", shared.extent, shared.weights, manifest)
        if not shared.extent.nbytes or not shared.blocks:
            yield "shared weights have no bytes, or no blocks"
        if not all(b < len(manifest.blocks) and manifest.blocks[b].is_graph for b in shared.blocks):
            yield f"shared weights are of the blocks {shared.blocks}, one of which has no operators"
    yield from _strip_faults(manifest)
    for position, block in enumerate(manifest.blocks):
        name = f"block {block.index}"
        file = PurePosixPath(block.file)
        if block.index != position:
            yield f"{name} stands at position {position}"
        if file.is_absolute() or ".." in file.parts:
            yield f"{name} names {block.file!r}, outside of the folder"
        if unknown := {*block.inputs, *block.outputs} - manifest.tensors.keys():
            yield f"{name} uses {min(unknown)!r}, which is described nowhere"
        if block.is_graph != (block.lookup is None):
            yield f"{name} is a {block.kind} block with{'' if block.is_graph else 'out'} a table"
        yield from _extent_faults(name, block.extent, block.weights, manifest)
        yield from _window_faults(name, block, manifest)
        if (block.weight_style == "embedded") != (0 < block.plan_nbytes <= block.extent.nbytes):
            yield f"{name} has an engine of {block.plan_nbytes} bytes in {block.extent.nbytes}"
        if block.lookup is not None:
            yield from _lookup_faults(name, block.lookup, manifest)


def _tensor_faults(manifest: Manifest) -> Iterator[str]:
    for tensor in (*manifest.inputs, *manifest.values, *manifest.outputs):
        if tensor.dtype not in ELEMENT_BYTES:
            yield f"{tensor.name!r} is of type {tensor.dtype!r}"
        elif concrete_nbytes(tensor.dtype, tensor.shape) not in (None, tensor.nbytes):
            yield f"{tensor.name!r} has {tensor.nbytes} bytes, its shape says otherwise"


def _strip_faults(manifest: Manifest) -> Iterator[str]:
    for run in manifest.runs:
        if not run.first <= run.last < len(manifest.blocks):
            yield f"the run of blocks {run.first} to {run.last} ends after the last block"
        if not run.inputs or {*run.inputs, *run.outputs} - manifest.tensors.keys():
            yield f"the run of blocks {run.first} to {run.last} cuts tensors that are not there"
    spans = {(run.first, run.last) for run in manifest.runs}
    for striping in manifest.stripings:
        if not spans.issuperset((each.first, each.last) for each in striping.runs):
            yield "blocks are to be executed in strips that are in no run"
        if any(one.last >= other.first for one, other in pairwise(striping.runs)):
            yield "a block is to be executed in strips twice"
        if any(each.nbytes.keys() - manifest.rows.keys() for each in striping.runs):
            yield "strips have memory for tensors whose rows are not known"
        if striping.late_from >= len(manifest.blocks):
            yield f"pages are given back before block {striping.late_from}, which is not there"


def _extent_faults(
    name: str, extent: Extent, weights: tuple[Weight, ...], manifest: Manifest
) -> Iterator[str]:
    if extent.end > manifest.weights_nbytes or extent.file_nbytes % EXTENT_ALIGNMENT:
        yield f"the extent of {name} ends at {extent.end} of {manifest.weights_nbytes}"
    yield from _codec_faults(name, extent, manifest)
    end = extent.offset + extent.nbytes
    for weight in weights:
        inside = extent.offset <= weight.offset and weight.offset + weight.nbytes <= end
        if not inside:
            yield f"weight {weight.name!r} of {name} lies outside of its extent"
        known = weight.dtype in ELEMENT_BYTES
        if not known or concrete_nbytes(weight.dtype, weight.shape) != weight.nbytes:
            yield f"weight {weight.name!r} of {name} has {weight.nbytes} bytes, not its shape's"


def _codec_faults(name: str, extent: Extent, manifest: Manifest) -> Iterator[str]:
    is_coded = extent.codec != "plain"
    if is_coded != (extent.nbytes <= 2 * extent.stored_nbytes < 2 * extent.nbytes):
        yield f"the extent of {name} stores {extent.nbytes} bytes in {extent.stored_nbytes}"
    if is_coded and manifest.runs_on_gpu:
        yield f"the extent of {name} has codec {extent.codec!r}, which no GPU takes"
    # Requests of coded bytes begin anywhere that a place in memory ends, and are direct.
    if manifest.coded and (extent.nbytes | extent.plain_nbytes) % (2 * EXTENT_ALIGNMENT):
        yield f"the extent of {name} is no multiple of {2 * EXTENT_ALIGNMENT}, as codecs need"


def _window_faults(name: str, block: Block, manifest: Manifest) -> Iterator[str]:
    extent = block.extent
    if manifest.has_windows and (extent.offset | extent.nbytes | extent.end) % WINDOW_ALIGNMENT:
        yield f"the extent of {name} is no multiple of {WINDOW_ALIGNMENT}, as windows need"
    end, plain_nbytes = block.extent.offset, block.extent.plain_nbytes
    for window in block.windows:
        inside = end <= window.offset and window.end - block.extent.offset <= plain_nbytes
        if not inside or window.offset % WINDOW_ALIGNMENT or not block.is_graph:
            yield f"the window {window.name!r} of {name} has no place of its own in the extent"
        end = window.end
    if block.originals is not None:
        yield from _extent_faults(f"the originals of {name}", block.originals, (), manifest)


def _lookup_faults(name: str, lookup: Lookup, manifest: Manifest) -> Iterator[str]:
    known = lookup.dtype in ELEMENT_BYTES
    if not known or concrete_nbytes(lookup.dtype, lookup.row_shape) != lookup.row_nbytes:
        yield f"a row of {name} has {lookup.row_nbytes} bytes, not its shape's"
    if any(r.offset + r.count * lookup.row_nbytes > manifest.weights_nbytes for r in lookup.rows):
        yield f"the table of {name} ends after the weights"
