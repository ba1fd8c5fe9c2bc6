"""The record of one inference: its parts, on the host and on a device that runs behind."""

from __future__ import annotations

import pytest

from swapnet.executor.bench.timing import Round, Timing
from swapnet.executor.execution import Inference, StepEvent
from tests.executor.bench.conftest import a_round


def inference(*steps: StepEvent, output_ms: float = 1.0) -> Inference:
    """An inference from second 10 to 10.1, its first step asked for after 2 ms."""
    return Inference(10.0, 100.0, 2.0, output_ms, 20.0, 4096, steps)


STEPS = (StepEvent(0, 10.002, 10.012, 10.05), StepEvent(1, 10.05, 10.06, 10.099))


def test_parts_on_the_host_add_up_to_the_latency() -> None:
    timing = Timing.of(inference(*STEPS), 9.0, idle_ms=3.0, ahead_bytes=5, is_late=True)
    assert timing.start_ms == pytest.approx(1000)
    assert timing.compute_ms == pytest.approx(97)
    assert timing.input_ms + timing.compute_ms + timing.output_ms == pytest.approx(100)
    assert timing.enqueue_ms == pytest.approx(timing.compute_ms)
    assert timing.steps_ms == pytest.approx((38, 39))
    assert timing.waits_ms == pytest.approx((10, 10))
    assert (timing.stall_ms, timing.read_bytes) == (20.0, 4096)
    assert (timing.idle_ms, timing.ahead_bytes, timing.is_late) == (3.0, 5, True)


def test_a_device_that_runs_behind_computes_after_the_host_has_launched() -> None:
    timing = Timing.of(inference(*STEPS, output_ms=90.0), 9.0)
    assert timing.enqueue_ms == pytest.approx(8)
    assert timing.compute_ms == pytest.approx(97)
    assert timing.output_ms == pytest.approx(1)


def test_a_round_has_medians_and_sums() -> None:
    turn = a_round([3.0, 1.0, 2.0], read_bytes=7)
    assert turn.latency_ms == [3.0, 1.0, 2.0]
    assert turn.median_ms == 2.0
    assert turn.read_bytes == 21
    assert Round.of([5.0], idle_ms=[4.0]) == a_round([5.0], idle_ms=[4.0])
