"""What of a timeline is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.executor.planning.plan import Plan
from swapnet.executor.report.figures import timeline_figure
from swapnet.executor.report.page import Figure
from swapnet.executor.report.trace import Recorder, trace_events
from swapnet.executor.runtime.decisions import Decision
from swapnet.executor.runtime.scheduler import Instruction
from swapnet.executor.swapping.pipeline import ReadEvent
from swapnet.testing.engine import write_engine
from tests.executor.report.test_trace import PAGE, a_plan, an_inference

pytestmark = pytest.mark.usefixtures("reporting")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of one step that keeps everything."""
    write_engine(tmp_path / "engine", [PAGE])
    return a_plan(tmp_path / "engine")


def noted(plan: Plan, *starts: float, name: str = "toy") -> Recorder:
    recorder = Recorder(name, 9)
    for start in starts:
        recorder.note(plan, an_inference(start, ReadEvent(0, PAGE, start, start + 0.01, 1)))
    return recorder


def drawn(figure: Figure, label: str) -> int:
    """Number of bars of a kind; they are drawn in the order of the legend."""
    from bokeh.models import HBar

    renderers = [r for r in figure.plots[0].renderers if isinstance(r.glyph, HBar)]
    index = [name for name, _, _ in figure.legend].index(label)
    return len(renderers[index].data_source.data["left"])


def test_one_model_is_drawn_from_its_last_pause_on_with_its_memory(plan: Plan) -> None:
    figure = timeline_figure(trace_events([noted(plan, 0.0, 1.0, 1.05, 9.0, 9.05, 9.1)]))
    assert len(figure.plots) == 3
    assert drawn(figure, "computing") == 3
    assert drawn(figure, "reading") == 3
    assert figure.plots[0].y_range.factors == ["reader 1", "waiting", "compute"]
    assert figure.caption == "Steps, waits and copies are 100.0% of the latency."


def test_several_models_have_rows_of_their_own(plan: Plan) -> None:
    models = [noted(plan, 0.0, 1.0, 9.0, name="one"), noted(plan, 0.5, 2.0, name="two")]
    figure = timeline_figure(trace_events(models))
    assert len(figure.plots) == 1
    assert drawn(figure, "computing") == 3
    assert ("two", "compute") in figure.plots[0].y_range.factors


def test_decisions_of_a_scheduler_are_no_model(plan: Plan) -> None:
    """One model stays one, with its memory."""
    decisions = [Decision("began", ("toy",), (Instruction("step", "toy"),), 9.01)]
    events = trace_events([noted(plan, 0.0, 9.0)], decisions=decisions)
    assert [event["name"] for event in events if event["ph"] == "i"] == ["step toy"]
    assert len(timeline_figure(events).plots) == 3


def test_nothing_recorded_is_an_empty_plot() -> None:
    figure = timeline_figure(trace_events([Recorder("toy", 3)]))
    assert figure.legend[:1] == [("bytes in the ring", "#2b97a0", "area")]
