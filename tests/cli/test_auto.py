"""``--budget auto`` says what it is, and needs measured delays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

import swapnet
from swapnet.errors import InputError
from swapnet.executor.engine import Engine
from swapnet.profile import PROFILE, assumed_profile, save_profile
from tests.cli.conftest import Call

FEW = ("--iterations", 1, "--duration", 0, "--warm-up", 0, "--threads", 1, "--no-measure")


@pytest.fixture
def measured(copy: Path) -> Path:
    """A copy of an engine with delays as if they had been measured on this device."""
    engine = Engine.open(copy).on_threads(1)
    delays = assumed_profile(engine.manifest)
    delays = msgspec.structs.replace(delays, device=engine.device.fingerprint)
    save_profile(copy, delays)
    return copy


@pytest.fixture
def unmeasured(copy: Path) -> Path:
    """A copy of an engine without delays, whatever other tests did to the engine."""
    (copy / PROFILE).unlink(missing_ok=True)
    return copy


def test_run_and_python_choose_one_budget_and_plan_says_its_own(call: Call, measured: Path) -> None:
    ran = call("run", measured, "--budget", "auto", "--threads", 1)
    assert ran.status == 0
    chosen = re.search(r"The budget is \S+, (\d+) bytes \(auto: ", ran.err)
    assert chosen is not None
    assert 0 < int(chosen[1]) <= Engine.open(measured).demand.total_bytes
    planned = call("plan", measured, "--budget", "auto", "--threads", 1, "--json", "-")
    (plan,) = json.loads(planned.out)
    assert f"{plan['budget_bytes']} bytes (auto: " in planned.err
    with swapnet.SwapExecutor(Engine.open(measured).on_threads(1), budget="auto") as executor:
        assert executor.plan.budget_bytes == int(chosen[1])
        executor.set_budget("100%")
        executor.set_budget("auto")
        assert executor.plan.budget_bytes == int(chosen[1])


@pytest.mark.slow
def test_bench_says_the_bytes(call: Call, measured: Path) -> None:
    report = json.loads(call("bench", measured, "--budget", "auto", *FEW, "--json", "-").out)
    assert report["budget"] == "auto"
    assert 0 < report["budget_bytes"] <= report["demand_bytes"]


@pytest.mark.parametrize("command", ["bench", "plan"])
def test_it_is_refused_without_delays(call: Call, unmeasured: Path, command: str) -> None:
    ran = call(command, unmeasured, "--budget", "auto", "--no-measure")
    assert ran.is_user_error("a budget of auto needs measured delays", "swapnet measure")


def test_it_is_refused_in_python_without_delays(unmeasured: Path) -> None:
    with pytest.raises(InputError, match="needs measured delays"):
        swapnet.SwapExecutor(unmeasured, budget="auto")


def test_several_models_have_none(call: Call) -> None:
    ran = call("scenario", "run", "roadside_unit", "--budget", "auto")
    assert ran.is_user_error("a budget of auto is not for this")
