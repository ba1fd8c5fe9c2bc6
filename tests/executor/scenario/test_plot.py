"""A picture of a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.errors import StorageError
from swapnet.executor.scenario.plot import save_plot
from swapnet.executor.scenario.report import Sample
from tests.executor.scenario.conftest import MIB, a_report

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("drawing")


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    samples = (
        Sample(0.0, 64 * MIB, (16 * MIB, 40 * MIB), (0, 2)),
        Sample(1.0, 32 * MIB, (8 * MIB, 20 * MIB), (4, 0)),
    )
    save_plot(a_report(samples=samples), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    save_plot(a_report(samples=samples[:1]), tmp_path / "plot.svg")
    assert b"waiting requests" in (tmp_path / "plot.svg").read_bytes()


def test_a_picture_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_plot(a_report(), tmp_path / "nowhere" / "plot.png")
