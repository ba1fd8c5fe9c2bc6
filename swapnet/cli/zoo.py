"""Engines of the model zoo, built where they are missing or outdated."""

from __future__ import annotations

from pathlib import Path

from swapnet import models
from swapnet.arrays import Array
from swapnet.cli.build import build_engine
from swapnet.cli.console import progress
from swapnet.errors import SwapnetError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends import can_run
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.models import ZooFiles
from swapnet.tensorrt import version
from swapnet.version import VERSION

__all__ = ["current_engine", "engine_folder", "zoo_files"]


def zoo_files(name: str, weights: Path | None = None) -> ZooFiles:
    """The files of a model, made or downloaded first where they are missing."""
    with progress(name, lines=False) as report:
        report("make or download", 0, 1)
        return models.get(name, weights=weights)


def engine_folder(engines: Path, name: str, backend: str) -> Path:
    """Folder of a model's engine: ``NAME`` for ONNX Runtime, else ``NAME-BACKEND``."""
    return engines / (name if backend == "onnxruntime" else f"{name}-{backend}")


def current_engine(engines: Path, files: ZooFiles, inputs: dict[str, Array], backend: str) -> Path:
    """The engine of a model for inputs of these shapes; built if missing, outdated or damaged."""
    folder = engine_folder(engines, files.name, backend)
    shapes = {name: array.shape for name, array in inputs.items()}
    try:
        engine = Engine.open(folder)
        manifest = engine.manifest
        current = (
            manifest.source.sha256 == files.sha256
            and manifest.compiled.builder == VERSION
            and manifest.planned_shapes == shapes
        )
        if manifest.is_tensorrt:
            current &= manifest.compiled.version == version(manifest.compiled.backend)
        if current and can_run(manifest.compiled.backend):
            smallest = "100%" if manifest.runs_on_gpu else smallest_budget(manifest)[0]
            with progress(files.name, lines=False) as report:
                report("open", 0, 1)
                SwapExecutor(engine, smallest).close()
    except SwapnetError:
        current = False
    if not current:
        build_engine(files.model, folder, measure=True, backend=backend, shapes=shapes)
    return folder
