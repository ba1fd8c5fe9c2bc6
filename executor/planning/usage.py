"""Count the memory that a model uses beside its weights, before anything runs."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec

from swapnet.budget import Demand
from swapnet.executor.device import ThreadPool
from swapnet.executor.planning.layout import lay_out_all, lay_out_staged, lay_out_values
from swapnet.manifest import Manifest
from swapnet.strips import Striping
from swapnet.units import align_up

__all__ = [
    "LOOKUP_BYTES",
    "PIPELINE_BYTES",
    "PLANS_AT_ONCE",
    "READ_BYTES",
    "Packing",
    "Usage",
    "demand",
    "for_pool",
    "gpu_staging_bytes",
    "least_bytes",
    "least_weights_bytes",
    "mappable_bytes",
    "packing",
    "page_table_bytes",
    "scratch_within",
    "smallest_striping",
    "usage",
]

READ_BYTES = 4 << 20
"""Size of one request to storage: large enough for full bandwidth with one in flight."""

LOOKUP_BYTES = 2 << 20
"""Memory for rows of a lookup: on their way, and read last."""

_DYNAMIC_SLACK = 1.25
"""Room for fragments of ONNX Runtime's arena, where values of unknown size share it."""

_PAGES_IN_TABLE = mmap.PAGESIZE // 8
"""Number of pages in one of the kernel's page tables: a page of entries of eight bytes."""

PLANS_AT_ONCE = 2
"""Number of serialized engines in host memory: one is read while another is loaded."""

PIPELINE_BYTES = 4 << 20
"""Memory for threads, their stacks, the bookkeeping of a plan, and the heap's fragments, where it
is not measured."""


@dataclass(frozen=True)
class Usage:
    """Memory beside the weights, at the planned shapes.

    Attributes
    ----------
    values_bytes
        Values across cuts, placed by us, and looked-up rows.
    scratch_bytes
        Values inside a block and scratch of its kernels: the limit of ONNX Runtime's arena.
    io_bytes
        Model inputs, outputs and cache, but for outputs that take pages of values which have died.
    staging_bytes
        Staging memory of lookups and copies, and page tables.
    process_bytes
        Loaded skeletons, what kernels allocate themselves, readers and bookkeeping.
    """

    values_bytes: int
    scratch_bytes: int
    io_bytes: int
    staging_bytes: int
    process_bytes: int

    @property
    def activation_bytes(self) -> int:
        """Memory for values and scratch."""
        return self.values_bytes + self.scratch_bytes

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        return self.activation_bytes + self.io_bytes + self.staging_bytes + self.process_bytes


def for_pool(manifest: Manifest, pool: ThreadPool) -> Manifest:
    """The manifest with the memory that sessions take in a process with this pool."""
    if pool is ThreadPool.SESSION:
        return manifest
    memory = manifest.session_memory
    own = msgspec.structs.replace(memory, process_bytes=memory.own_process_bytes)
    return msgspec.structs.replace(manifest, session_memory=own)


def page_table_bytes(nbytes: int) -> int:
    """Size of the kernel's page tables for ``nbytes`` of memory: eight bytes for each page."""
    return -(-nbytes // _PAGES_IN_TABLE)


def mappable_bytes(nbytes: int) -> int:
    """Memory that fits in ``nbytes`` with its page tables: the inverse of `page_table_bytes`."""
    return nbytes * _PAGES_IN_TABLE // (_PAGES_IN_TABLE + 1)


def scratch_within(nbytes: int) -> int:
    """Largest limit of the arena that fits in ``nbytes`` with its page tables; 0 below 0."""
    return mappable_bytes(max(nbytes, 0)) // 4096 * 4096


def usage(manifest: Manifest, striping: Striping | None = None) -> Usage:
    """Memory that the model uses beside its weights; the same for every plan with these strips."""
    kept: dict[Striping | None, Usage] = manifest.found.setdefault(usage, {})
    if striping not in kept:
        kept[striping] = _usage(manifest, striping)
    return kept[striping]


def _usage(manifest: Manifest, striping: Striping | None) -> Usage:
    copies_bytes = 0
    memory = manifest.session_memory
    activations = (block.activation_bytes for block in manifest.blocks)
    scratch = max(memory.scratch_bytes, *activations)
    if striping is not None:
        scratch = striping.scratch_bytes
    io = sum(tensor.nbytes for tensor in (*manifest.inputs, *manifest.outputs))
    io += manifest.cache_bytes
    io -= 0 if striping is None else striping.late_bytes
    if manifest.runs_on_gpu:
        io += lay_out_staged(manifest).nbytes
        copies_bytes += gpu_staging_bytes(manifest)
    if manifest.is_tensorrt:
        values = lay_out_all(manifest).nbytes
        copies_bytes += PLANS_AT_ONCE * max(_plan_bytes(manifest), default=0)
    else:
        values = lay_out_values(manifest, striping).nbytes + _looked_up_bytes(manifest)
        if not all(map(manifest.is_sized, manifest.values)):
            scratch = int(scratch * _DYNAMIC_SLACK)
    scratch = align_up(scratch, 4096)
    rows = 0 if all(block.is_graph for block in manifest.blocks) else LOOKUP_BYTES
    windows = sum(block.window_bytes for block in manifest.blocks)
    tables = page_table_bytes(values + scratch + io + windows)
    return Usage(
        values_bytes=values,
        scratch_bytes=scratch,
        io_bytes=io,
        staging_bytes=rows + tables + copies_bytes,
        process_bytes=(memory.process_bytes or PIPELINE_BYTES)
        + sum(block.skeleton_bytes for block in manifest.blocks),
    )


def gpu_staging_bytes(manifest: Manifest) -> int:
    """Size of the page-locked memory from which weights are copied to a GPU.

    Two of the largest requests fit: storage fills one while the other is copied. None is used where
    storage reads straight to the GPU's memory.
    """
    return 2 * min(max(manifest.block_bytes), READ_BYTES)


def _plan_bytes(manifest: Manifest) -> Iterator[int]:
    """Sizes of serialized engines, which are read to the host before they are loaded."""
    return (b.extent.nbytes for b in manifest.blocks if b.weight_style == "embedded")


def _looked_up_bytes(manifest: Manifest) -> int:
    """Size of looked-up rows on the heap: those with a number that is known only at run time."""
    outputs = {tensor.name for tensor in manifest.outputs}
    tensors = [manifest.tensors[b.outputs[0]] for b in manifest.blocks if not b.is_graph]
    return sum(t.nbytes for t in tensors if not manifest.is_sized(t) and t.name not in outputs)


@dataclass(frozen=True)
class Packing:
    """What it takes to make the sessions of an engine with windows, once when it is opened.

    Attributes
    ----------
    read_bytes
        Packed weights and their originals, read through the page cache and given back.
    transient_bytes
        The most of that at a time, those of one step, and what is packed of it once more.
    """

    read_bytes: int = 0
    transient_bytes: int = 0


def packing(manifest: Manifest, joined: Collection[int] = ()) -> Packing:
    """What opening takes for windows, with these blocks joined to those before them."""
    read_bytes = held_bytes = transient_bytes = 0
    for block in manifest.blocks:
        read = block.window_bytes + (block.originals.nbytes if block.originals else 0)
        held_bytes = block.window_bytes + read + (held_bytes if block.index in joined else 0)
        read_bytes += read
        transient_bytes = max(transient_bytes, held_bytes)
    return Packing(read_bytes, transient_bytes)


def demand(manifest: Manifest) -> Demand:
    """Memory of the unswapped model."""
    weights = manifest.swappable_bytes
    return Demand(
        weights + page_table_bytes(weights),
        usage(manifest).total_bytes,
        least_bytes(manifest, smallest_striping(manifest)),
    )


def smallest_striping(manifest: Manifest) -> Striping | None:
    """The blocks in strips with which the model needs the least memory; None for none."""
    return min((None, *manifest.stripings), key=lambda striping: least_bytes(manifest, striping))


def least_bytes(manifest: Manifest, striping: Striping | None) -> int:
    """The smallest budget with these blocks in strips."""
    return usage(manifest, striping).total_bytes + least_weights_bytes(manifest, striping)


def least_weights_bytes(manifest: Manifest, striping: Striping | None = None) -> int:
    """Weights in memory at once where none stay: those of the largest block or run in strips.

    Runs whose blocks are apart do not hold theirs.
    """
    runs = () if striping is None else striping.runs
    held = (run for run in runs if not run.apart)
    together = (sum(manifest.block_bytes[run.first : run.last + 1]) for run in held)
    arena = max(*manifest.block_bytes, *together, 0)
    return arena + page_table_bytes(arena)
