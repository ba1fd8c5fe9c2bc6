"""The process that measures blocks: it runs them one by one and merged, on seeded or kept inputs.

Its parent is `swapnet.executor.probing.activations`.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.errors import BudgetError
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.backends.lookup import LookupSegment
from swapnet.executor.backends.onnxruntime import LARGEST_CHUNK_BYTES, OnnxRuntimeBackend
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.conversations import Conversations
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.layout import last_uses
from swapnet.executor.planning.plan import Place, Step
from swapnet.executor.planning.schedule import outline_of
from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.probing import trial
from swapnet.executor.probing.activations import Job, Measurement
from swapnet.executor.probing.stripings import find_stripings
from swapnet.executor.samples import kept_samples
from swapnet.executor.swapping.actual_shapes import ActualShapes, ShapeError
from swapnet.executor.swapping.host_values import Values
from swapnet.executor.swapping.loading import fill, pieces
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent, Manifest, Tensor, sha256_of
from swapnet.process.child import Child, forked
from swapnet.process.serve import answering, serve
from swapnet.progress import Progress
from swapnet.shapes import SessionMemory
from swapnet.strips import Striping
from swapnet.tensors import ELEMENT_BYTES
from swapnet.token_rows import IDS
from swapnet.units import align_up

__all__ = ["work"]

_MARGIN = 1.05
"""Growth of the limit after each failed try, for fragments of ONNX Runtime's arena."""

_FEW_BLOCKS = 3
"""Blocks in a step, beside one and all: values of unknown size leave other holes then."""

_MOST_TIMES_PEAK = 16
"""Upper limit of the tries, in multiples of the peak."""

_CONFIRMING_TRIES = 2

_OWN = (False, True)
"""Processes in which the smallest budget is tried: a user's, and one of ours."""

_PATIENCE_S = 30.0
_PATIENT_TIMES = 10
"""Time-out of the smallest plan under the kernel's limit: seconds, and multiples of the time
without a limit. A process that crawls takes far longer."""

_SPARE_BYTES = 256 << 10
"""Added to the limits: kernels need a little more at other shapes, or with more threads."""

_ROWS = 2
"""The axis of rows."""

_UNSEEN_BYTES = 64 << 20
"""End of ONNX Runtime's arena that is not watched: far more than inline constants take."""

_WATCHED_BYTES = 192 << 20
_SEEN_BYTES = 48 << 20
"""Watched memory of the first try, and the peak below which it counts: what lies beyond the watched
memory would begin above it. ONNX Runtime fills a list of a 32nd of an arena, so a large one takes
longer than most models run."""

_PR_SET_THP_DISABLE = 41

_ONE_OPERATOR = (
    b'\x08\x08:;\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x03oneZ\x10\n\x01x\x12\x0b\n\t\x08\x01'
    b"\x12\x05\n\x03\x12\x01nb\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\r"
)
"""A model of one Identity, from ``x`` to ``y``: without the onnx package, which loads slowly."""


class _Blocks:
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
        """Inputs, and memory for what is kept of the outputs."""
        if (cache := job.cache) is None:
            samples = kept_samples(replace(engine, shaped=self.manifest))
            self._samples = [(each, {}) for each in samples or (planned_sample(self.manifest),)]
        else:
            self._state = Conversations(cache, threading.Lock())
            self._state.state(0).hold()
            for asked in map(cache.asked, cache.largest(self.manifest)):
                sample = planned_sample(asked)
                rows, count = sample[IDS].shape
                past, kept = self._state.views(range(rows), count)
                self._samples.append(({**sample, **past}, kept))
                for name, array in kept.items():
                    self._note(planned.tensors[name], array.shape)
        self._file = WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)
        self._mapped, starts = _mapped(folder, self.manifest, self._file)
        self.digests: list[str] = []
        """SHA-256 of each model output of each sample, in the latest run."""
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

    def run(self, steps: Sequence[Step], scratch_bytes: int, probe: _Region | None) -> list[int]:
        """Run all steps in ONNX Runtime's arena of this limit; the peak of the arena after each.

        Of several samples the highest peak counts.
        """
        self.digests.clear()
        each: list[list[int]] = []
        while len(each) < len(self._samples):
            try:
                each.append(self._run_on(*self._samples[len(each)], steps, scratch_bytes, probe))
            except ShapeError as error:
                if not self._actual.learn(error):
                    raise
        return [max(peaks) for peaks in zip(*each, strict=True)]

    def _run_on(
        self,
        sample: Mapping[str, Any],
        kept: Mapping[str, Any],
        steps: Sequence[Step],
        scratch_bytes: int,
        probe: _Region | None,
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
            given, results = values.begin(sample, kept)
            results.update(kept)
            inputs = len(given)
            peaks: list[int] = []
            self._observe(given)
            for step in steps:
                (segments.get(step) or lookups[step]).run(given, results)
                self._observe(given)
                for name, block in self._last_uses.items():
                    if block <= step.last and step.is_last:
                        given.pop(name, None)
                if probe is not None:
                    peaks.append(probe.peak(reset=len(given) == inputs))
            if steps[-1].last == len(self.manifest.blocks) - 1:
                for tensor in self.manifest.outputs:
                    found = backend.array(results.get(tensor.name, given.get(tensor.name)))
                    self.digests.append(sha256_of(np.ascontiguousarray(found).data))
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


def _shape(value: Any) -> tuple[int, ...]:
    tensor = getattr(value, "tensor", None)
    return tuple(value.shape if tensor is None else tensor.shape())


class _Region:
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
        session = ort.InferenceSession(_ONE_OPERATOR, options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", np.zeros(1, np.float32))
        binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)
        pointer = int(binding.get_outputs()[0].data_ptr())
        self._start = align_up(pointer + 1, mmap.PAGESIZE)
        self._nbytes = align_up(limit, mmap.PAGESIZE) - _UNSEEN_BYTES
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


def _measure_here(job: Job, _: Progress) -> Measurement:
    import onnxruntime  # noqa: F401 - before the forks, so that it does not count

    folder, cache = Path(job.folder), job.cache
    tries = _CONFIRMING_TRIES if job.limited else 0
    # Forked early, so that their heaps are as those of new processes.
    with ExitStack() as opened, forked(*[trial.MODULE] * (len(_OWN) + tries)):
        # Huge pages would make a peak of touched ones; the trials have them as executors do.
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
        blocks = _Blocks(job)
        manifest = blocks.manifest
        apart = _grouped(manifest, 1)
        sizes = [len(manifest.blocks)]
        if not all(map(manifest.is_sized, manifest.values)):
            sizes.insert(0, _FEW_BLOCKS)
        groupings = [_grouped(manifest, size) for size in sizes]
        peaks = _peaks(blocks, apart, LARGEST_CHUNK_BYTES)
        expected = list(blocks.digests)
        limit = _limit(blocks, [apart, *groupings], max(peaks)) + _SPARE_BYTES
        measured = _measured(manifest.sized(blocks.nbytes), peaks, limit)
        stripings = _stripings(blocks, measured, expected)
        measured = msgspec.structs.replace(measured, stripings=stripings)
        measured = cache.counted(measured) if cache else measured
        begun_s = time.monotonic()
        trials = [
            opened.enter_context(Child(trial.MODULE, "the process that tries the smallest budget"))
            for _ in _OWN
        ]
        for process, own in zip(trials, _OWN, strict=True):
            process.tell(trial.Job(str(folder), measured, _ONE_OPERATOR, own, cache=cache))
        process_bytes, own_process_bytes = (int(process.hear()) for process in trials)
        process_bytes = max(process_bytes, own_process_bytes)  # they differ by chance if small
        memory = SessionMemory(limit, process_bytes, own_process_bytes)
        memory, unconfirmed = trial.confirmed(
            tries,
            folder,
            msgspec.structs.replace(measured, session_memory=memory),
            _ONE_OPERATOR,
            cache,
            patience_s=_PATIENCE_S + _PATIENT_TIMES * (time.monotonic() - begun_s),
        )
    return Measurement(tuple(peaks), memory, blocks.nbytes, stripings, unconfirmed)


def _stripings(
    blocks: _Blocks, measured: Manifest, expected: Sequence[str]
) -> tuple[Striping, ...]:
    def trial(steps: Sequence[Step], most_bytes: int) -> tuple[int, list[str]]:
        peak = max(_peaks(blocks, steps, most_bytes))
        return peak, list(blocks.digests)

    def limit(steps: Sequence[Step], peak: int) -> int:
        return _limit(blocks, [steps], peak) + _SPARE_BYTES

    heights = {n: shape[_ROWS] for n, shape in blocks.shapes.items() if len(shape) > _ROWS}
    return find_stripings(measured, heights, expected, trial, limit, _SPARE_BYTES)


def _measured(manifest: Manifest, peaks: Sequence[int], limit: int) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        session_memory=SessionMemory(limit),
        blocks=tuple(
            msgspec.structs.replace(block, activation_bytes=peak)
            for block, peak in zip(manifest.blocks, peaks, strict=True)
        ),
    )


def _grouped(manifest: Manifest, size: int) -> list[Step]:
    """Steps of ``size`` blocks; a lookup has its own, and so has a block with windows."""
    steps: list[Step] = []
    joinable = outline_of(manifest).joinable
    for block in manifest.blocks:
        before = steps[-1] if steps else None
        if before is not None and joinable[block.index] and block.index - before.first < size:
            steps[-1] = replace(before, last=block.index)
        else:
            steps.append(Step(block.index, block.index, 0))
    return steps


def _peaks(blocks: _Blocks, steps: Sequence[Step], most_bytes: int) -> list[int]:
    """The peak of ONNX Runtime's arena after each step; BudgetError above ``most_bytes``."""
    largest = min(align_up(most_bytes, mmap.PAGESIZE) + _UNSEEN_BYTES, LARGEST_CHUNK_BYTES)
    if largest > _WATCHED_BYTES + _UNSEEN_BYTES:
        with suppress(BudgetError):
            peaks = blocks.run(steps, _WATCHED_BYTES + _UNSEEN_BYTES, _Region())
            if max(peaks) < _SEEN_BYTES:
                return peaks
    return blocks.run(steps, largest, _Region())


def _limit(blocks: _Blocks, orders: Sequence[Sequence[Step]], peak: int) -> int:
    """A limit of ONNX Runtime's arena under which the blocks run in every order, from ``peak`` on.

    The arena takes the smallest hole that fits, so its peak depends on its size: the limit may have
    to be above the peak of a large arena.
    """
    limit = align_up(peak, mmap.PAGESIZE)
    for steps in orders:
        while not _runs(blocks, steps, limit, peak):
            limit = align_up(int(max(limit, 1 << 16) * _MARGIN), mmap.PAGESIZE)
    return limit


def _runs(blocks: _Blocks, steps: Sequence[Step], limit: int, peak: int) -> bool:
    try:
        blocks.run(steps, limit, None)
    except BudgetError:
        if limit > _MOST_TIMES_PEAK * max(peak, 1 << 20):
            raise
        return False
    return True


work = answering(Job, _measure_here)
"""Measures the engine that the parent asks for."""

if __name__ == "__main__":
    sys.exit(serve(work))
