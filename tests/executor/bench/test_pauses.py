"""Pauses and frames, by a clock that only sleeping moves."""

from __future__ import annotations

import pytest

from swapnet.errors import InputError
from swapnet.executor.bench import pauses
from swapnet.executor.bench.pauses import Pacer, Pauses


class Clock:
    """Stands in for `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing_in = Clock()
    monkeypatch.setattr(pauses, "time", standing_in)
    return standing_in


def test_without_a_pause_nothing_sleeps(clock: Clock) -> None:
    pacer = Pacer(Pauses())
    assert pacer.wait() == 0
    assert not pacer.is_late()
    assert clock.now == 100


def test_a_pause_comes_before_each_inference(clock: Clock) -> None:
    pacer = Pacer(Pauses(idle_ms=50))
    assert pacer.wait() == pytest.approx(50)
    clock.sleep(9)
    assert not pacer.is_late()
    assert pacer.wait() == pytest.approx(50)


def test_frames_come_at_a_rate_and_a_late_one_begins_at_once(clock: Clock) -> None:
    pacer = Pacer(Pauses(rate_hz=10))
    assert pacer.wait() == pytest.approx(100)
    clock.sleep(0.04)
    assert not pacer.is_late()
    assert pacer.wait() == pytest.approx(60)
    clock.sleep(0.25)
    assert pacer.is_late()
    assert pacer.wait() == 0
    clock.sleep(0.01)
    assert pacer.is_late() is False or clock.now > 100.4
    assert pacer.wait() == pytest.approx(0)


def test_a_pause_and_a_rate_are_refused() -> None:
    with pytest.raises(InputError, match="do not go together"):
        Pauses(idle_ms=1, rate_hz=10)
