"""Runtime libraries that execute engines: a module for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swapnet.errors import BackendError, BackendUnavailableError, EngineError
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.device import Device
from swapnet.fingerprint import PORTABLE, cpu_fingerprint, processor_fingerprint, with_vnni
from swapnet.manifest import Manifest
from swapnet.ranges import RANGES
from swapnet.tensorrt import TENSORRT

if TYPE_CHECKING:
    from swapnet.executor.backends.base import Backend
    from swapnet.executor.gpu.accelerator import Accelerator, Attributes, MemoryKind

__all__ = [
    "OPENERS",
    "Opening",
    "best_backend",
    "can_run",
    "check_runnable",
    "device_for",
    "open_backend",
]


@dataclass(frozen=True)
class Opening:
    """Arguments of `open_backend`."""

    folder: Path
    manifest: Manifest
    device: Device
    scratch: Scratch
    gpu: Accelerator | None

    def on_gpu(self) -> tuple[Accelerator, MemoryKind]:
        """The GPU, and the kind of memory for weights.

        Raises
        ------
        BackendUnavailableError
            There is no such GPU.
        InputError, BackendError
            The GPU has no such memory.
        """
        from swapnet.executor.gpu.accelerator import choose_memory

        gpu = self.gpu
        if gpu is None:
            from swapnet.executor.gpu.cuda import open_cuda

            gpu = open_cuda(self.device.gpu_index)
        return gpu, choose_memory(gpu.attributes, self.device.gpu_memory)


def open_backend(
    folder: Path,
    manifest: Manifest,
    device: Device,
    scratch: Scratch,
    *,
    gpu: Accelerator | None = None,
) -> Backend:
    """The backend that an engine was compiled for, opened by its entry in `OPENERS`.

    Parameters
    ----------
    folder, manifest
        The engine.
    device
        Compute threads, GPU and kind of memory.
    scratch
        Memory for kernels, and for values inside a step.
    gpu
        GPU in place of the device's.

    Raises
    ------
    BackendUnavailableError
        There is no such backend here.
    EngineError
        The engine was compiled for another version or machine.
    """
    opener = OPENERS.get(manifest.compiled.backend)
    if opener is None:
        raise BackendUnavailableError(
            f"{folder} was compiled for {manifest.compiled.backend}",
            why=f"this SwapNet executes engines of {', '.join(OPENERS)}",
            hint="build it again with --backend onnxruntime, or install a SwapNet that has it",
        )
    return opener(Opening(folder, manifest, device, scratch, gpu))


def _open_onnxruntime(opening: Opening) -> Backend:
    from swapnet.executor.backends.onnxruntime import OnnxRuntimeBackend, version

    _check_compiled(opening.folder, opening.manifest, version())
    return OnnxRuntimeBackend(opening.folder, opening.manifest, opening.device, opening.scratch)


def _open_onnxruntime_cuda(opening: Opening) -> Backend:
    gpu, kind = opening.on_gpu()
    from swapnet.executor.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend

    return OnnxRuntimeCudaBackend(opening.folder, opening.manifest, gpu, kind, opening.scratch)


def _open_tensorrt(opening: Opening) -> Backend:
    gpu, kind = opening.on_gpu()
    from swapnet.executor.backends.tensorrt import TensorRTBackend
    from swapnet.tensorrt import version

    installed = version(opening.manifest.compiled.backend)
    _check_plans(opening.folder, opening.manifest, installed, gpu.attributes)
    return TensorRTBackend(opening.folder, opening.manifest, gpu, kind)


OPENERS: dict[str, Callable[[Opening], Backend]] = {
    "onnxruntime": _open_onnxruntime,
    **dict.fromkeys(TENSORRT, _open_tensorrt),
    "onnxruntime-cuda": _open_onnxruntime_cuda,
}
"""Openers by the backend's name; another backend is added here, as `swapnet.testing` does."""


def device_for(
    manifest: Manifest,
    threads: int,
    *,
    own: bool = False,
    gpu_memory: str = "auto",
    gpu_index: int = 0,
) -> Device:
    """The device that an engine was compiled for.

    Parameters
    ----------
    manifest
        The engine.
    threads
        Number of compute threads on the host.
    own
        True in a process of ours: its sessions share one thread pool. The call is the only one, and
        comes before any session.
    gpu_memory, gpu_index
        Kind of memory for weights on a GPU (`swapnet.executor.gpu.accelerator.choose_memory`), and
        its number.

    Raises
    ------
    InputError, BackendError
        The GPU has no such memory.
    """
    if manifest.runs_on_gpu:
        from swapnet.executor.gpu.accelerator import choose_memory, describe
        from swapnet.executor.gpu.cuda import open_cuda

        device = Device(threads, gpu_index=gpu_index, gpu_memory=gpu_memory)
        try:
            attributes = open_cuda(device.gpu_index).attributes
        except BackendUnavailableError:
            return device
        return replace(device, gpu=describe(attributes, choose_memory(attributes, gpu_memory)))
    if own and manifest.compiled.backend == "onnxruntime":
        from swapnet.executor.backends.onnxruntime import own_process

        return own_process(threads)
    return Device(threads)


def check_runnable(backend: str) -> None:
    """Check that engines of a backend can be executed here.

    Raises
    ------
    BackendUnavailableError
        They can't; the message says what is missing and how to get it.
    """
    if backend == "onnxruntime":
        from swapnet.executor.backends.onnxruntime import version

        version()
        return
    from swapnet.executor.gpu.cuda import check_pycuda, device_count

    device_count()
    check_pycuda()
    if backend == "onnxruntime-cuda":
        from swapnet.executor.backends.onnxruntime_cuda import check_provider

        check_provider()
    else:
        from swapnet.executor.gpu.cuda import open_cuda
        from swapnet.tensorrt import load_tensorrt

        _check_supported(load_tensorrt(backend), backend, open_cuda(0).attributes)


def can_run(backend: str) -> bool:
    """True where engines of a backend can be executed here."""
    try:
        check_runnable(backend)
    except BackendError:
        return False
    return True


def best_backend() -> str:
    """The backend to build for: the fastest of those that can run here, TensorRT before others."""
    preferred = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")
    return next((backend for backend in preferred if can_run(backend)), "onnxruntime")


def _check_supported(library: Any, backend: str, gpu: Attributes) -> None:
    # TensorRT-RTX lists the GPUs that it knows. TensorRT knows all that its driver does.
    known = getattr(library, "ComputeCapability", None)
    if known is not None and not hasattr(known, gpu.architecture.upper()):
        names = [name.lower() for name in dir(known) if name.startswith("SM")]
        raise BackendUnavailableError(
            f"{backend} does not run on {gpu.name}",
            why=f"it is an {gpu.architecture}, the library knows {', '.join(names)}",
            hint="use --backend tensorrt or onnxruntime-cuda",
        )


def _check_plans(folder: Path, manifest: Manifest, version: str, gpu: Attributes) -> None:
    """Check version and architecture; where one ends with ``+``, plans run with later ones too."""
    compiled = manifest.compiled
    rebuild = f"build it again here: swapnet build MODEL.onnx -o {folder}"
    made, here = _numbers(compiled.version), _numbers(version)
    if made != here and not (compiled.version.endswith("+") and made < here):
        raise EngineError(
            f"{folder} was compiled with another version of {compiled.backend}",
            why=f"built with {compiled.version}, here is {version}",
            hint=rebuild,
        )
    names = compiled.fingerprint.rstrip("+").split("+")
    later = compiled.fingerprint.endswith("+") and _numbers(names[0]) < _numbers(gpu.architecture)
    if compiled.fingerprint != "any" and gpu.architecture not in names and not later:
        raise EngineError(
            f"{folder} was compiled for another GPU",
            why=f"built for {compiled.fingerprint}, here is {gpu.name} ({gpu.architecture})",
            hint=rebuild,
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _check_compiled(folder: Path, manifest: Manifest, version: str) -> None:
    compiled = manifest.compiled
    if compiled.fingerprint == PORTABLE:
        return
    options = _precision_options(folder, manifest)
    rebuild = (
        f"build it again here: swapnet build MODEL.onnx -o {folder}{options}; "
        "or build with --portable"
    )
    layout, here = cpu_fingerprint(), processor_fingerprint()
    if compiled.fingerprint not in (layout, here):
        needs_vnni = compiled.fingerprint == with_vnni(layout)
        wrong = ": without VNNI its 8-bit sums would be wrong" if needs_vnni else ""
        raise EngineError(
            f"{folder} was compiled for another processor",
            why=f"built for {compiled.fingerprint}, here is {here}{wrong}",
            hint=rebuild,
        )
    if compiled.version != version:
        raise EngineError(
            f"{folder} was compiled with another version of {compiled.backend}",
            why=f"built with {compiled.version}, here is {version}",
            hint=rebuild,
        )


def _precision_options(folder: Path, manifest: Manifest) -> str:
    """Options of the command that builds an engine in the same precision."""
    if manifest.precision == "fp32":
        return ""
    given = f" --precision {manifest.precision}"
    if manifest.precision == "fp16":
        return given
    return (
        f"{given} --weight-only"
        if manifest.weight_only
        else f"{given} --calibration {folder / RANGES}"
    )
