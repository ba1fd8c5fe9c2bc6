"""Ctrl-C during build and bench: status 130, nothing half-written, nothing left running."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.helpers.engines import BuildToy
from tests.helpers.processes import all_ended, family, interrupt, wait_for_line
from tests.helpers.threads import until

pytestmark = pytest.mark.slow


def test_build(start: Start, engine: BuildToy, tmp_path: Path) -> None:
    toy = engine("images")
    process = start("build", toy.model, "-o", tmp_path / "engine")
    wait_for_line(process, "optimise")
    status, err = interrupt(process)
    assert status == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_bench(start: Start, engine: BuildToy) -> None:
    process = start("bench", engine("images").folder, "--budget", "100%", "--duration", 600)
    until(lambda: len(family(process.pid)) >= 3)
    started = family(process.pid)
    status, err = interrupt(process)
    assert status == 130
    assert "Traceback" not in err
    all_ended(started)
