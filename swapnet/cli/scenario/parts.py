"""Scenarios by name or file, and their DNNs ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swapnet import models
from swapnet.arrays import load_npz
from swapnet.cli.engine import open_engine, with_delays
from swapnet.cli.zoo import current_engine, zoo_files
from swapnet.errors import InputError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.samples import kept_samples
from swapnet.executor.scenario.experiment_options import Part, samples_for
from swapnet.executor.scenario.scenario import Entry, Scenario
from swapnet.files import make_folder

__all__ = ["parts_of", "scenario_path", "scenarios"]

_SAMPLES = 3
"""Number of inputs of each DNN; the first is its example."""


def parts_of(scenario: Scenario, engines: Path, device: Device) -> tuple[Part, ...]:
    """The engines of a scenario with their inputs, built and measured where needed."""
    for entry in scenario.models:
        if entry.model is not None:
            models.find(entry.model)
        else:
            Engine.open(entry.source)
    return tuple(_part(entry, engines, device) for entry in scenario.models)


def _part(entry: Entry, engines: Path, device: Device) -> Part:
    given: dict[str, Any] = {}
    if entry.model is not None:
        files = zoo_files(entry.model)
        make_folder(engines)
        folder = current_engine(engines, files, load_npz(files.example), "onnxruntime")
        given = load_npz(files.data)
    else:
        folder = Path(entry.source)
    opened = open_engine(folder, entry.shapes, threads=device.threads)
    engine = with_delays(opened, "auto", measure=True, name=entry.source)
    if not given:
        first = next(iter(kept_samples(engine)), {})
        given = {name: array[None] for name, array in first.items()}
    return Part(entry, engine, samples_for(engine.manifest, given, _SAMPLES))


def scenarios() -> dict[str, Path]:
    """Files of the scenarios that come with SwapNet, by name."""
    folder = Path(models.__path__[0]) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def scenario_path(name: str) -> Path:
    """The file of a scenario, given as a path or as the name of one that comes with SwapNet.

    Raises
    ------
    InputError
        There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = scenarios()
    if name not in known:
        raise InputError(
            f"there is no scenario {name}",
            why="it is neither a file nor a scenario that comes with SwapNet",
            hint=f"give a TOML file, or one of {', '.join(known)}",
        )
    return known[name]
