from __future__ import annotations

import msgspec
import pytest

from swapnet.executor.bench.difference import Judgement
from swapnet.executor.bench.timing import Timing
from swapnet.executor.bench.trtexec_text import (
    EXPLANATIONS,
    accuracy_lines,
    device_lines,
    layer_lines,
    metric_warnings,
    output_lines,
    profile_lines,
    summary_lines,
    trace_lines,
)
from tests.executor.bench.conftest import a_report
from tests.helpers.trtexec_readers import FIGURES, SINGLE, figures, number, section

PREFIX = "[11/30/2026-05:46:07] [I] "


def a_timing(latency_ms: float, input_ms: float = 0.5) -> Timing:
    """An inference whose parts add up."""
    compute_ms = latency_ms - input_ms - 0.25
    return Timing(
        latency_ms,
        input_ms=input_ms,
        compute_ms=compute_ms,
        output_ms=0.25,
        stall_ms=1.0,
        enqueue_ms=compute_ms,
        reading_ms=2.0,
    )


TIMINGS = [a_timing(10.0 + number % 3) for number in range(25)]


def test_the_rules_of_trex_find_every_metric() -> None:
    report = msgspec.structs.replace(a_report(), duration_s=0.5)
    lines = [
        *trace_lines(report, TIMINGS, 10),
        "",
        *summary_lines(report, TIMINGS, (90.0, 99.5)),
        "Verdict: none",
    ]
    found = section([PREFIX + line for line in lines], "=== Performance summary ===")
    assert {name: number(found[name]) for name in SINGLE} == {
        "Throughput": 50.0,
        "Total Host Walltime": 0.5,
        "Total GPU Compute Time": pytest.approx(sum(t.compute_ms for t in TIMINGS) / 1e3),
    }
    for label in (*FIGURES, "Stall Time", "Read Time"):
        assert len(figures(found[label])) == 6, label
    assert figures(found["Latency"]) == pytest.approx([10, 12, 10.96, 11, 12, 12])
    assert figures(found["H2D Latency"])[0] == 0.5
    assert "percentile(99.5%) = 12 ms" in found["Latency"]
    assert {*FIGURES, "Stall Time", "Read Time", *SINGLE} == set(EXPLANATIONS)


def test_labels_come_in_the_order_of_trtexec() -> None:
    labels = [line.partition(":")[0] for line in summary_lines(a_report(), TIMINGS, (90.0,))]
    assert labels == [
        "=== Performance summary ===",
        "Throughput",
        *FIGURES,
        "Stall Time",
        "Read Time",
        "Total Host Walltime",
        "Total GPU Compute Time",
    ]


def test_the_trace_is_averaged_and_its_middle_left_out() -> None:
    report = a_report()
    lines = list(trace_lines(report, TIMINGS, 10))
    assert lines[1].startswith("Timing trace has 25 queries over ")
    assert lines[3:5] == ["=== Trace details ===", "Trace averages of 10 runs:"]
    assert lines[5:] == [
        "Average on 10 runs - GPU latency: 10.15 ms - Host latency: 10.9 ms (enqueue 10.15 ms)",
        "Average on 10 runs - GPU latency: 10.25 ms - Host latency: 11 ms (enqueue 10.25 ms)",
    ]
    many = list(trace_lines(report, TIMINGS[:1] * 500, 1))
    assert len(many) == 5 + 401
    assert many[5 + 200] == "... Omitting 100 lines"


def test_the_device_is_a_section() -> None:
    found = section([PREFIX + line for line in device_lines()], "=== Device Information ===")
    assert found["Selected Device"]
    assert number(found["Processors"]) >= 1


def test_warnings_have_the_limits_of_trtexec() -> None:
    assert not list(metric_warnings([a_timing(10.0)] * 3))
    (unstable, _) = metric_warnings(TIMINGS)
    assert "coefficient of variance = 8" in unstable
    copies = [a_timing(10.0, input_ms=6.0)] * 2
    assert any("copies of the inputs" in line for line in metric_warnings(copies))


def test_tables_are_printed() -> None:
    row = {"name": "block 0", "timeMs": 4.0, "averageMs": 2.0, "medianMs": 2.0, "percentage": 100.0}
    lines = list(profile_lines([{"count": 2}, row]))
    assert lines[0] == "=== Profile (2 iterations ) ==="
    assert lines[2].split() == ["4.00", "2.0000", "2.0000", "100.0", "block", "0"]
    assert lines[3].endswith("Total")
    value = {"Name": "x", "Dimensions": [1, 3], "Format/Datatype": ""}
    layer = {"Name": "block 0", "LayerType": "Block", "Inputs": [value], "Outputs": [value]}
    assert list(layer_lines({"Layers": [layer], "Bindings": ["x"]})) == [
        "Layer Information:",
        "block 0 (Block): x 1x3 -> x 1x3",
        "Bindings:",
        "x",
    ]
    row = {"name": "y", "dimensions": "1x2", "values": [1.5, 2.0]}
    assert list(output_lines([row]))[1:] == ["y: (1x2)", "1.5 2"]


def test_losses_are_printed_with_their_limit() -> None:
    judged = Judgement(0.5, False, (), "l0", {"y": 0.25, "z": 0.75, "w": None})
    assert list(accuracy_lines(judged)) == [
        "Accuracy loss for tensor y (l0): 0.250000",
        "Accuracy loss for tensor z (l0): 0.750000 [FAIL: > threshold 0.5]",
        "Accuracy loss for tensor w (l0): infinite [FAIL: > threshold 0.5]",
    ]
