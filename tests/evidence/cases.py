"""Cases of the suite: one JSON file each, whole or not there, skipped when nothing changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from swapnet.executor.bench.report import Report
from swapnet.executor.planning.curve import Point
from swapnet.files import replacing

__all__ = [
    "ABLATION",
    "Case",
    "Key",
    "Outline",
    "case_path",
    "load_case",
    "load_outline",
    "read_cases",
    "read_outlines",
    "save",
]

_R = TypeVar("_R", "Case", "Outline")

ABLATION = "ablations"
"""Kind of the cases that switch something off."""


class Key(msgspec.Struct, frozen=True):
    """What a case depends on: another key is another measurement.

    Attributes
    ----------
    engine
        `Manifest.identity`.
    swapnet
        Version.
    budget
        As it was written, or ``"smallest"``.
    kind
        ``""``, or `ABLATION`.
    peers
        Names of the other ways to run the model.
    rounds, threads, memory_limit
        How it was measured.
    """

    engine: str
    swapnet: str
    budget: str
    kind: str
    peers: tuple[str, ...]
    rounds: int
    threads: int
    memory_limit: bool


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one budget.

    Attributes
    ----------
    model
        Its name in the zoo.
    key
        What it depends on.
    report
        None where it does not run.
    note
        Why not.
    """

    schema: Literal["swapnet-case/1"] = "swapnet-case/1"
    model: str
    key: Key
    report: Report | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model} at {self.key.budget}"


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model beside its cases.

    Attributes
    ----------
    model
        Its name in the zoo.
    engine, profile
        `Manifest.identity` and SHA-256 of the delays it was made from.
    smallest_bytes, reason
        The smallest budget that works, and what sets it.
    ideal_bytes
        Ideal peak of live activations.
    skeleton_bytes
        Loaded skeletons.
    curve
        Latency over budget.
    """

    schema: Literal["swapnet-outline/1"] = "swapnet-outline/1"
    model: str
    engine: str
    profile: str
    smallest_bytes: int
    reason: str
    ideal_bytes: int
    skeleton_bytes: int
    curve: tuple[Point, ...]


def case_path(folder: Path, model: str, budget: str, kind: str = "") -> Path:
    """Where a case lies."""
    words = re.sub(r"[^\w.]+", "-", f"{model} {budget} {kind}").strip("-")
    return folder / f"{words}.json"


def load_case(path: Path, key: Key) -> Case | None:
    """A case that was measured with this key; None where there is none, or it has to be redone."""
    case = _load(path, Case)
    return case if case is not None and case.key == key and case.report is not None else None


def load_outline(path: Path, engine: str, profile: str) -> Outline | None:
    """An outline of this engine and these delays; None where there is none."""
    outline = _load(path, Outline)
    return outline if outline and (outline.engine, outline.profile) == (engine, profile) else None


def read_cases(folder: Path, model: str) -> list[Case]:
    """All cases of a model, whatever their keys."""
    cases = [_load(path, Case) for path in sorted(folder.glob("*.json"))]
    return [case for case in cases if case is not None and case.model == model]


def read_outlines(folder: Path) -> list[Outline]:
    """All outlines."""
    outlines = [_load(path, Outline) for path in sorted(folder.glob("*.json"))]
    return [outline for outline in outlines if outline is not None]


def save(path: Path, record: Case | Outline) -> None:
    """Write at once.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def _load(path: Path, kind: type[_R]) -> _R | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
