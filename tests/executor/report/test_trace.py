"""Timelines in the Trace Event Format."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from swapnet.executor import PlanOptions, SwapExecutor
from swapnet.executor.execution import Inference, StepEvent
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.report.trace import Recorder, TraceEvent, trace_events, trace_file
from swapnet.executor.runtime.decisions import Decision
from swapnet.executor.runtime.scheduler import Instruction
from swapnet.executor.swapping.pipeline import ReadEvent
from swapnet.testing.engine import write_engine
from tests.helpers.profiles import SmallRequests
from tests.helpers.simulated import hooked_steps
from tests.helpers.traces import check_format, explained, slices_of

PAGE = 4096
STREAMED = PlanOptions(resident=False, merge=False)


def traced(folder: Path, readers: int, *, inferences: int = 4, keep: int = 2) -> Recorder:
    """Inferences of a simulated engine at its smallest budget."""
    blocks = [3 * PAGE, 8 * PAGE, 5 * PAGE, 2 * PAGE, 8 * PAGE]
    budget = smallest_budget(write_engine(folder, blocks))[0]
    device = SmallRequests(1, readers=readers)
    recorder = Recorder("toy", keep)
    with SwapExecutor(folder, budget, device=device, options=STREAMED, trace=True) as executor:
        assert executor.plan.readers == readers
        for _ in range(inferences):
            executor({"x": [0.0]})
            last = executor.stats.last
            assert last is not None
            recorder.note(executor.plan, last)
    return recorder


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_lanes_never_overlap_and_the_ring_holds_what_steps_need(
    tmp_path: Path, readers: int
) -> None:
    recorder = traced(tmp_path / "engine", readers)
    events = trace_events([recorder])
    check_format(json.loads(json.dumps(trace_file(events, "swapnet bench toy"))))
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert (
        {"inferences", "reader 0"}
        <= names
        <= {
            "inferences",
            *(f"reader {i}" for i in range(readers)),
        }
    )
    counted = [e for e in events if e["ph"] == "C"]
    filled = [e["args"]["bytes"] for e in counted if e["name"] == "ring filled"]
    (size, *_) = {e["args"]["bytes"] for e in counted if e["name"] == "ring size"}
    assert 0 < max(filled) <= size
    assert min(filled) == 0


def test_copies_waits_and_steps_explain_the_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked_steps(monkeypatch)["simulated"] = lambda _: time.sleep(0.005)
    events = trace_events([traced(tmp_path / "engine", 2, inferences=6, keep=5)])
    assert len(slices_of(events, "inference")) == 6
    assert 0.98 <= max(explained(events)) <= 1.0


def a_plan(folder: Path) -> Plan:
    with SwapExecutor(folder, "100%") as executor:
        return executor.plan


def an_inference(start: float, *reads: ReadEvent, steps: int = 1) -> Inference:
    """Ten milliseconds each for inputs, waiting, its turn, and computing."""
    events = tuple(
        StepEvent(i, start + t, start + t + 0.02, start + t + 0.03, 0.01)
        for i, t in enumerate(0.01 + 0.03 * step for step in range(steps))
    )
    return Inference(start, 30.0 * steps + 20, 10.0, 10.0, 10.0, 0, events, reads)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of one step that keeps everything."""
    write_engine(tmp_path / "engine", [PAGE])
    return a_plan(tmp_path / "engine")


def spans(events: list[TraceEvent]) -> list[tuple[str, int, int]]:
    return [(e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]


def test_steps_exist_where_nothing_is_streamed(plan: Plan) -> None:
    recorder = Recorder("toy", 3, (1.0, 1.5))
    recorder.note(plan, an_inference(2.0))
    assert spans(trace_events([recorder])) == [
        ("open", 0, 500_000),
        ("first inference", 1_000_000, 50_000),
        ("copy inputs", 1_000_000, 10_000),
        ("wait for block 0", 1_010_000, 10_000),
        ("turn of block 0", 1_020_000, 10_000),
        ("block 0", 1_030_000, 10_000),
        ("copy outputs", 1_040_000, 10_000),
    ]
    assert explained(trace_events([recorder])) == [1.0]


def test_the_first_and_the_latest_are_kept(plan: Plan) -> None:
    recorder = Recorder("toy", 2)
    for number in range(5):
        recorder.note(plan, an_inference(float(number)))
    names = [e["name"] for e in slices_of(trace_events([recorder]), "inference")]
    assert names == ["first inference", "inference 4", "inference 5"]


def test_a_clock_that_differs_leaves_no_overlap(plan: Plan) -> None:
    early = StepEvent(0, 0.005, 0.015, 0.06)
    recorder = Recorder("toy", 1)
    recorder.note(plan, Inference(0.0, 50.0, 10.0, 10.0, 0.0, 0, (early,)))
    events = trace_events([recorder])
    check_format(trace_file(events, ""))
    assert ("block 0", 15_000, 35_000) in spans(events)


def test_each_model_is_a_process_from_the_same_time_on(plan: Plan) -> None:
    one, two = Recorder("one", 9), Recorder("two", 9)
    for number in range(9):
        one.note(plan, an_inference(10.0 + number))
    for number in range(3):
        two.note(plan, an_inference(10.5 + 3 * number))
    events = trace_events([one, two], 2)
    check_format(trace_file(events, ""))
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "one", 2: "two"}
    found = [(e["pid"], e["name"]) for e in slices_of(events, "inference")]
    assert found[:2] == [(1, "first inference"), (2, "first inference")]
    assert found[2:5] == [(2, "inference 2"), (1, "inference 5"), (1, "inference 6")]


def test_decisions_are_marks_in_a_process_of_their_own(plan: Plan) -> None:
    """Since the latest inferences, in a lane for each kind of instruction."""
    recorder = Recorder("one", 9)
    for number in range(3):
        recorder.note(plan, an_inference(10.0 + number))
    decisions = [
        Decision("asked", (), (Instruction("serve", "one", (1,)),), 10.0),
        Decision("began", (), (Instruction("step", "one"), Instruction("read", "one", (4,))), 12.0),
        Decision("landed", (), (), 12.1),
        Decision("refused", ("one", "too large"), (), 12.2),
        Decision("sharing", (), (Instruction("evict", "one", (5,)),), 12.3),
        Decision("ended", (), (Instruction("step", "one"),), 12.4),
    ]
    events = trace_events([recorder], 1, decisions)
    check_format(trace_file(events, ""))
    lanes = {
        e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 2
    }
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == [
        "one",
        "scheduler",
    ]
    (start,) = (e["ts"] for e in slices_of(events, "inference") if e["name"] == "inference 3")
    marks = [(e["name"], lanes[e["tid"]], e["ts"] - start) for e in events if e["ph"] == "i"]
    assert marks == [
        ("step one", "step", 0),
        ("read one 4", "read", 0),
        ("refused one too large", "refuse", 200_000),
        ("evict one 5", "evict", 300_000),
        ("step one", "step", 400_000),
    ]
    assert {
        e["args"]["event"] for e in events if e["ph"] == "i" and e["name"] == "evict one 5"
    } == {"sharing"}


def test_nothing_recorded_is_an_empty_timeline() -> None:
    check_format(trace_file(trace_events([Recorder("one", 3)], 3), "swapnet bench"))


def test_the_base_of_the_ring_is_what_was_read_before(tmp_path: Path) -> None:
    recorder = traced(tmp_path / "streamed", 1, inferences=5, keep=1)
    counted = [e for e in trace_events([recorder]) if e.get("name") == "ring filled"]
    assert all(e["args"]["bytes"] >= 0 for e in counted)
