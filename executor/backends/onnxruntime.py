"""ONNX Runtime on the CPU: a session for each step, weights bound by address."""

from __future__ import annotations

import ctypes
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.custom_ops import register_custom_ops
from swapnet.errors import BackendError, BackendUnavailableError, BudgetError
from swapnet.executor.backends.base import Array, Bindings, Segment
from swapnet.executor.backends.host import HostBackend
from swapnet.executor.backends.merge_skeletons import (
    Parts,
    merge_skeletons,
    parts_of,
    with_heights,
)
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.backends.strips import Cut, OneStrip, StripedSegment, run_of, strip_heights
from swapnet.executor.backends.windows import GAP, Opened, drop_cached, gathered, open_mapped
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.gpu.memory import DeviceArray
from swapnet.executor.planning.layout import spans
from swapnet.executor.planning.plan import Step
from swapnet.executor.swapping.actual_shapes import ShapeError
from swapnet.executor.swapping.arena import Arena, Borrower
from swapnet.machine import trim_heap
from swapnet.manifest import WEIGHTS, Manifest, Tensor
from swapnet.strips import Striped
from swapnet.tensors import ONNX_TYPES, numpy_dtype

__all__ = [
    "LARGEST_CHUNK_BYTES",
    "Allocated",
    "OnnxRuntimeBackend",
    "OrtSegment",
    "Sessions",
    "arena_of",
    "names_shapes",
    "open_on_cpu",
    "open_session",
    "own_process",
    "refused",
    "session_options",
    "version",
]

_LOGGER = logging.getLogger("swapnet")

_FULL_ARENA = re.compile(
    r"Available memory of (\d+) is smaller than requested bytes of (\d+)", re.IGNORECASE
)

_OTHER_SHAPE = re.compile(
    r"for output '(.+?)' of node .* the computed output shape for this run is \{([\d,]*)\}"
)

_UNKNOWN = re.compile(r"(\S+):(\w+)\(-?\d+\) is not a registered")

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of the parameters in the C library's ``mallopt`` (malloc.h)."""

_RETURNED_BYTES = 1 << 20
_PACKED_BYTES = 1 << 16
"""Smallest allocations that return to the system while weights are packed: in the heap they would
leave holes, 7 MiB in 40 for a language model of 100 MiB."""

_SPIN_US = "20"
"""Time for which a compute thread waits for the next kernel before it sleeps. A token of a decoder
of 135 million parameters took 15.1 ms without, 12.1 ms with 20 us; 50 us gained no more."""

LARGEST_CHUNK_BYTES = (1 << 31) - (1 << 20)
"""Largest chunk that ONNX Runtime's arena takes at once: it is counted in 32 bits."""


def names_shapes() -> bool:
    """Whether ONNX Runtime names the output whose memory has another shape (since 1.32).

    Formulas of sizes are used with such a version only: a wrong one is then noticed and corrected.
    """
    return _is_since(1, 32)


def _is_since(*least: int) -> bool:
    return tuple(map(int, version().split("."))) >= least


def version(package: str = "onnxruntime") -> str:
    """Major and minor version: between them layouts and internal operators may change.

    Raises
    ------
    BackendUnavailableError
        ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed", why=str(error), hint=f"pip install {package}"
        ) from error
    return ".".join(ort.__version__.split(".")[:2])


def own_process(threads: int) -> Device:
    """Give this process one global thread pool; called once, before any session is made.

    Allocations of 1 MiB and more return to the system when they are freed. Kernels allocate scratch
    memory outside of ONNX Runtime's arena; glibc would keep it in its heap: 200 MiB for eight int4
    products of 2048 x 2048.
    """
    import onnxruntime as ort

    _return_freed(_RETURNED_BYTES)
    ort.set_global_thread_pool_sizes(threads, 1)
    return Device(threads, ThreadPool.GLOBAL)


def _return_freed(least_bytes: int) -> None:
    """Let freed memory return to the system, allocations of ``least_bytes`` and more."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in musl
        libc.mallopt(_MMAP_THRESHOLD, least_bytes)
        libc.mallopt(_TRIM_THRESHOLD, least_bytes)


@contextmanager
def _returning(is_own: bool) -> Iterator[None]:
    """Keep nothing in the heap of what is freed meanwhile; a process of ours puts nothing there."""
    if is_own:
        _return_freed(_PACKED_BYTES)
    try:
        yield
    finally:
        if is_own:
            _return_freed(_RETURNED_BYTES)
        else:
            trim_heap()


class OnnxRuntimeBackend(HostBackend):
    """Sessions that share one arena of ONNX Runtime's, with a hard limit.

    Operators run in the order of the skeletons, also in merged ones: the placement of values relies
    on it. ONNX Runtime's priority-based order takes the lowest index that is ready.

    Parameters
    ----------
    folder, manifest
        The engine.
    device
        Compute threads.
    scratch
        Memory for values inside a step and for its kernels; may be shared with other engines.

    Raises
    ------
    BackendError
        ONNX Runtime refuses the arena.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest, device: Device, scratch: Scratch) -> None:
        super().__init__(manifest)
        self._scratch = scratch
        self._device = device
        self._takes_windows = True
        self._has_mapped = False
        self._weights = (folder / WEIGHTS).resolve()
        self._sessions = Sessions(folder, manifest, scratch, self._open)

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[Segment]:
        self._takes_windows = bindings.arena is not None
        if isinstance(bindings.arena, Arena):
            bindings.arena.take_back()
        opened = self._sessions_of(steps)
        if isinstance(bindings.arena, Arena) and self.manifest.has_windows:
            bindings.arena.settle()
        pairs = {(s.first, s.last): (each, s) for each, s in zip(opened, steps, strict=True)}
        runs: set[Striped | None] = {step.strips for step in steps}
        cuts = {run: Cut(self.manifest, run, bindings) for run in runs if run is not None}
        made = {
            span: self._segment(
                opened, step, bindings, None if step.strips is None else cuts[step.strips]
            )
            for span, (opened, step) in pairs.items()
        }
        segments = [(made[step.first, step.last], step.strip) for step in steps]
        return [each if strip is None else OneStrip(each, strip) for each, strip in segments]

    def _segment(self, opened: Opened, step: Step, bindings: Bindings, cut: Cut | None) -> Segment:
        if opened.borrowers:
            return _WindowedSegment(opened, self.manifest, step, bindings)
        if cut is None:
            return OrtSegment(opened.session, self.manifest, step, bindings)
        segment = OrtSegment(opened.session, self.manifest, step, cut.bindings)
        return StripedSegment(segment, step, cut)

    def array(self, value: Any) -> Array:
        # A copy: ONNX Runtime's arena needs the memory again.
        return np.array(value.tensor.numpy()) if isinstance(value, Allocated) else value

    def prepare_segments(self, steps: Sequence[Step]) -> None:
        self._sessions_of(steps)

    def forget_segments(self) -> None:
        self._sessions.forget()

    def close(self) -> None:
        self._sessions.forget()

    def _sessions_of(self, steps: Sequence[Step]) -> list[Any]:
        sessions = self._sessions.of(steps, lambda: self._scratch.enforce("cpu", _register_arena))
        if self._has_mapped:
            drop_cached(self._weights)  # what was read ahead too
            self._has_mapped = False
        return sessions

    def _open(self, model: bytes, step: Step) -> Opened:
        packs = self.manifest.has_windows
        blocks = self.manifest.blocks[step.first : step.last + 1]
        windows = [window for block in blocks for window in block.windows]
        folder = self._weights.parent if windows else None
        is_own = self._device.pool is ThreadPool.GLOBAL

        def make() -> Any:
            with _returning(is_own) if windows else nullcontext():
                return open_on_cpu(
                    model, step, self._device, shared_arena=True, packs=packs, folder=folder
                )

        if not windows or not self._takes_windows:
            return Opened(make())
        self._has_mapped = True
        model = gathered(model, windows)
        opened = open_mapped(self._weights, [block.windows for block in blocks], make)
        if not opened.borrowers:
            _LOGGER.warning(
                "blocks %d to %d read weights through the page cache, beside the budget: this "
                "kernel moves no pages to where ONNX Runtime maps them",
                *(step.first, step.last),
            )
        return opened


class Sessions:
    """Sessions of an engine's steps, taken over from one plan to the next.

    A new session costs half a millisecond and 100 KiB. A step of the same blocks, in the same
    strips, has the session of the plan before; all are opened again after another arena was
    registered. Skeletons are read once and kept compressed: those of ResNet-101 take 39 KiB, their
    parts would take 173. To take one apart again costs 0.04 to 0.07 ms.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        scratch: Scratch,
        open_: Callable[[bytes, Step], Any],
    ) -> None:
        self._manifest = manifest
        self._skeletons = Skeletons(folder, manifest)
        self._kept: dict[int, bytes] = {}
        outputs = [tensor.name for tensor in manifest.outputs]
        readers = [*(block.inputs for block in manifest.blocks), outputs]
        self._last_reader = {name: last for name, (_, last) in spans(readers).items()}
        self._scratch = scratch
        self._open = open_
        self._generation = 0
        self._opened: dict[tuple[int, int, Striped | None], Any] = {}

    def of(self, steps: Sequence[Step], enforce: Callable[[], None]) -> list[Any]:
        """A session for each step; ``enforce`` registers the arena of new ones."""
        forms = [(step.first, step.last, step.strips) for step in steps]
        with Scratch.environment:
            enforce()
            if self._generation != self._scratch.generation:
                self._opened.clear()
                self._generation = self._scratch.generation
            self._opened = {form: self._opened[form] for form in forms if form in self._opened}
            _LOGGER.info("%d sessions, %d of them kept from before", len(forms), len(self._opened))
            for form, step in zip(forms, steps, strict=True):
                if form not in self._opened:
                    self._opened[form] = self._open(self._model(step), step)
        return [self._opened[form] for form in forms]

    def forget(self) -> None:
        """Open all again the next time; a session lives as long as a segment of it."""
        self._opened.clear()

    def _model(self, step: Step) -> bytes:
        parts = [self._parts_of(block) for block in range(step.first, step.last + 1)]
        merged = merge_skeletons(parts, self._outputs(step))
        if step.strips is None:
            return merged
        run = run_of(self._manifest, step.strips)
        return with_heights(merged, strip_heights(self._manifest, run, step.strips.count))

    def _parts_of(self, block: int) -> Parts:
        """Parts of a skeleton, which is kept: another plan merges it with others.

        A step with windows stays from plan to plan.
        """
        if block in self._kept:
            return parts_of(zlib.decompress(self._kept[block]))
        skeleton = self._skeletons.read(block)
        if not self._manifest.blocks[block].windows:
            self._kept[block] = zlib.compress(skeleton, 1)
        return parts_of(skeleton)

    def _outputs(self, step: Step) -> Iterator[str]:
        """Outputs of a segment: all placed values, and those that others or the caller need."""
        tensors = self._manifest.tensors
        for block in self._manifest.blocks[step.first : step.last + 1]:
            for name in block.outputs:
                if self._last_reader.get(name, -1) > step.last:
                    yield name
                elif step.strips is not None:
                    if name in step.strips.nbytes:
                        yield name
                elif name in tensors and self._manifest.is_sized(tensors[name]):
                    yield name


def _register_arena(limit_bytes: int) -> None:
    import onnxruntime as ort

    ort.create_and_register_allocator(*arena_of("Cpu", limit_bytes))


def arena_of(memory: str, limit_bytes: int, *, index: int = 0) -> tuple[Any, Any]:
    """Place and growth of an arena for all sessions, as ONNX Runtime registers it.

    Chunks are split to the last 256 bytes: the default of 128 MiB wastes up to half of each.
    """
    import onnxruntime as ort

    place = ort.OrtMemoryInfo(
        memory, ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, index, ort.OrtMemType.DEFAULT
    )
    growth = ort.OrtArenaCfg(
        {
            "max_mem": limit_bytes,
            "initial_chunk_size_bytes": min(limit_bytes, LARGEST_CHUNK_BYTES),
            "arena_extend_strategy": 0,
            "max_dead_bytes_per_chunk": 256,
        }
    )
    return place, growth


def session_options(*, shared_arena: bool, packs: bool = False) -> Any:
    """Options of every session: operators run as they are stored, in the order of the file.

    Parameters
    ----------
    shared_arena
        True for memory from the arena that is registered with the process.
    packs
        True where kernels pack constants: those of skeletons, and those behind windows.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.use_env_allocators", str(int(shared_arena)))
    options.add_session_config_entry("session.disable_prepacking", str(int(not packs)))
    # Otherwise ONNX Runtime copies a DequantizeLinear for each operator that reads its output, even
    # unoptimised. The copy runs late, when another value may lie in the memory of its input.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    register_custom_ops(options)
    return options


def open_session(
    model: bytes,
    step: Step,
    options: Any,
    provider: str,
    settings: Mapping[str, str] | None = None,
) -> Any:
    """A session of a step's blocks.

    Raises
    ------
    BackendError
        ONNX Runtime refuses the model, or has no such provider.
    """
    import onnxruntime as ort

    what = f"blocks {step.first} to {step.last} can't be loaded"
    try:
        session = ort.InferenceSession(model, options, [(provider, dict(settings or {}))])
    except Exception as error:
        raise refused(what, error) from error
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # for another provider, should this one fail
    if (found := session.get_providers()[0]) != provider:
        raise BackendError(
            what,
            why=f"onnxruntime fell back to {found}: {provider} could not be started",
            hint="install the CUDA and cuDNN that this onnxruntime-gpu wants",
        )
    return session


def open_on_cpu(
    model: bytes,
    step: Step,
    device: Device,
    *,
    shared_arena: bool,
    packs: bool = False,
    folder: Path | None = None,
) -> Any:
    """A session on the CPU with the threads of a device; raises as `open_session`.

    ``folder`` is where the model's external data lies; see `session_options` for the others.
    """
    options = session_options(shared_arena=shared_arena, packs=packs)
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    if device.pool is ThreadPool.GLOBAL:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = device.threads
        options.inter_op_num_threads = 1
        # Kernels of a few microseconds end before a thread that sleeps has woken up. A thread that
        # spins on after a step keeps a processor from the readers. Before 1.32 it spins for 1 ms.
        spins = _is_since(1, 32)
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        if spins:
            options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    return open_session(model, step, options, "CPUExecutionProvider")


class Allocated:
    """An output in ONNX Runtime's arena; the memory returns with the last reference.

    Up to ONNX Runtime 1.27 at least, the output of a binding is a view of the binding's own value.
    So the binding has to forget it too, by ``forget``.
    """

    __slots__ = ("_forget", "tensor")

    def __init__(self, tensor: Any, forget: Callable[[], None]) -> None:
        self.tensor = tensor
        self._forget = forget

    def __del__(self) -> None:
        self._forget()


class OrtSegment:
    """The segment of a step: a session with weights and placed values bound once.

    Parameters
    ----------
    session, step
        The step, and the session of its blocks.
    manifest, bindings
        The engine, and the addresses of its weights and placed values.
    memory, index
        ONNX Runtime's name for the memory of these addresses, and number of its device.
    run_options
        Options of each run.
    """

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        step: Step,
        bindings: Bindings,
        memory: str = "cpu",
        index: int = 0,
        run_options: Any = None,
    ) -> None:
        import onnxruntime as ort

        self._session = session
        self._step = step
        self._memory = memory
        self._index = index
        self._run_options = run_options
        self._binding = session.io_binding()
        weights = {
            weight.name: (weight, bindings.weights[block.index, weight.name])
            for block in manifest.blocks[step.first : step.last + 1]
            for weight in manifest.weights_of(block.index)
        }
        self._given_inputs: list[Tensor] = []
        self._given_outputs: list[Tensor] = []
        self._actual = bindings.strip or bindings.actual
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._sized: list[tuple[Any, Tensor, int]] = []
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}  # arrays: address and shape
        self._open: set[str] = set()  # outputs for which the next run takes memory
        self._nothing = ort.OrtValue.ortvalue_from_numpy(np.empty(0, np.float32))
        for arg in session.get_inputs():
            if bound := weights.get(arg.name):
                weight, address = bound
                self._place(self._binding.bind_input, weight, address)
            elif arg.name in bindings.values:
                self._place_value(self._binding.bind_input, arg.name, manifest, bindings)
            else:
                self._given_inputs.append(manifest.tensors[arg.name])
        outputs = [arg for arg in session.get_outputs() if not arg.name.startswith(GAP)]
        for arg in outputs:
            if arg.name in bindings.values:
                self._place_value(self._binding.bind_output, arg.name, manifest, bindings)
            else:
                self._given_outputs.append(manifest.tensors[arg.name])
        placed = len(outputs) - len(self._given_outputs)
        self._positions = {t.name: placed + i for i, t in enumerate(self._given_outputs)}
        """Positions in the order of binding, which is the order of `get_outputs`."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Outputs without a fixed place."""
        return tuple(tensor.name for tensor in self._given_outputs)

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        if self._actual is not None and self._actual.by_name is not self._shapes:
            before, self._shapes = self._shapes, self._actual.by_name
            for bind, tensor, address in self._sized:
                if (shape := self._shapes[tensor.name]) != before.get(tensor.name):
                    self._bind_at(bind, tensor, shape, address)
        lent: list[str] = []
        for tensor in self._given_inputs:
            value = results.get(tensor.name, given.get(tensor.name))
            if isinstance(value, Allocated):
                self._binding.bind_ortvalue_input(tensor.name, value.tensor)
                self._bound.pop(tensor.name, None)
                lent.append(tensor.name)
            else:
                array = value if isinstance(value, DeviceArray) else np.asarray(value)
                self._bind(self._binding.bind_input, tensor, array)
        allocated: list[str] = []
        for tensor in self._given_outputs:
            if tensor.name in results:
                self._bind(self._binding.bind_output, tensor, results[tensor.name])
            else:
                allocated.append(tensor.name)
                self._reopen(tensor.name)
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:
            raise refused(
                f"blocks {self._step.first} to {self._step.last} failed", error
            ) from error
        finally:
            self._open.difference_update(allocated)
        if allocated:
            outputs = self._binding.get_outputs()
            for name in allocated:
                value = outputs[self._positions[name]]
                given[name] = Allocated(value, partial(self._reopen, name))
        for name in lent:
            self._binding.bind_ortvalue_input(name, self._nothing)

    def _reopen(self, name: str) -> None:
        """Let ONNX Runtime take memory for an output, and forget what it gave before."""
        if name not in self._open:
            self._binding.bind_output(name, self._memory, self._index)
            self._bound.pop(name, None)
            self._open.add(name)

    def _place_value(self, bind: Any, name: str, manifest: Manifest, bindings: Bindings) -> None:
        tensor, address = manifest.tensors[name], bindings.values[name]
        if tensor.is_symbolic or bindings.strip is not None:
            self._sized.append((bind, tensor, address))
        else:
            self._place(bind, tensor, address)

    def _place(self, bind: Any, tensor: Any, address: int) -> None:
        self._bind_at(bind, tensor, tensor.shape, address)

    def _bind_at(self, bind: Any, tensor: Any, shape: Sequence[int], address: int) -> None:
        bind(tensor.name, self._memory, self._index, _kind(tensor.dtype), list(shape), address)

    def _bind(self, bind: Any, tensor: Tensor, array: Array | DeviceArray) -> None:
        """Bind an array; one in the place of the one before is bound, unless binding copies it."""
        if isinstance(array, DeviceArray):
            self._bind_at(bind, tensor, array.shape, array.address)
            return
        bound = array.ctypes.data, array.shape
        if self._memory != "cpu" or self._bound.get(tensor.name) != bound:
            kind = _kind(tensor.dtype)
            bind(tensor.name, "cpu", 0, kind, list(array.shape), array.ctypes.data)
            self._bound[tensor.name] = bound
            self._open.discard(tensor.name)


class _WindowedSegment(OrtSegment):
    """Blocks that read weights in windows: pages of their places are there while they run.

    Those of a resident block stay there until its place moves.
    """

    def __init__(self, opened: Opened, manifest: Manifest, step: Step, bindings: Bindings) -> None:
        super().__init__(opened.session, manifest, step, bindings)
        assert isinstance(bindings.arena, Arena)
        self._arena = bindings.arena
        self._places: list[tuple[Borrower, int]] = []
        self._streamed: list[Borrower] = []
        for block in manifest.blocks[step.first : step.last + 1]:
            place = bindings.places[block.index]
            start = place.offset - block.extent.offset
            windows = (w.offset for w in block.windows if w.offset in opened.borrowers)
            places = [(opened.borrowers[offset], start + offset) for offset in windows]
            self._places += places
            self._streamed += [] if place.resident else [borrower for borrower, _ in places]

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        try:
            self._arena.lend(self._places)
            super().run(given, results)
        finally:
            self._arena.take_back(self._streamed)


def _kind(dtype: str) -> Any:
    return ONNX_TYPES["bfloat16"] if dtype == "bfloat16" else numpy_dtype(dtype)


def refused(what: str, error: Exception) -> BackendError | BudgetError:
    """The error of a call that ONNX Runtime refused; `BudgetError` if its arena is full."""
    reason = str(error).strip().splitlines()[0]
    if other := _OTHER_SHAPE.search(reason):
        return ShapeError(what, other[1], tuple(map(int, filter(None, other[2].split(",")))))
    if full := _FULL_ARENA.search(reason):
        available, requested = map(int, full.groups())
        return BudgetError(
            f"{what}: their values are larger than planned for",
            why=f"onnxruntime: {full[0]}",
            hint="sizes depend on data: build with inputs that show the largest, --data inputs.npz",
            missing_bytes=requested - available,
        )
    if "pre-packed" in reason:
        return BackendError(
            what,
            why="its weights were packed by other kernels: by those of another processor, or of "
            "another ONNX Runtime; or they were changed",
            hint="pack them again here: swapnet repack DIR, which says so if they were changed",
        )
    if unknown := _UNKNOWN.search(reason):
        return BackendError(
            what,
            why=f"onnxruntime does not have the operator {unknown[2]} of the domain {unknown[1]}",
            hint="give the library that has it: --custom-ops LIB.so, or swapnet.use_custom_ops(…)",
        )
    return BackendError(
        what,
        why=f"onnxruntime: {reason}",
        hint="if it worked before, build the engine again; else report it with the model's name",
    )
