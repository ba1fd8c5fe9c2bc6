"""The budget ``auto`` is the smallest that is predicted to wait little."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from swapnet.budget import Budget
from swapnet.errors import InputError
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.auto import LARGEST_STALL, auto_bytes, auto_words, predicted_stall
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import Profile, assumed_profile

AUTO = Budget.parse("auto")


@pytest.fixture
def manifest(simulated_manifest: Callable[..., Manifest]) -> Manifest:
    return simulated_manifest([1 << 20] * 12)


def measured(manifest: Manifest, bytes_per_s: float) -> Profile:
    """Delays as if they had been measured, with storage of this bandwidth and no latency."""
    profile = assumed_profile(manifest)
    storage = msgspec.structs.replace(
        profile.storage, latency_ms=0.0, bytes_per_s=bytes_per_s, busy_bytes_per_s=bytes_per_s
    )
    return msgspec.structs.replace(profile, device="here", storage=storage)


def stall(manifest: Manifest, profile: Profile, nbytes: int) -> float:
    return predicted_stall(make_plan(manifest, profile, nbytes), profile)


def test_it_waits_little_and_smaller_budgets_more(manifest: Manifest) -> None:
    profile = measured(manifest, 1e9)
    smallest, whole = smallest_budget(manifest)[0], demand(manifest).total_bytes
    found = admitted_bytes(AUTO, manifest, profile=profile)
    assert smallest < found < whole
    assert stall(manifest, profile, found) <= LARGEST_STALL
    assert stall(manifest, profile, found - (whole - smallest) // 64 - 1) > LARGEST_STALL
    assert "smallest found" in auto_words(found, whole)


def test_fast_storage_needs_the_smallest_and_slow_one_all(manifest: Manifest) -> None:
    whole = demand(manifest).total_bytes
    fast, slow = (auto_bytes(manifest, measured(manifest, speed)) for speed in (1e12, 1e3))
    assert (fast, slow) == (smallest_budget(manifest)[0], whole)
    assert auto_words(slow, whole).startswith("auto: all of it")


def test_restrictions_of_the_plan_count(manifest: Manifest) -> None:
    profile = measured(manifest, 1e9)
    restricted = PlanOptions(resident=False, cyclic=False)
    assert auto_bytes(manifest, profile, restricted) > auto_bytes(manifest, profile)


def test_it_is_refused_without_delays(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="needs measured delays") as caught:
        admitted_bytes(AUTO, manifest, profile=assumed_profile(manifest))
    assert "swapnet measure" in caught.value.hint
    with pytest.raises(InputError, match="is not for this"):
        admitted_bytes(AUTO, manifest)
