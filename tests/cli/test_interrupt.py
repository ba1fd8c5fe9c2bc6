"""Signals during build and bench: nothing half-written, nothing left running."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.helpers.engines import BuildToy
from tests.helpers.processes import all_ended, family, interrupt, wait_for_line
from tests.helpers.threads import until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_build(start: Start, engine: BuildToy, tmp_path: Path, number: int) -> None:
    toy = engine("images")
    process = start("build", toy.model, "-o", tmp_path / "engine")
    wait_for_line(process, "optimise")
    status, err = interrupt(process, number)
    assert status == 128 + number
    assert "swapnet: interrupted" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_a_killed_build_leaves_is_removed_by_the_next(
    start: Start, engine: BuildToy, tmp_path: Path
) -> None:
    toy = engine("images")
    process = start("build", toy.model, "-o", tmp_path / "engine")
    wait_for_line(process, "optimise")
    interrupt(process, signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    process = start("build", toy.model, "-o", tmp_path / "engine", "--no-measure")
    process.communicate()
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bench(start: Start, engine: BuildToy, number: int) -> None:
    process = start("bench", engine("images").folder, "--budget", "100%", "--duration", 600)
    until(lambda: len(family(process.pid)) >= 3)
    started = family(process.pid)
    status, err = interrupt(process, number)
    assert status == 128 + number
    assert "Traceback" not in err
    all_ended(started)


def test_children_end_with_a_parent_that_is_killed(start: Start, engine: BuildToy) -> None:
    process = start("bench", engine("images").folder, "--budget", "100%", "--duration", 600)
    until(lambda: len(family(process.pid)) >= 3)
    started = family(process.pid)
    interrupt(process, signal.SIGKILL)
    all_ended(started)
