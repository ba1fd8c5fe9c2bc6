"""`swapnet.bench`: options, and what it refuses before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import swapnet
from swapnet.calibration.bench import BenchOptions, bench_with
from swapnet.errors import InputError
from swapnet.executor.bench.bench import Setup
from swapnet.executor.device import Device
from swapnet.executor.pace import Pace


@pytest.mark.parametrize(("iterations", "rounds"), [(1, 1), (3, 3), (10, 5), (1000, 5)])
def test_few_inferences_are_as_many_rounds(iterations: int, rounds: int) -> None:
    schedule = BenchOptions(iterations=iterations).schedule
    assert (schedule.rounds, schedule.most_rounds) == (rounds, 10)


def test_mapped_weights_can_not_be_slowed_down(small: Path) -> None:
    slow = Device(1, pace=Pace(1e6))
    with pytest.raises(InputError, match="do not go together"):
        swapnet.bench(small, "100%", mapped=True, device=slow)


@pytest.mark.parametrize("percentiles", [(), (101,), (-1, 50)])
def test_percentiles_are_shares(small: Path, percentiles: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="is not a list of percentiles"):
        swapnet.bench(small, "100%", percentiles=percentiles)


def test_a_pause_and_a_rate_are_refused(small: Path) -> None:
    with pytest.raises(InputError, match="do not go together"):
        swapnet.bench(small, "100%", idle_ms=5, rate_hz=10)


def test_options_become_the_setup_of_the_benchmark(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Setup] = []
    monkeypatch.setattr("swapnet.calibration.bench.run_bench", lambda setup, _: seen.append(setup))
    monkeypatch.setattr("swapnet.calibration.bench.one_operator_engine", lambda folder: folder)
    options = BenchOptions(
        tolerance=0.5,
        model=small / "manifest.json",
        measure=False,
        rate_hz=5,
        percentiles=[50],
        device=Device(1),
    )
    with pytest.raises(InputError, match="is not what the engine was built from"):
        bench_with(small, "100%", options)
    untested = BenchOptions(against=small, measure=False, rate_hz=5, percentiles=[50])
    bench_with(small, "100%", untested)
    (setup,) = seen
    assert setup.pauses.rate_hz == 5
    assert setup.percentiles == (50,)
    assert setup.others["against"].path == small
    assert setup.unswapped is None
    assert setup.advice
    assert list(setup.inputs) == ["x"]
