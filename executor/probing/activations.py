"""Measure the memory of blocks beside their weights, by running them in a child process.

The process runs every block of an engine directory once, in order, on seeded inputs of the planned
shapes or of others.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.errors import BudgetError, ModelError, SwapnetError
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.backends.lookup import LookupSegment
from swapnet.executor.backends.onnxruntime import LARGEST_CHUNK_BYTES, OnnxRuntimeBackend
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.layout import is_placed, last_uses
from swapnet.executor.planning.plan import Step
from swapnet.executor.swapping.arena import new_array
from swapnet.executor.swapping.host_values import Values
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.machine import anonymous_bytes
from swapnet.manifest import SHARED, WEIGHTS, Manifest
from swapnet.process.ask import ask
from swapnet.process.child import ProcessDied
from swapnet.process.failure import Failed
from swapnet.process.serve import Parent, serve
from swapnet.tensors import ELEMENT_BYTES
from swapnet.units import align_up

__all__ = ["Measurement", "measure"]

_MARGIN = 1.05
"""Growth of the limit after each failed try, for fragments of ONNX Runtime's arena."""

_TRIES = 4
"""Number of smaller limits to try: the last two differ by a thirty-second."""

_UNSEEN_BYTES = 64 << 20
"""End of ONNX Runtime's arena that is not watched: far more than inline constants take."""

_MODULE = "swapnet.executor.probing.activations"


class Job(msgspec.Struct, frozen=True):
    """Engine to measure.

    Attributes
    ----------
    folder
        Engine directory.
    shapes
        Shapes of all inputs; empty for those of the build.
    """

    folder: str
    shapes: dict[str, tuple[int, ...]] = {}


class Measurement(msgspec.Struct, frozen=True, tag=True):
    """Measured memory of blocks.

    Attributes
    ----------
    activation_bytes
        Peak of ONNX Runtime's arena while each block ran.
    scratch_bytes
        Limit of the arena under which all blocks ran, one by one and in one step. Values without a
        fixed place leave fragments in the arena: then in steps of several sizes too.
    skeleton_bytes
        Growth of the process for all skeletons together.
    nbytes
        Size of each input, output and value of symbolic shape.
    """

    activation_bytes: tuple[int, ...]
    scratch_bytes: int
    skeleton_bytes: int
    nbytes: dict[str, int]

    @property
    def limiting_activation_bytes(self) -> tuple[int, ...]:
        """Peak of each block; that of the highest is replaced by the limit under which all ran."""
        widest = self.activation_bytes.index(max(self.activation_bytes))
        return tuple(
            self.scratch_bytes if block == widest else min(peak, self.scratch_bytes)
            for block, peak in enumerate(self.activation_bytes)
        )


def measure(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Measurement:
    """Run the blocks of ``folder`` in a child process.

    Parameters
    ----------
    folder
        Engine directory.
    shapes
        Shapes of all inputs; by default those of the build.

    Raises
    ------
    ModelError
        A block does not run on seeded inputs, or the child fails.
    ProcessDied
        The child was killed.
    """
    job = Job(str(folder), {name: tuple(shape) for name, shape in (shapes or {}).items()})
    try:
        found: Measurement = ask(
            _MODULE, job, Measurement | Failed, lambda measured: measured, verb="measures blocks"
        )
    except ProcessDied as error:
        if error.was_killed:
            raise
        raise ModelError(
            "the blocks can't be measured", why=f"{error.what}: {error.why}", hint=error.hint
        ) from error
    except SwapnetError as error:
        raise ModelError(
            "the blocks do not run on seeded inputs",
            why=" ".join(f"{error.what}: {error.why}".splitlines()),
            hint="give the shapes that the model is used with: --shapes name:1x3x224x224",
        ) from error
    return found


class _Blocks:
    """An engine whose weights are mapped, run block by block or whole."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        self._folder = folder
        manifest = Engine.open(folder).built
        self.manifest: Manifest = msgspec.structs.replace(
            manifest, planned_shapes=dict(shapes or manifest.planned_shapes)
        )
        self.nbytes: dict[str, int] = {}
        """Size of each input, output and value of symbolic shape, in the latest run."""
        self._file = WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)
        self._mapped: npt.NDArray[np.uint8] = (
            np.memmap(folder / WEIGHTS, np.uint8, "r")
            if self.manifest.weights_nbytes
            else np.empty(0, np.uint8)
        )
        self._values = Values(self.manifest, np.asarray)
        start = self._mapped.ctypes.data
        weights = {
            (b.index, w.name): start + w.offset for b in self.manifest.blocks for w in b.weights
        }
        weights |= {(SHARED, w.name): start + w.offset for w in self.manifest.shared}
        self._bindings = Bindings(weights, self._values.addresses)
        self._last_uses = last_uses(self.manifest)

    def run(self, steps: Sequence[Step], scratch_bytes: int, probe: _Region | None) -> list[int]:
        """Run all steps in ONNX Runtime's arena of this limit; the peak of the arena after each."""
        backend = OnnxRuntimeBackend(self._folder, self.manifest, Device(), Scratch(scratch_bytes))
        graphs = [s for s in steps if self.manifest.blocks[s.first].is_graph]
        segments: dict[Step, Segment] = dict(
            zip(graphs, backend.segments(graphs, self._bindings), strict=True)
        )
        lookups = {
            s: LookupSegment(self.manifest.blocks[s.first], self._file, self._values, backend)
            for s in steps
            if s not in segments
        }
        if probe is not None:
            probe.find(scratch_bytes)
        given: dict[str, Any] = dict(planned_sample(self.manifest))
        results = {t.name: new_array(t) for t in self.manifest.outputs if is_placed(t)}
        inputs = len(given)
        peaks: list[int] = []
        self._observe(given)
        for step in steps:
            (segments.get(step) or lookups[step]).run(given, results)
            self._observe(given)
            for name, block in self._last_uses.items():
                if block <= step.last:
                    given.pop(name, None)
            if probe is not None:
                peaks.append(probe.peak(reset=len(given) == inputs))
        for lookup in lookups.values():
            lookup.close()
        return peaks

    def _observe(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            tensor = self.manifest.tensors[name]
            if tensor.is_symbolic:
                self.nbytes[name] = ELEMENT_BYTES[tensor.dtype] * prod(_shape(value))


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
        from onnx import TensorProto, helper

        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "probe",
            [info("x", TensorProto.FLOAT, ["n"])],
            [info("y", TensorProto.FLOAT, ["n"])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = ort.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
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


def _measure_here(folder: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> Measurement:
    blocks = _Blocks(folder, shapes)
    count = len(blocks.manifest.blocks)
    one_by_one = _grouped(blocks.manifest, 1)
    sizes = (count,) if all(map(is_placed, blocks.manifest.values)) else (2, 3, 4, 6, 8, count)
    orders = [one_by_one, *(_grouped(blocks.manifest, size) for size in sizes)]
    peaks = blocks.run(one_by_one, LARGEST_CHUNK_BYTES, _Region())
    limit = _smallest_limit(blocks, orders, max(peaks))
    return Measurement(tuple(peaks), limit, _skeleton_bytes(blocks, one_by_one), blocks.nbytes)


def _grouped(manifest: Manifest, size: int) -> list[Step]:
    """Steps of ``size`` blocks; a lookup has its own."""
    steps: list[Step] = []
    for block in manifest.blocks:
        before = steps[-1] if steps else None
        if (
            before is not None
            and block.is_graph
            and manifest.blocks[before.last].is_graph
            and block.index - before.first < size
        ):
            steps[-1] = replace(before, last=block.index)
        else:
            steps.append(Step(block.index, block.index, 0))
    return steps


_MOST_TIMES_PEAK = 16
"""Upper limit of the tries, in multiples of the peak one by one: in the session of several blocks
ONNX Runtime widens narrow weights before it needs them."""


def _smallest_limit(blocks: _Blocks, orders: Sequence[Sequence[Step]], peak: int) -> int:
    """A limit of ONNX Runtime's arena under which the blocks run in every order.

    The arena takes the smallest hole that fits, so its peak depends on its size. Limits below the
    peak are tried where all sizes are known. Limits above it are tried where fragments need them.
    """

    def runs(limit: int) -> bool:
        try:
            for steps in orders:
                blocks.run(steps, limit, None)
        except BudgetError:
            if limit > _MOST_TIMES_PEAK * max(peak, 1 << 20):
                raise
            return False
        return True

    limit = align_up(peak, mmap.PAGESIZE)
    while not runs(limit):
        limit = align_up(int(max(limit, 1 << 16) * _MARGIN), mmap.PAGESIZE)
    too_small = limit // 2
    for _ in range(_TRIES if all(map(is_placed, blocks.manifest.values)) else 0):
        middle = align_up((too_small + limit) // 2, mmap.PAGESIZE)
        if runs(middle):
            limit = middle
        else:
            too_small = middle
    return limit


def _skeleton_bytes(blocks: _Blocks, steps: list[Step]) -> int:
    """Growth of the process for its skeletons, once the heap has grown for loading them."""
    backend = OnnxRuntimeBackend(blocks._folder, blocks.manifest, Device(), Scratch(1 << 16))
    graphs = [s for s in steps if blocks.manifest.blocks[s.first].is_graph]
    before = anonymous_bytes()
    segments = backend.segments(graphs, blocks._bindings)
    grown = anonymous_bytes() - before
    del segments
    return max(grown, 0)


def work(parent: Parent) -> None:
    """Measure the engine that the parent asks for."""
    job = parent.job(Job)
    parent.answer(_measure_here(Path(job.folder), job.shapes or None))


if __name__ == "__main__":
    _PR_SET_THP_DISABLE = 41
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    sys.exit(serve(work))
