"""Checks of part (a) on a simulated GPU: they pass there, and see what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swapnet.testing.gpu import SimulatedAccelerator, Stream
from tests.gpu_kit import checks
from tests.gpu_kit.checks import CHECKS
from tests.gpu_kit.rig import Check, Rig, Setting, Wrong

SLOW = ("cycles", "prediction", "overlap", "staging")


@pytest.mark.parametrize(
    "check",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] * (c.name in SLOW)) for c in CHECKS],
)
@pytest.mark.usefixtures("on_simulated_gpu")
def test_a_check_says_what_it_measured(
    check: Check, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_CYCLES", 10)
    assert check.title.endswith(".")
    assert check.run(setting)


@pytest.mark.slow
def test_a_wrong_output_is_seen(rig: Rig) -> None:
    other = replace(rig, expected={"y": np.zeros_like(rig.expected["y"])})
    for check in (checks.equality, checks.kinds, checks.poison, checks.errors, checks.budgets):
        with pytest.raises(Wrong) as raised:
            check(other)
        assert raised.value.figures
    with pytest.raises(Wrong, match="wrong output"):
        checks.threads(other)


def test_a_fault_that_does_not_show_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_wrong", lambda *_: 0)
    with pytest.raises(Wrong, match="planted fault was not seen"):
        checks.faults(rig)


def test_memory_beyond_the_budget_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_DRIVER_BYTES", -(1 << 30))
    with pytest.raises(Wrong, match="more than the budget"):
        checks.memory(rig)


def test_streams_in_one_order_are_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each stream ended before another got work."""
    append = SimulatedAccelerator.append

    def eager(gpu: SimulatedAccelerator, stream: Stream, item: object) -> None:
        append(gpu, stream, item)  # type: ignore[arg-type]
        gpu.run_until(lambda: not stream.queue)

    monkeypatch.setattr(SimulatedAccelerator, "append", eager)
    with pytest.raises(Wrong, match="streams wait for each other"):
        checks.order(rig)


def test_memory_that_the_gpu_has_not_is_left_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = replace(rig.gpu.attributes, has_managed_memory=False)
    monkeypatch.setattr(rig.gpu, "attributes", attributes)
    found = checks.kinds(rig)
    assert "not_here" in found["managed"]
    assert found["device"]["right_of_4"] == 4
