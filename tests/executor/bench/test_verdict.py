"""The verdict agrees with its figures, whatever they are, and its numbers are the planner's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapnet.executor.bench.report import as_text, labelled_lines
from swapnet.executor.bench.statistics import summarise
from swapnet.executor.bench.summary import scaled
from swapnet.executor.bench.verdict import Advice, advise, verdict_of
from swapnet.executor.planning.auto import LARGEST_STALL
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from tests.executor.bench.conftest import MIB, a_report
from tests.helpers.verdicts import contradictions

Simulated = Callable[..., tuple[Path, Manifest]]

MS = st.floats(0.01, 1e4)


@given(
    streamed_bytes=st.sampled_from([0, 100 * MIB]),
    reading_ms=MS,
    execution_ms=MS,
    latency_ms=MS,
    share=st.floats(0, 1),
    predicted=st.floats(0, 1),
    budget_bytes=st.one_of(st.none(), st.integers(MIB, 199 * MIB)),
)
def test_no_text_contradicts_its_figures(
    streamed_bytes: int,
    reading_ms: float,
    execution_ms: float,
    latency_ms: float,
    share: float,
    predicted: float,
    budget_bytes: int | None,
) -> None:
    stall_ms = share * latency_ms
    verdict = verdict_of(
        streamed_bytes=streamed_bytes,
        reading_ms=reading_ms,
        execution_ms=execution_ms,
        stall_ms=stall_ms,
        latency_ms=latency_ms,
    )
    fraction = stall_ms / latency_ms
    overlap = max(0.0, 1 - stall_ms / reading_ms)
    report = a_report(
        verdict=verdict,
        streamed_bytes=streamed_bytes,
        ring_bytes=streamed_bytes,
        reading_ms=reading_ms,
        execution_ms=execution_ms,
        latency_ms=summarise([latency_ms]),
        stall_ms=stall_ms,
        stall_fraction=fraction,
        overlap_fraction=overlap,
        advice=Advice(predicted, budget_bytes, {"int8": MIB}) if streamed_bytes else None,
    )
    assert list(contradictions(report)) == []
    assert (verdict == "not swapped") == (streamed_bytes == 0)
    if streamed_bytes:
        assert (verdict == "storage-bound") == (reading_ms >= execution_ms)


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "compute-bound", "stall_ms": 30.0, "stall_fraction": 0.3},
        {"verdict": "latency-bound"},
        {"verdict": "not swapped"},
        {"stall_fraction": 0.5},
    ],
)
def test_contradictions_are_found(fields: dict[str, object]) -> None:
    assert list(contradictions(a_report())) == []
    assert list(contradictions(a_report(**fields)))


def test_a_verdict_says_against_what_it_is() -> None:
    assert "the unswapped model 95.0 ms" in as_text(a_report())
    assert "the model in memory 95.0 ms" in as_text(a_report(unswapped_ms=None))


def test_advice_has_the_numbers_of_the_planner() -> None:
    waiting = {"verdict": "latency-bound", "stall_ms": 30.0, "stall_fraction": 0.3}
    advice = Advice(0.25, 96 * MIB, {"fp16": 10 * MIB, "int8": 0})
    said = as_text(a_report(**waiting, advice=advice))
    assert "The plan waits at most 5% from 96MiB on." in said
    assert "Streamed would be about 10MiB in fp16, nothing in int8." in said
    none = as_text(a_report(**waiting, advice=Advice(0.25, None, {})))
    assert "No budget below 200MiB is predicted to wait less than 5%." in none
    steady = as_text(a_report(**waiting, advice=Advice(0.01, 48 * MIB, {})))
    assert "The plan predicts 1.0%: storage is slower" in steady
    assert "from 48MiB on" in as_text(a_report())


def test_a_chosen_budget_says_why() -> None:
    said = dict(labelled_lines(a_report(budget="auto")))["Budget"]
    assert said.startswith("64MiB (auto: the smallest found that is predicted to lose")


@pytest.fixture
def manifest(simulated: Simulated) -> Manifest:
    return simulated([1 << 20] * 6)[1]


def test_the_budget_found_waits_little_and_a_smaller_one_more(manifest: Manifest) -> None:
    profile = assumed_profile(manifest)
    delays = scaled(profile, 12.0, 1.2e9)
    smallest, whole = smallest_budget(manifest)[0], demand(manifest).total_bytes
    plan = make_plan(manifest, profile, smallest)
    found = advise(manifest, profile, delays, plan)
    assert found.predicted_stall > LARGEST_STALL
    assert found.budget_bytes is not None
    assert smallest < found.budget_bytes < whole
    better = make_plan(manifest, profile, found.budget_bytes)
    assert advise(manifest, profile, delays, better).predicted_stall <= LARGEST_STALL
    assert found.streamed_bytes["int8"] <= found.streamed_bytes["fp16"] < plan.streamed_bytes


def test_a_plan_that_waits_is_advised_larger_budgets_only(manifest: Manifest) -> None:
    profile = assumed_profile(manifest)
    delays = scaled(profile, 12.0, 1.2e9)
    smallest = smallest_budget(manifest)[0]
    enough = advise(manifest, profile, delays, make_plan(manifest, profile, smallest)).budget_bytes
    assert enough is not None
    budget_bytes = (enough + demand(manifest).total_bytes) // 2
    plan = make_plan(manifest, profile, budget_bytes, PlanOptions(resident=False, cyclic=False))
    found = advise(manifest, profile, delays, plan)
    assert found.predicted_stall > LARGEST_STALL
    assert found.budget_bytes is None or found.budget_bytes > budget_bytes


def test_no_budget_is_found_where_storage_is_far_too_slow(manifest: Manifest) -> None:
    profile = assumed_profile(manifest)
    plan = make_plan(manifest, profile, smallest_budget(manifest)[0])
    assert advise(manifest, profile, scaled(profile, 1.0, 1e3), plan).budget_bytes is None


def test_int8_can_get_no_smaller(manifest: Manifest) -> None:
    manifest = msgspec.structs.replace(manifest, precision="int8")
    profile = assumed_profile(manifest)
    plan = make_plan(manifest, profile, smallest_budget(manifest)[0])
    assert advise(manifest, profile, profile, plan).streamed_bytes == {}
