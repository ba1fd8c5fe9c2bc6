"""What blocks need beside their weights, measured by running them in a process of their own.

``python -m swapnet.builder.measure FOLDER`` runs every block of an engine directory once, in
order, on seeded inputs, and prints a `Measurement` as JSON.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.errors import BudgetError, ModelError, SwapnetError
from swapnet.executor.arena import new_array
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.backends.onnxruntime import LARGEST_CHUNK_BYTES, OnnxRuntimeBackend
from swapnet.executor.device import Device
from swapnet.executor.inputs import planned_sample
from swapnet.executor.layout import is_placed, last_uses
from swapnet.executor.lookup import LookupSegment
from swapnet.executor.plan import Step
from swapnet.executor.storage import LoadMode, WeightFile
from swapnet.executor.values import Values
from swapnet.manifest import WEIGHTS, Manifest, load_manifest
from swapnet.units import align_up

__all__ = ["Measurement", "measure"]

_MARGIN = 1.05
"""Retry with so much more where the arena's fragments need it."""

_REFUSED = 3
"""Exit status of a child that ends with one of our errors."""


class Measurement(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes
    ----------
    activation_bytes
        By block: peak of the backend's arena while it ran.
    scratch_bytes
        Limit under which all blocks ran, one by one and as one segment.
    skeleton_bytes
        Growth of the process for all skeletons together.
    """

    activation_bytes: tuple[int, ...]
    scratch_bytes: int
    skeleton_bytes: int


def measure(folder: Path) -> Measurement:
    """Run the blocks of ``folder`` in a child process.

    Raises
    ------
    ModelError
        A block does not run on seeded inputs, or the child fails.
    """
    child = subprocess.run(
        [sys.executable, "-m", "swapnet.builder.measure", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    last_line = child.stderr.strip().rpartition("\n")[2]
    if child.returncode == _REFUSED:
        raise ModelError(
            "the blocks do not run on seeded inputs",
            why=last_line,
            hint="give the shapes that the model is used with: --shapes name:1x3x224x224",
        )
    if child.returncode < 0:
        number = -child.returncode
        likely = ", likely for memory" if number == signal.SIGKILL else ""
        raise ModelError(
            "the blocks can't be measured",
            why=f"the process was killed by signal {number} ({signal.strsignal(number)}){likely}",
            hint="free some memory" if likely else "",
        )
    if child.returncode > 0:
        raise ModelError(
            "the blocks can't be measured",
            why=last_line or f"the process ended with {child.returncode}",
        )
    return msgspec.json.decode(child.stdout, type=Measurement)


class _Blocks:
    """An engine whose weights are mapped, run block by block or whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest: Manifest = load_manifest(folder)
        self._file = WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)
        self._mapped: npt.NDArray[np.uint8] = (
            np.memmap(folder / WEIGHTS, np.uint8, "r")
            if self.manifest.weights_nbytes
            else np.empty(0, np.uint8)
        )
        self._values = Values(self.manifest)
        start = self._mapped.ctypes.data
        weights = {
            (b.index, w.name): start + w.offset for b in self.manifest.blocks for w in b.weights
        }
        weights |= {(-1, w.name): start + w.offset for w in self.manifest.shared}
        self._bindings = Bindings(weights, self._values.addresses)
        self._last_uses = last_uses(self.manifest)

    def run(self, steps: Sequence[Step], scratch_bytes: int, probe: _Region | None) -> list[int]:
        """Run all steps under an arena limit; the peak of the arena after each."""
        backend = OnnxRuntimeBackend(
            self._folder, self.manifest, Device(), scratch_bytes=scratch_bytes
        )
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
        for step in steps:
            (segments.get(step) or lookups[step]).run(given, results)
            for name, block in self._last_uses.items():
                if block <= step.last:
                    given.pop(name, None)
            if probe is not None:
                peaks.append(probe.peak(reset=len(given) == inputs))
        for lookup in lookups.values():
            lookup.close()
        return peaks


class _Region:
    """The pages of the backend's arena that were touched.

    The first page is left alone, for the allocator's own header lies there.
    """

    def __init__(self) -> None:
        self._start = self._nbytes = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def find(self, limit: int) -> None:
        """Locate the arena registered last: its first allocation lies at its start."""
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
        self._nbytes = limit // mmap.PAGESIZE * mmap.PAGESIZE - mmap.PAGESIZE
        binding.clear_binding_outputs()
        self.peak(reset=True)

    def peak(self, *, reset: bool) -> int:
        """Bytes up to the highest page touched; then, where asked, give all pages back."""
        pages = self._nbytes // mmap.PAGESIZE
        resident = np.empty(pages, np.uint8)
        start, length = ctypes.c_void_p(self._start), ctypes.c_size_t(self._nbytes)
        if self._libc.mincore(start, length, ctypes.c_void_p(resident.ctypes.data)) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        touched = np.flatnonzero(resident & 1)
        if reset:
            self._libc.madvise(start, length, mmap.MADV_DONTNEED)
        return int(touched[-1] + 2 if len(touched) else 1) * mmap.PAGESIZE


def _anonymous_bytes() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def _measure_here(folder: Path) -> Measurement:
    blocks = _Blocks(folder)
    count = len(blocks.manifest.blocks)
    one_by_one = [Step(i, i, 0) for i in range(count)]
    graph_runs: list[Step] = []
    for step in one_by_one:
        block = blocks.manifest.blocks[step.first]
        if graph_runs and block.is_graph and blocks.manifest.blocks[step.first - 1].is_graph:
            graph_runs[-1] = replace(graph_runs[-1], last=step.first)
        else:
            graph_runs.append(step)
    peaks = blocks.run(one_by_one, LARGEST_CHUNK_BYTES, _Region())
    limit = align_up(max(peaks), mmap.PAGESIZE)
    while True:
        try:
            blocks.run(one_by_one, limit, None)
            blocks.run(graph_runs, limit, None)
            break
        except BudgetError:
            if limit > 4 * max(*peaks, 1 << 20):
                raise
            limit = align_up(int(max(limit, 1 << 16) * _MARGIN), mmap.PAGESIZE)
    return Measurement(tuple(peaks), limit, _skeleton_bytes(blocks, one_by_one))


def _skeleton_bytes(blocks: _Blocks, steps: list[Step]) -> int:
    """What skeletons add once the heap has grown for loading them."""
    backend = OnnxRuntimeBackend(blocks._folder, blocks.manifest, Device(), scratch_bytes=1 << 16)
    graphs = [s for s in steps if blocks.manifest.blocks[s.first].is_graph]
    before = _anonymous_bytes()
    segments = backend.segments(graphs, blocks._bindings)
    grown = _anonymous_bytes() - before
    del segments
    return max(grown, 0)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
    try:
        sys.stdout.write(msgspec.json.encode(_measure_here(Path(sys.argv[1]))).decode())
    except SwapnetError as error:
        reason = " ".join(f"{error.what}: {error.why}".splitlines())
        sys.stderr.write(f"{reason}\n")
        sys.exit(_REFUSED)
