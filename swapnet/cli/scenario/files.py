"""Where scenarios lie."""

from __future__ import annotations

from pathlib import Path

from swapnet.errors import InputError

__all__ = ["scenario_path", "scenarios"]


def scenarios() -> dict[str, Path]:
    """Files of the scenarios that come with SwapNet, by name."""
    import swapnet.models

    folder = Path(swapnet.models.__path__[0]) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def scenario_path(name: str) -> Path:
    """The file of a scenario: one that is there, or one that comes with SwapNet.

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
            why="it is no file, and none of those that come with SwapNet",
            hint=f"give a TOML file, or one of {', '.join(known)}",
        )
    return known[name]
