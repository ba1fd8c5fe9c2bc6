"""ONNX Runtime's CUDA provider: the same sessions, weights bound to addresses of the device."""

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
    Sessions,
    arena_of,
    open_session,
    refused,
    session_options,
    version,
)
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream
from swapnet.executor.gpu.device_values import CrossingValues
from swapnet.executor.planning.plan import Step
from swapnet.executor.swapping.arena import Arena
from swapnet.manifest import Manifest
from swapnet.strips import Striping

__all__ = ["OnnxRuntimeCudaBackend", "check_provider"]

_CUBLAS_WORKSPACE = ":16:8"
"""Eight buffers of 16 KiB for the cuBLAS handles of each session; the default is up to 32 MiB."""

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Provider for `Accelerator.onnxruntime_device`; a simulated GPU's addresses are the host's."""


def check_provider() -> None:
    """Check that the installed ONNX Runtime has the CUDA provider.

    Raises
    ------
    BackendUnavailableError
        ONNX Runtime is not installed, or has no CUDA provider.
    """
    version("onnxruntime-gpu")
    import onnxruntime as ort

    ort.preload_dlls()
    if _PROVIDERS["cuda"] not in (found := ort.get_available_providers()):
        raise BackendUnavailableError(
            "this ONNX Runtime has no CUDA provider",
            why=f"it has {', '.join(found)}",
            hint="pip install onnxruntime-gpu in place of onnxruntime",
        )


class OnnxRuntimeCudaBackend(GpuBackend):
    """Sessions on our compute stream that share one arena of ONNX Runtime's, with a hard limit.

    A session that gives nothing to the host returns before its kernels have ended; the others
    wait for the device.

    Parameters
    ----------
    folder, manifest
        The engine.
    accelerator, kind
        The GPU, and the kind of memory for weights.
    scratch
        Memory for values inside a step and for its kernels.
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
        self._scratch = scratch
        self._sessions = Sessions(folder, manifest, scratch, self._open)
        if self._memory == "cuda":
            check_provider()
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)

    def values(
        self, inside: Arena | None = None, striping: Striping | None = None
    ) -> CrossingValues:
        return CrossingValues(
            self.manifest, self._accelerator, self._compute, self._begin, self.array
        )

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[_CudaSegment]:
        sessions = self._sessions.of(steps, self._enforce_arena)
        return [
            _CudaSegment(
                OrtSegment(
                    session,
                    self.manifest,
                    step,
                    bindings,
                    self._memory,
                    self._accelerator.index,
                    self._run_options(step),
                ),
                self._compute,
            )
            for session, step in zip(sessions, steps, strict=True)
        ]

    def array(self, value: Any) -> Array:
        self._compute.synchronize()
        return np.array(value.tensor.numpy()) if isinstance(value, Allocated) else value

    def forget_segments(self) -> None:
        self._sessions.forget()

    def close(self) -> None:
        self._settle()
        self._sessions.forget()

    def _settings(self) -> dict[str, str]:
        return {
            "device_id": str(self._accelerator.index),
            "user_compute_stream": str(self._compute.handle),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv_use_max_workspace": "0",
        }

    def _enforce_arena(self) -> None:
        if self._memory == "cuda":
            self._scratch.enforce("cuda", self._register_arena)

    def _register_arena(self, limit_bytes: int) -> None:
        import onnxruntime as ort

        place, growth = arena_of("Cuda", limit_bytes, index=self._accelerator.index)
        try:
            ort.create_and_register_allocator_v2(
                _PROVIDERS["cuda"], place, self._settings(), growth
            )
        except Exception as error:
            raise refused("the CUDA arena can't be made", error) from error

    def _open(self, model: bytes, step: Step) -> Any:
        on_gpu = self._memory == "cuda"
        options = session_options(shared_arena=on_gpu)
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        settings = self._settings() if on_gpu else {}
        return open_session(model, step, options, _PROVIDERS[self._memory], settings)

    def _run_options(self, step: Step) -> Any:
        # A session returns before the device has ended, unless it gives something to the host.
        import onnxruntime as ort

        outputs = {tensor.name for tensor in self.manifest.outputs}
        blocks = self.manifest.blocks[step.first : step.last + 1]
        gives = any(outputs.intersection(block.outputs) for block in blocks)
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", str(int(not gives)))
        return options


class _CudaSegment:
    """A segment that is executed in the order of the compute stream."""

    def __init__(self, segment: OrtSegment, stream: Stream) -> None:
        self._segment = segment
        self._stream = stream

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        """Execute the step; outputs for the host are there when the call returns."""
        gives = self._segment.gives
        taken = given if gives else dict(given)
        self._stream.call(lambda _: self._segment.run(taken, results))
        if gives:
            self._stream.flush()
