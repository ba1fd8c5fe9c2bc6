"""What executes segments: one module per runtime library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import BackendUnavailableError, EngineError
from swapnet.executor.device import Device
from swapnet.fingerprint import PORTABLE, cpu_fingerprint
from swapnet.manifest import Manifest

if TYPE_CHECKING:
    from swapnet.executor.backends.base import Backend

__all__ = ["open_backend"]


def open_backend(
    folder: Path, manifest: Manifest, device: Device, *, scratch_bytes: int
) -> Backend:
    """The backend that an engine was compiled for.

    Parameters
    ----------
    folder, manifest
        The engine.
    device
        Compute threads.
    scratch_bytes
        Limit of the backend's own arena.

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
    raise BackendUnavailableError(
        f"{folder} was compiled for {name}",
        why="this SwapNet executes onnxruntime and simulated engines",
        hint="build it again with --backend onnxruntime, or install a SwapNet that has it",
    )


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
