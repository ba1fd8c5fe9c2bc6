"""The engine that a command is about: built for it, planned and measured first where it must be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli.console import progress
from swapnet.errors import InputError

if TYPE_CHECKING:
    from swapnet.executor.device import Device
    from swapnet.manifest import Manifest
    from swapnet.profile import Profile

__all__ = ["delays", "engine_device", "engine_or_model", "measured_engine", "say"]

Shapes = Mapping[str, tuple[int, ...]]


def say(line: str) -> None:
    """One line on standard error."""
    click.echo(line, err=True)


def measured_engine(engine: Path, shapes: Shapes) -> Manifest:
    """The manifest at input shapes; activations are measured first where they were not.

    It counts memory in a process of our own, where sessions share one thread pool.
    """
    from swapnet.executor.device import ThreadPool
    from swapnet.executor.planning.usage import for_pool
    from swapnet.manifest import load_manifest

    if not shapes:
        return for_pool(load_manifest(engine), ThreadPool.GLOBAL)
    from swapnet.calibration import ensure_shapes

    return for_pool(ensure_shapes(engine, shapes, say=say), ThreadPool.GLOBAL)


def engine_device(
    engine: Path, threads: int | None, gpu_memory: str, *, own: bool = False
) -> Device:
    """Where an engine executes, with all processors unless a number is given; see `device_for`."""
    from swapnet.executor.backends import device_for
    from swapnet.executor.device import available_processors
    from swapnet.manifest import load_manifest

    count = threads or available_processors()
    return device_for(load_manifest(engine), count, own=own, gpu_memory=gpu_memory)


def delays(
    engine: Path, device: Device, load_mode: str, shapes: Shapes, *, calibrate: bool, name: str
) -> Profile:
    """The profile of an engine; measured first where there is none, or the assumed one.

    Parameters
    ----------
    engine, device, load_mode, shapes
        As for `swapnet.calibration.ensure_profile`.
    calibrate
        Whether to measure.
    name
        What the user calls the engine.
    """
    from swapnet.executor.backends import can_run
    from swapnet.profile import load_profile

    manifest = measured_engine(engine, shapes)
    if calibrate and not can_run(backend := manifest.compiled.backend):
        say(f"{name}: {backend} can't run here, delays are assumed: swapnet doctor says why")
        calibrate = False
    if not calibrate:
        return load_profile(engine, manifest, device.fingerprint)
    from swapnet.calibration import ensure_profile

    def tell(line: str) -> None:
        say(line.replace(str(engine), name))

    return ensure_profile(engine, device, load_mode, shapes, say=tell)


@contextmanager
def engine_or_model(path: Path, shapes: Shapes, **options: Any) -> Iterator[Path]:
    """An engine directory: ``path`` itself, or a temporary one that is built from a model.

    Parameters
    ----------
    path
        Engine directory, or ONNX file.
    shapes
        Input shapes.
    options
        Of `swapnet.builder.build`; only for a model.

    Raises
    ------
    InputError
        Options of a build are given for an engine.
    SwapnetError
        The model can't be built.
    """
    if not (path.is_file() or path.suffix == ".onnx"):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"--{given[0].replace('_', '-')} is for a model",
                why=f"{path} is an engine, or nothing, and is not built",
                hint="leave it out, or give the .onnx file",
            )
        yield path
        return
    from swapnet.builder import build

    with tempfile.TemporaryDirectory(prefix="swapnet-plan-", dir=_place(path)) as name:
        folder = Path(name) / path.stem
        with progress(path.name) as report:
            build(
                path,
                folder,
                backend="onnxruntime",
                shapes=dict(shapes),
                progress=report,
                **options,
            )
        yield folder


def _place(model: Path) -> Path | None:
    """Beside the model where that can be written: storage is measured there."""
    return model.parent if os.access(model.parent, os.W_OK) else None
