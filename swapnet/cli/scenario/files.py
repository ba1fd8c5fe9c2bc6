"""Scenarios by name or file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import swapnet.models
from swapnet.errors import InputError
from swapnet.executor.scenario.scenario import Scenario, at_rates, at_speed, load_scenario

__all__ = ["chosen_scenario", "scenario_path", "scenarios"]


def scenarios() -> dict[str, Path]:
    """Files of the scenarios that come with SwapNet, by name."""
    folder = Path(swapnet.models.__path__[0]) / "scenarios"
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


def chosen_scenario(path: Path, rates_per_s: Mapping[str, float], *, speed: float) -> Scenario:
    """The scenario of a file with other rates by name, and all rates times ``speed``.

    Raises
    ------
    InputError
        The file is not a scenario, or has no DNN of that name.
    """
    return at_speed(at_rates(load_scenario(path), rates_per_s), speed)
