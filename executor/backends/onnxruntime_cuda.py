"""ONNX Runtime's CUDA provider: the same skeletons, weights bound to addresses of the device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.errors import BackendUnavailableError
from swapnet.executor.backends.base import Array, Bindings
from swapnet.executor.backends.gpu import GpuBackend
from swapnet.executor.backends.onnxruntime import (
    Allocated,
    OrtSegment,
    arena_of,
    open_segment,
    refused,
    segment_model,
    session_options,
)
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream
from swapnet.executor.gpu.device_values import CrossingValues
from swapnet.executor.planning.plan import Step
from swapnet.manifest import Manifest

__all__ = ["OnnxRuntimeCudaBackend", "check_provider"]

_CUBLAS_WORKSPACE = ":16:8"
"""Eight buffers of 16 KiB: each session has handles of its own, with up to 32 MiB otherwise."""

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""By where ONNX Runtime finds the accelerator's addresses; a simulated one's are the host's."""


def check_provider() -> None:
    """Whether the ONNX Runtime that is installed has the CUDA provider.

    Raises
    ------
    BackendUnavailableError
        It has not.
    """
    hint = "pip install onnxruntime-gpu in place of onnxruntime"
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not here", why=str(error), hint=hint
        ) from error
    ort.preload_dlls()
    if _PROVIDERS["cuda"] not in (found := ort.get_available_providers()):
        raise BackendUnavailableError(
            "this ONNX Runtime has no CUDA provider",
            why=f"it has {', '.join(found)}",
            hint=hint,
        )


class OnnxRuntimeCudaBackend(GpuBackend):
    """Sessions on our compute stream that share one arena with a hard limit.

    A session that gives nothing to the host returns before its kernels have ended; the others
    wait for the device.

    Parameters
    ----------
    folder, manifest
        The engine.
    accelerator, kind
        The GPU, and where weights lie.
    scratch
        Values inside a segment and scratch of its kernels.
    """

    name = "onnxruntime-cuda"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        accelerator: Accelerator,
        kind: MemoryKind,
        scratch: Scratch,
    ) -> None:
        super().__init__(manifest, accelerator, kind)
        self._memory = accelerator.onnxruntime_device
        self._skeletons = Skeletons(folder, manifest)
        self._sessions: dict[tuple[int, int], Any] = {}
        self._scratch = scratch
        self._generation = 0
        if self._memory == "cuda":
            check_provider()
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)

    def values(self) -> CrossingValues:
        """Those across cuts on the device; ONNX Runtime copies what is given and what results."""
        return CrossingValues(
            self.manifest, self.array, self._accelerator, self._compute, self._begin
        )

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[_CudaSegment]:
        """See `Backend.segments`; sessions of the same blocks are kept from the plan before."""
        spans = [(step.first, step.last) for step in steps]
        with Scratch.environment:
            if self._memory == "cuda":
                self._scratch.enforce("cuda", self._register_arena)
            if self._generation != self._scratch.generation:
                self._sessions.clear()
                self._generation = self._scratch.generation
            self._sessions = {s: v for s, v in self._sessions.items() if s in set(spans)}
            for span in spans:
                if span not in self._sessions:
                    self._sessions[span] = self._make(*span)
        return [
            _CudaSegment(
                OrtSegment(
                    self._sessions[span],
                    self.manifest,
                    step,
                    bindings,
                    self._memory,
                    self._accelerator.index,
                    self._run_options(step),
                ),
                self._compute,
            )
            for span, step in zip(spans, steps, strict=True)
        ]

    def array(self, value: Any) -> Array:
        """A host array of a value, which ONNX Runtime copies from the device."""
        self._compute.synchronize()
        return np.array(value.tensor.numpy()) if isinstance(value, Allocated) else value

    def forget_segments(self) -> None:
        self._sessions.clear()

    def close(self) -> None:
        """Forget sessions and skeletons."""
        self._settle()
        self._skeletons.clear()
        self._sessions.clear()

    def _settings(self) -> dict[str, str]:
        return {
            "device_id": str(self._accelerator.index),
            "user_compute_stream": str(self._compute.handle),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv_use_max_workspace": "0",
        }

    def _register_arena(self, limit_bytes: int) -> None:
        import onnxruntime as ort

        place, growth = arena_of("Cuda", limit_bytes, index=self._accelerator.index)
        try:
            ort.create_and_register_allocator_v2(
                _PROVIDERS["cuda"], place, self._settings(), growth
            )
        except Exception as error:
            raise refused("the CUDA arena can't be made", error) from error

    def _make(self, first: int, last: int) -> Any:
        on_gpu = self._memory == "cuda"
        options = session_options(shared_arena=on_gpu)
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = segment_model(self.manifest, self._skeletons, first, last)
        settings = self._settings() if on_gpu else {}
        return open_segment(model, options, _PROVIDERS[self._memory], settings, first, last)

    def _run_options(self, step: Step) -> Any:
        """Return before the device has ended, unless something goes to the host."""
        import onnxruntime as ort

        outputs = {tensor.name for tensor in self.manifest.outputs}
        blocks = self.manifest.blocks[step.first : step.last + 1]
        gives = any(outputs.intersection(block.outputs) for block in blocks)
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", str(int(not gives)))
        return options


class _CudaSegment:
    """A session called in the order of the compute stream."""

    def __init__(self, segment: OrtSegment, stream: Stream) -> None:
        self._segment = segment
        self._stream = stream

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        """Execute; see `Segment.run`. What goes to the host is there when it returns."""
        gives = self._segment.gives
        taken = given if gives else dict(given)
        self._stream.call(lambda _: self._segment.run(taken, results))
        if gives:
            self._stream.flush()
