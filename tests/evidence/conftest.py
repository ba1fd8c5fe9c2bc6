"""Commands that are called in this process, and cases as if they had been measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from tests.cli.conftest import Called
from tests.evidence.cases import Case, Key, Outline
from tests.evidence.command import run
from tests.executor.bench.conftest import CURVE, MIB, a_peer, a_report
from tests.models.conftest import words

__all__ = ["MIB", "Call", "a_case", "a_peer", "a_report", "an_outline", "words"]

Call = Callable[..., Called]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls a command with arguments."""

    def called(command: click.Command, *arguments: object) -> Called:
        with pytest.raises(SystemExit) as exit_:
            run(command, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Called(int(exit_.value.code or 0), captured.out, captured.err)

    return called


def a_case(
    model: str = "toy",
    budget: str = "weights:25%",
    kind: str = "",
    *,
    engine: str = "e",
    note: str = "",
    **fields: Any,
) -> Case:
    """A case, or one that failed for the reason in ``note``."""
    key = Key(engine, "0.1.0", budget, kind, ("mapped",), 5, 2, True)
    return Case(model=model, key=key, report=None if note else a_report(**fields), note=note)


def an_outline(model: str = "toy", *, smallest_bytes: int = 20 * MIB) -> Outline:
    """An outline whose ideal is 18 MiB."""
    return Outline(
        model=model,
        engine="e",
        profile="p",
        smallest_bytes=smallest_bytes,
        reason="activations take 8MiB",
        ideal_bytes=8 * MIB,
        skeleton_bytes=2 * MIB,
        curve=CURVE,
    )
