"""What executes segments: one module per runtime library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import BackendUnavailableError, EngineError
from swapnet.executor.device import Device
from swapnet.fingerprint import PORTABLE, cpu_fingerprint
from swapnet.manifest import GPU_BACKENDS, Manifest

if TYPE_CHECKING:
    from swapnet.executor.backends.base import Backend
    from swapnet.executor.gpu.accelerator import Accelerator

__all__ = ["can_run", "check_runnable", "open_backend"]


def open_backend(
    folder: Path,
    manifest: Manifest,
    device: Device,
    *,
    scratch_bytes: int,
    gpu: Accelerator | None = None,
) -> Backend:
    """The backend that an engine was compiled for.

    Parameters
    ----------
    folder, manifest
        The engine.
    device
        Compute threads, and which GPU and memory.
    scratch_bytes
        Limit of the backend's own arena.
    gpu
        In place of the device's.

    Raises
    ------
    BackendUnavailableError
        There is no such backend here.
    EngineError
        The engine was compiled for another version or machine.
    """
    name = manifest.compiled.backend
    if name == "simulated":
        from swapnet.executor.backends.simulated import SimulatedBackend

        return SimulatedBackend(manifest)
    if name == "onnxruntime":
        from swapnet.executor.backends.onnxruntime import OnnxRuntimeBackend, version

        _check_compiled(folder, manifest, version())
        return OnnxRuntimeBackend(folder, manifest, device, scratch_bytes=scratch_bytes)
    if name not in GPU_BACKENDS:
        raise BackendUnavailableError(
            f"{folder} was compiled for {name}",
            why=f"this SwapNet executes onnxruntime, {', '.join(GPU_BACKENDS)} and simulated ones",
            hint="build it again with --backend onnxruntime, or install a SwapNet that has it",
        )
    from swapnet.executor.gpu.accelerator import choose_memory

    if gpu is None:
        from swapnet.executor.cuda import open_cuda

        gpu = open_cuda(device.gpu_index)
    kind = choose_memory(gpu.attributes, device.gpu_memory)
    if manifest.is_tensorrt:
        from swapnet.executor.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(folder, manifest, gpu, kind)
    from swapnet.executor.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend

    return OnnxRuntimeCudaBackend(folder, manifest, gpu, kind, scratch_bytes=scratch_bytes)


def check_runnable(backend: str) -> None:
    """Whether engines of a backend can be executed here.

    Raises
    ------
    BackendUnavailableError
        They can't; the message says what is missing and how to get it.
    """
    if backend == "onnxruntime":
        from swapnet.executor.backends.onnxruntime import version

        version()
        return
    from swapnet.executor.cuda import check_pycuda, device_count

    device_count()
    check_pycuda()
    if backend == "onnxruntime-cuda":
        from swapnet.executor.backends.onnxruntime_cuda import check_provider

        check_provider()
    else:
        from swapnet.tensorrt import load_tensorrt

        load_tensorrt(backend)


def can_run(backend: str) -> bool:
    """Whether engines of a backend can be executed here."""
    try:
        check_runnable(backend)
    except BackendUnavailableError:
        return False
    return True


def _check_compiled(folder: Path, manifest: Manifest, version: str) -> None:
    compiled = manifest.compiled
    if compiled.fingerprint == PORTABLE:
        return
    rebuild = f"build it again here: swapnet build MODEL.onnx -o {folder}; or build with --portable"
    if compiled.fingerprint != (here := cpu_fingerprint()):
        raise EngineError(
            f"{folder} was compiled for another processor",
            why=f"built for {compiled.fingerprint}, here is {here}",
            hint=rebuild,
        )
    if compiled.version != version:
        raise EngineError(
            f"{folder} was compiled with another version of {compiled.backend}",
            why=f"built with {compiled.version}, here is {version}",
            hint=rebuild,
        )
