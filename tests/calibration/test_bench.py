"""`swapnet.bench`: options, and what it refuses before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import swapnet
from swapnet.errors import InputError
from swapnet.executor.bench.bench import Setup
from swapnet.executor.bench.difference import Rule
from swapnet.executor.device import Device
from swapnet.executor.pace import Pace


@pytest.fixture
def setups(monkeypatch: pytest.MonkeyPatch) -> list[Setup]:
    """Setups that benchmarks would run."""
    seen: list[Setup] = []

    def run(setup: Setup, _: object) -> SimpleNamespace:
        seen.append(setup)
        return SimpleNamespace(report=len(seen))

    monkeypatch.setattr("swapnet.calibration.bench.run_bench", run)
    monkeypatch.setattr("swapnet.calibration.bench.one_operator_engine", lambda folder: folder)
    return seen


def test_few_inferences_are_as_many_rounds(small: Path, setups: list[Setup]) -> None:
    for iterations in (1, 3, 10, 1000):
        swapnet.bench(small, "100%", iterations=iterations, measure=False)
    assert [setup.schedule.rounds for setup in setups] == [1, 3, 5, 5]
    assert {setup.schedule.most_rounds for setup in setups} == {10}


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


def test_two_measures_of_the_difference_are_refused(small: Path) -> None:
    with pytest.raises(InputError, match="two measures"):
        swapnet.bench(small, "100%", tolerance=1e-3, accuracy_algorithm="l1")


def test_a_measure_of_nothing_is_refused(small: Path) -> None:
    with pytest.raises(InputError, match="nothing to compare with"):
        swapnet.bench(small, "100%", accuracy_threshold=0.1)


def test_options_become_the_setup_of_the_benchmark(small: Path, setups: list[Setup]) -> None:
    wrong = small / "manifest.json"
    with pytest.raises(InputError, match="is not what the engine was built from"):
        swapnet.bench(small, "100%", tolerance=0.5, model=wrong, measure=False, device=Device(1))
    found: list[object] = []
    swapnet.bench(
        *(small, "100%"),
        against=small,
        measure=False,
        rate_hz=5,
        percentiles=[50],
        references={"y": np.zeros(1)},
        atol=0.5,
        on_findings=found.append,
    )
    (setup,) = setups
    assert len(found) == 1
    assert setup.pauses.rate_hz == 5
    assert setup.percentiles == (50,)
    assert setup.others["against"].path == small
    assert setup.unswapped is None
    assert setup.advice
    assert list(setup.inputs) == ["x"]
    assert setup.reference_rule == Rule("l0", atol=0.5)
