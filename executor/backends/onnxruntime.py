"""ONNX Runtime on the CPU: skeletons as sessions, weights bound by address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.errors import BackendError, BackendUnavailableError, BudgetError
from swapnet.executor.backends.base import Array, Bindings
from swapnet.executor.backends.host import HostBackend
from swapnet.executor.backends.merge_skeletons import merge_skeletons
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.planning.layout import is_placed
from swapnet.executor.planning.plan import Step
from swapnet.manifest import SHARED, Manifest, Tensor
from swapnet.tensors import ONNX_TYPES, numpy_dtype

__all__ = [
    "LARGEST_CHUNK_BYTES",
    "Allocated",
    "OnnxRuntimeBackend",
    "OrtSegment",
    "arena_of",
    "open_segment",
    "own_process",
    "refused",
    "segment_model",
    "session_options",
    "version",
]

LARGEST_CHUNK_BYTES = (1 << 31) - (1 << 20)
"""The arena takes its memory at once up to here: ONNX Runtime counts it in 32 bits."""


def version() -> str:
    """Major and minor version: layouts and internal operators may change between them.

    Raises
    ------
    BackendUnavailableError
        ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not here", why=str(error), hint="pip install onnxruntime"
        ) from error
    return ".".join(ort.__version__.split(".")[:2])


def own_process(threads: int) -> Device:
    """Give this process one global pool; call once, before any session is made."""
    import onnxruntime as ort

    ort.set_global_thread_pool_sizes(threads, 1)
    return Device(threads, ThreadPool.GLOBAL)


class OnnxRuntimeBackend(HostBackend):
    """Sessions that share one activation arena with a hard limit.

    Operators run in the order of the skeletons, however many are merged: the placement of values
    relies on it. ONNX Runtime's priority-based order takes the lowest index that is ready.

    Parameters
    ----------
    folder, manifest
        The engine.
    device
        Compute threads.
    scratch
        Values inside a segment and scratch of its kernels; may be shared with other engines.

    Raises
    ------
    BackendError
        ONNX Runtime refuses the arena.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest, device: Device, scratch: Scratch) -> None:
        super().__init__(manifest)
        self._folder = folder
        self._scratch = scratch
        self._generation = 0
        self._device = device
        self._skeletons = Skeletons(folder, manifest)
        self._sessions: dict[tuple[int, int], Any] = {}

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[OrtSegment]:
        """The segments of all steps, sharing one arena.

        Sessions of the same blocks are taken over from the plan before, others forgotten: a new
        one costs half a millisecond and 100 KiB. All are made anew where another arena was
        registered since.
        """
        spans = [(step.first, step.last) for step in steps]
        with Scratch.environment:
            self._scratch.enforce("cpu", _register_arena)
            if self._generation != self._scratch.generation:
                self._sessions.clear()
                self._generation = self._scratch.generation
            self._sessions = {s: v for s, v in self._sessions.items() if s in set(spans)}
            for span in spans:
                if span not in self._sessions:
                    self._sessions[span] = self._make(*span)
        return [
            OrtSegment(self._sessions[span], self.manifest, step, bindings)
            for span, step in zip(spans, steps, strict=True)
        ]

    def array(self, value: Any) -> Array:
        """A host array of a value; a copy, for the arena's memory is needed again."""
        return np.array(value.tensor.numpy()) if isinstance(value, Allocated) else value

    def forget_segments(self) -> None:
        self._sessions.clear()

    def close(self) -> None:
        """Forget sessions and skeletons; a session lives as long as a segment of it."""
        self._skeletons.clear()
        self._sessions.clear()

    def _make(self, first: int, last: int) -> Any:
        """A session of consecutive blocks."""
        options = session_options(shared_arena=True)
        if self._device.pool is ThreadPool.GLOBAL:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self._device.threads
            options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = segment_model(self.manifest, self._skeletons, first, last)
        return open_segment(model, options, "CPUExecutionProvider", {}, first, last)


def _register_arena(limit_bytes: int) -> None:
    import onnxruntime as ort

    ort.create_and_register_allocator(*arena_of("Cpu", limit_bytes))


def arena_of(memory: str, limit_bytes: int, *, index: int = 0) -> tuple[Any, Any]:
    """One arena for all sessions, as ONNX Runtime registers it: where it lies, and how it grows.

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


def session_options(*, shared_arena: bool) -> Any:
    """Of every session: operators run as they are stored, in the order of the file.

    Parameters
    ----------
    shared_arena
        Its memory comes from the arena that is registered with the process.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.use_env_allocators", str(int(shared_arena)))
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Else a DequantizeLinear whose output several read is repeated, unoptimised or not: a copy runs
    # where it is read, after the memory of its input may have gone to another value.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def segment_model(manifest: Manifest, skeletons: Skeletons, first: int, last: int) -> bytes:
    """The skeletons of consecutive blocks as one model."""
    wanted = _outputs(manifest, first, last)
    return merge_skeletons([skeletons[b] for b in range(first, last + 1)], wanted)


def open_segment(
    model: bytes, options: Any, provider: str, settings: Mapping[str, str], first: int, last: int
) -> Any:
    """A session of consecutive blocks.

    Raises
    ------
    BackendError
        ONNX Runtime refuses it.
    """
    import onnxruntime as ort

    what = f"blocks {first} to {last} can't be loaded"
    try:
        session = ort.InferenceSession(model, options, [(provider, dict(settings))])
    except Exception as error:
        raise refused(what, error) from error
    if (found := session.get_providers()[0]) != provider:
        raise BackendError(
            what,
            why=f"onnxruntime fell back to {found}: {provider} could not be started",
            hint="install the CUDA and cuDNN that this onnxruntime-gpu wants",
        )
    return session


def _outputs(manifest: Manifest, first: int, last: int) -> list[str]:
    """Values that a segment gives: all placed ones, and what others or the caller need."""
    inside = range(first, last + 1)
    needed = {tensor.name for tensor in manifest.outputs}
    for block in manifest.blocks:
        if block.index not in inside:
            needed.update(block.inputs)
    return [
        name
        for block in manifest.blocks[first : last + 1]
        for name in block.outputs
        if name in needed or is_placed(manifest.tensors[name])
    ]


class Allocated:
    """An output in the arena; its memory returns when it is forgotten.

    Until ONNX Runtime 1.27 at least, what a binding gives is a view of the binding's own value:
    the binding lets go of it no earlier.
    """

    __slots__ = ("_binding", "_name", "tensor")

    def __init__(self, tensor: Any, binding: Any, name: str) -> None:
        self.tensor = tensor
        self._binding = binding
        self._name = name

    def __del__(self) -> None:
        self._binding.bind_output(self._name, "cpu")


class OrtSegment:
    """A session whose weights and placed values are bound once.

    Parameters
    ----------
    session, step
        Consecutive blocks.
    manifest, bindings
        The engine, and where its weights and placed values lie.
    memory, index
        What ONNX Runtime calls the memory in which they do, and of which device it is.
    run_options
        Of each run.
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
        self._session = session
        self._step = step
        self._memory = memory
        self._index = index
        self._run_options = run_options
        self._binding = session.io_binding()
        weights = {
            weight.name: (weight, bindings.weights[block.index, weight.name])
            for block in manifest.blocks[step.first : step.last + 1]
            for weight in block.weights
        }
        shared = {w.name: (w, bindings.weights[SHARED, w.name]) for w in manifest.shared}
        self._given_inputs: list[Tensor] = []
        self._given_outputs: list[Tensor] = []
        for arg in session.get_inputs():
            if bound := weights.get(arg.name) or shared.get(arg.name):
                weight, address = bound
                self._place(self._binding.bind_input, weight, address)
            elif arg.name in bindings.values:
                value = manifest.tensors[arg.name]
                self._place(self._binding.bind_input, value, bindings.values[arg.name])
            else:
                self._given_inputs.append(manifest.tensors[arg.name])
        for arg in session.get_outputs():
            value = manifest.tensors[arg.name]
            if arg.name in bindings.values:
                self._place(self._binding.bind_output, value, bindings.values[arg.name])
            else:
                self._given_outputs.append(value)
        placed = len(session.get_outputs()) - len(self._given_outputs)
        self._positions = {t.name: placed + i for i, t in enumerate(self._given_outputs)}
        """In the order of binding, which is the order of `get_outputs`."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Outputs without a fixed place."""
        return tuple(tensor.name for tensor in self._given_outputs)

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        for tensor in self._given_inputs:
            value = results.get(tensor.name, given.get(tensor.name))
            if isinstance(value, Allocated):
                self._binding.bind_ortvalue_input(tensor.name, value.tensor)
            else:
                array = np.asarray(value)
                self._bind(self._binding.bind_input, tensor, array.shape, array.ctypes.data)
        for tensor in self._given_outputs:
            if tensor.name in results:
                array = results[tensor.name]
                self._bind(self._binding.bind_output, tensor, array.shape, array.ctypes.data)
            else:
                self._binding.bind_output(tensor.name, self._memory, self._index)
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:
            raise refused(
                f"blocks {self._step.first} to {self._step.last} failed", error
            ) from error
        allocated = [t for t in self._given_outputs if t.name not in results]
        if allocated:
            outputs = self._binding.get_outputs()
            for tensor in allocated:
                value = outputs[self._positions[tensor.name]]
                given[tensor.name] = Allocated(value, self._binding, tensor.name)
        for tensor in self._given_inputs:
            empty = np.empty(0, numpy_dtype(tensor.dtype))
            self._bind(self._binding.bind_input, tensor, (0,), empty.ctypes.data)

    def _place(self, bind: Any, tensor: Any, address: int) -> None:
        bind(
            tensor.name, self._memory, self._index, _kind(tensor.dtype), list(tensor.shape), address
        )

    def _bind(self, bind: Any, tensor: Any, shape: Sequence[int | str], address: int) -> None:
        bind(tensor.name, "cpu", 0, _kind(tensor.dtype), list(shape), address)


def _kind(dtype: str) -> Any:
    return ONNX_TYPES["bfloat16"] if dtype == "bfloat16" else numpy_dtype(dtype)


def refused(what: str, error: Exception) -> BackendError | BudgetError:
    reason = str(error).strip().splitlines()[0]
    if "smaller than requested" in reason:
        return BudgetError(
            f"{what}: their values are larger than planned for",
            why=f"onnxruntime: {reason[reason.find('Available memory') :]}",
            hint="sizes that depend on data were measured on seeded inputs: give larger --shapes",
        )
    return BackendError(
        what,
        why=f"onnxruntime: {reason}",
        hint="if it worked before, build the engine again; else report it with the model's name",
    )
