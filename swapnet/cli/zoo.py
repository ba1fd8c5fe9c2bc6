"""Engines of the model zoo, built where they are missing or outdated."""

from __future__ import annotations

import json
from pathlib import Path

from swapnet import models
from swapnet.arrays import Array
from swapnet.cli.build import build_engine
from swapnet.cli.console import progress
from swapnet.errors import InputError, SwapnetError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends import can_run
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.manifest import MANIFEST
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
    """The engine of a model for inputs of these shapes; built if missing, outdated or damaged.

    Raises
    ------
    InputError
        An engine of another file, or with other options, is in the way.
    """
    folder = engine_folder(engines, files.name, backend)
    shapes = {name: array.shape for name, array in inputs.items()}
    is_own, current = _is_own(folder, files), False
    try:
        engine = Engine.open(folder)
        manifest = engine.manifest
        if manifest.source.sha256 == files.sha256 and manifest.compiled.builder == VERSION:
            is_own &= manifest.planned_shapes == shapes and manifest.compiled.backend == backend
            current = is_own
        if manifest.is_tensorrt:
            current &= manifest.compiled.version == version(manifest.compiled.backend)
        if current and can_run(manifest.compiled.backend):
            smallest = "100%" if manifest.runs_on_gpu else smallest_budget(manifest)[0]
            with progress(files.name, lines=False) as report:
                report("open", 0, 1)
                SwapExecutor(engine, smallest).close()
    except SwapnetError:
        current = False
    if not is_own:
        raise InputError(
            f"{folder} is in the way",
            why=f"it is of another file than the zoo's {files.name}, or has other options",
            hint="give another folder of engines, like --engines engines-of-the-zoo, or remove it",
        )
    if not current:
        build_engine(files.model, folder, measure=True, backend=backend, shapes=shapes)
    return folder


def _is_own(folder: Path, files: ZooFiles) -> bool:
    """Whether a folder is free, or was built in float32 from the model's file or an earlier one.

    The engine may have another format.
    """
    try:
        engine = json.loads((folder / MANIFEST).read_bytes())["engine"]
        source, zoo = engine["source"], files.onnx.parent.parent
        is_earlier = source["name"] == files.onnx.stem and zoo in Path(source["path"]).parents
        is_of_file = source["sha256"] == files.sha256 or is_earlier
        return is_of_file and engine.get("precision", "fp32") == "fp32"
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return False
