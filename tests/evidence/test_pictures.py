"""Pictures are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.errors import StorageError
from swapnet.executor.bench.statistics import summarise
from swapnet.executor.scenario.messages import Moment
from tests.evidence.pictures import Panel, panel_of, save_plot, save_shares
from tests.executor.bench.conftest import CURVE, MIB, a_peer, a_report
from tests.executor.scenario.conftest import a_report as a_scenario_report

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_panel_has_the_points_of_its_reports() -> None:
    killed = {"mapped": a_peer(None, note="killed")}
    reports = [a_report(), a_report(budget_bytes=20 * MIB, peers=killed, unswapped_ms=None)]
    panel = panel_of("toy", CURVE, reports)
    assert list(panel.measured) == [(64 * MIB, 100.0), (20 * MIB, 100.0)]
    assert panel.peers == {"mapped": [(64 * MIB, 700.0)]}
    assert panel.unswapped_ms == summarise([95.0]).median


@pytest.mark.usefixtures("drawing")
@pytest.mark.slow
@pytest.mark.parametrize("peer_ms", [110.0, 900.0])
def test_a_picture_is_drawn(tmp_path: Path, peer_ms: float) -> None:
    peers = {"mapped": [(64 * MIB, peer_ms)], "unheard of": [(64 * MIB, 100.0)]}
    panels = [panel_of("one", CURVE, [a_report()]), Panel("two", CURVE, [(1, 2.0)], peers)]
    save_plot(panels, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    save_plot(panels[:1], tmp_path / "plot.svg")
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()


@pytest.mark.usefixtures("drawing")
def test_a_picture_that_can_not_be_written(tmp_path: Path) -> None:
    panel = panel_of("one", CURVE, [a_report()])
    with pytest.raises(StorageError):
        save_plot([panel], tmp_path / "nowhere" / "plot.png")


@pytest.mark.usefixtures("drawing")
@pytest.mark.slow
def test_shares_are_drawn(tmp_path: Path) -> None:
    samples = (
        Moment(0.0, 64 * MIB, (16 * MIB, 40 * MIB), (0, 2)),
        Moment(1.0, 32 * MIB, (8 * MIB, 20 * MIB), (4, 0)),
    )
    save_shares(a_scenario_report(samples=samples), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    save_shares(a_scenario_report(samples=samples[:1]), tmp_path / "plot.svg")
    assert b"waiting requests" in (tmp_path / "plot.svg").read_bytes()
