"""Run the blocks of an engine over mapped weights; measure what they take of the arena."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.backends.lookup import LookupSegment
from swapnet.executor.backends.onnxruntime import OnnxRuntimeBackend
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.backends.strips import run_of
from swapnet.executor.conversations import Conversations
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.layout import inside_run, last_uses
from swapnet.executor.planning.plan import Place, Step
from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.probing.activations import Job
from swapnet.executor.probing.stripings import OtherBits
from swapnet.executor.samples import kept_samples
from swapnet.executor.swapping.actual_shapes import ActualShapes
from swapnet.executor.swapping.host_values import Values
from swapnet.executor.swapping.loading import fill, pieces
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Block, Extent, Manifest, Tensor
from swapnet.strips import Striped, Striping
from swapnet.tensors import ELEMENT_BYTES, Array
from swapnet.token_rows import IDS
from swapnet.units import align_up

__all__ = ["ONE_OPERATOR", "UNSEEN_BYTES", "Blocks", "Region"]

UNSEEN_BYTES = 64 << 20
"""End of ONNX Runtime's arena that is not watched: far more than inline constants take."""

ONE_OPERATOR = (
    b'\x08\x08:;\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x03oneZ\x10\n\x01x\x12\x0b\n\t\x08\x01'
    b"\x12\x05\n\x03\x12\x01nb\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\r"
)
"""A model of one Identity, from ``x`` to ``y``: without the onnx package, which loads slowly."""


class Blocks:
    """An engine whose weights are mapped, run block by block or whole."""

    def __init__(self, job: Job) -> None:
        self._folder = folder = Path(job.folder)
        engine = Engine.open(folder)
        planned: Manifest = msgspec.structs.replace(
            engine.built, planned_shapes=job.shapes or engine.built.planned_shapes
        )
        self.nbytes: dict[str, int] = {}
        """Size of each input, output and value of symbolic shape, the largest of all runs."""
        for each in job.cache.largest(planned) if job.cache else (planned,):
            for name, shape in ActualShapes(each).by_name.items():
                self._note(planned.tensors[name], shape)
        self.manifest = planned.sized(self.nbytes)
        self._samples: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        """Inputs, and memory of the cache for outputs."""
        if (cache := job.cache) is None:
            samples = kept_samples(replace(engine, shaped=self.manifest))
            self._samples = [(each, {}) for each in samples or (planned_sample(self.manifest),)]
        else:
            self._state = Conversations(cache, threading.Lock())
            self._state.state(0).hold()
            for asked in map(cache.asked, cache.largest(self.manifest)):
                sample = planned_sample(asked)
                rows, count = sample[IDS].shape
                past, cached = self._state.views(range(rows), count)
                self._samples.append(({**sample, **past}, cached))
                for name, array in cached.items():
                    self._note(planned.tensors[name], array.shape)
        self._file = WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)
        self._mapped, starts = _mapped(folder, self.manifest, self._file)
        self._to_keep: frozenset[str] = frozenset()
        self._kept: dict[tuple[str, int], Array] = {}
        """Values by name and sample, from which strips begin, and with which they are compared."""
        self._actual = ActualShapes(self.manifest)
        self.shapes = {**self._actual.by_name, **self.manifest.planned_shapes}
        """Planned shapes of inputs, and of what follows from them."""
        self._weights = {
            (block.index, weight.name): starts[extent] + weight.offset - extent.offset
            for block in self.manifest.blocks
            for extent, stored in self.manifest.stored_for(block.index)
            for weight in stored
        }
        self._last_uses = last_uses(self.manifest)

    def keep(self, runs: Iterable[Striped]) -> None:
        """Keep what these read and give, when whole blocks run under a limit."""
        self._to_keep = frozenset(name for run in runs for name in self._outside(run))

    def _outside(self, run: Striped) -> set[str]:
        names = {n for b in self._blocks(run) for n in (*b.inputs, *b.outputs)}
        return names - inside_run(self.manifest, run)

    def _blocks(self, span: Step | Striped) -> Sequence[Block]:
        return self.manifest.blocks[span.first : span.last + 1]

    def run(self, steps: Sequence[Step], scratch_bytes: int, probe: Region | None) -> list[int]:
        """Run all steps in ONNX Runtime's arena of this limit; the peak of the arena after each.

        Of several samples the highest peak counts.
        """
        each = [
            self._actual.learning(partial(self._run_on, sample, steps, scratch_bytes, probe))
            for sample in range(len(self._samples))
        ]
        return [max(peaks) for peaks in zip(*each, strict=True)]

    def _run_on(
        self,
        sample: int,
        steps: Sequence[Step],
        scratch_bytes: int,
        probe: Region | None,
    ) -> list[int]:
        backend = OnnxRuntimeBackend(self._folder, self.manifest, Device(), Scratch(scratch_bytes))
        runs = tuple(dict.fromkeys(s.strips for s in steps if s.strips is not None))
        striping = Striping(runs, scratch_bytes) if runs else None
        values = Values(self.manifest, np.asarray, striping=striping)
        values.actual = self._actual
        bindings = Bindings(self._weights, values.addresses, actual=self._actual)
        with closing(backend):  # it would live on until cycles are collected
            graphs = [s for s in steps if self.manifest.blocks[s.first].is_graph]
            segments: dict[Step, Segment] = dict(
                zip(graphs, backend.segments(graphs, bindings), strict=True)
            )
            lookups = {
                s: LookupSegment(self.manifest.blocks[s.first], self._file, values, backend)
                for s in steps
                if s not in segments
            }
            if probe is not None:
                probe.find(scratch_bytes)
            fed, cached = self._samples[sample]
            given, results = values.begin(fed, cached)
            results.update(cached)
            inputs = len(given)
            peaks: list[int] = []
            self._observe(given)
            for step in steps:
                striped = step.strips
                if striped and (step.first, step.strip) == (striped.first, 0):
                    for name in self._outside(striped):
                        if (name, sample) in self._kept:
                            np.copyto(_at(name, values, results), self._kept[name, sample])
                (segments.get(step) or lookups[step]).run(given, results)
                self._observe(given)
                if probe is None and striped is None:
                    written = {n for b in self._blocks(step) for n in b.outputs}
                    for name in written & self._to_keep:
                        array = _at(name, values, results)
                        self._kept[name, sample] = _on_disk(array, self._folder)
                elif probe is None and striped and step.last == striped.last:
                    for name in run_of(self.manifest, striped).outputs:
                        if _differ(_at(name, values, results), self._kept[name, sample]):
                            raise OtherBits
                for name, block in self._last_uses.items():
                    if block <= step.last and step.is_last:
                        given.pop(name, None)
                if probe is not None:
                    peaks.append(probe.peak(reset=len(given) == inputs))
            for lookup in lookups.values():
                lookup.close()
            return peaks

    def _observe(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            self._note(self.manifest.tensors[name], _shape(value))

    def _note(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.is_symbolic:
            nbytes = ELEMENT_BYTES[tensor.dtype] * prod(shape)
            self.nbytes[tensor.name] = max(self.nbytes.get(tensor.name, 0), nbytes)


def _mapped(
    folder: Path, manifest: Manifest, storage: WeightFile
) -> tuple[npt.NDArray[np.uint8], dict[Extent, int]]:
    """Mapped weights, and the address of each extent.

    Extents with a codec are expanded into a file without a name.
    """
    extents = dict.fromkeys(e for b in manifest.blocks for e, _ in manifest.stored_for(b.index))
    mapped: npt.NDArray[np.uint8]
    if not manifest.coded:
        is_empty = not manifest.weights_nbytes
        mapped = np.empty(0, np.uint8) if is_empty else np.memmap(folder / WEIGHTS, np.uint8, "r")
        return mapped, {extent: mapped.ctypes.data + extent.offset for extent in extents}
    place = Place(0, tuple(extents), resident=True)
    with TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=(place.nbytes,))
    for read in pieces(0, place, READ_BYTES):
        fill(storage, mapped[read.arena_offset :][: read.nbytes].data, read)
    return mapped, {extent: mapped.ctypes.data + offset for extent, offset in place.offsets()}


def _at(name: str, values: Values, results: Mapping[str, Array]) -> Array:
    return values.array(name) if name in values else results[name]


def _on_disk(array: Array, folder: Path) -> Array:
    """A copy in a file without a name: its pages can be taken back."""
    with TemporaryFile(dir=folder) as file:
        copy = np.memmap(file, array.dtype, "w+", shape=array.shape)
    np.copyto(copy, array)
    return copy


def _differ(one: Array, other: Array) -> bool:
    """Whether bits differ, without a copy."""
    places = (ctypes.c_void_p(array.ctypes.data) for array in (one, other))
    return bool(ctypes.CDLL(None).memcmp(*places, ctypes.c_size_t(one.nbytes)))


def _shape(value: Any) -> tuple[int, ...]:
    tensor = getattr(value, "tensor", None)
    return tuple(value.shape if tensor is None else tensor.shape())


class Region:
    """Touched pages of ONNX Runtime's arena.

    The first page is left out: the allocator's header lies there. The last pages are left out too:
    ONNX Runtime 1.23 places inline constants before the probe.
    """

    def __init__(self) -> None:
        self._start = self._nbytes = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def find(self, limit: int) -> None:
        """Locate the arena that was registered last, by its first allocation."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        session = ort.InferenceSession(ONE_OPERATOR, options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", np.zeros(1, np.float32))
        binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)
        pointer = int(binding.get_outputs()[0].data_ptr())
        self._start = align_up(pointer + 1, mmap.PAGESIZE)
        self._nbytes = align_up(limit, mmap.PAGESIZE) - UNSEEN_BYTES
        binding.clear_binding_outputs()
        self.peak(reset=True)

    def peak(self, *, reset: bool) -> int:
        """Bytes up to the highest touched page; ``reset`` gives all pages back."""
        pages = self._nbytes // mmap.PAGESIZE
        resident = np.empty(pages, np.uint8)
        start, length = ctypes.c_void_p(self._start), ctypes.c_size_t(self._nbytes)
        if self._libc.mincore(start, length, ctypes.c_void_p(resident.ctypes.data)) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        touched = np.flatnonzero(resident & 1)
        if reset:
            self._libc.madvise(start, length, mmap.MADV_DONTNEED)
        return int(touched[-1] + 2 if len(touched) else 1) * mmap.PAGESIZE
