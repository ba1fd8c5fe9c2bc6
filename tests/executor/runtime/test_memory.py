from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swapnet.executor.planning.usage import demand, least_weights_bytes, usage
from swapnet.executor.runtime import memory
from swapnet.executor.runtime.memory import (
    is_interruptible,
    merging,
    most_scratch_bytes,
    other_bytes,
    scratch_bytes,
    together,
)
from tests.helpers.engines import BuildToy


def test_scratch_memory_counts_once_for_each_lane(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "dynamic")]
    sizes = sorted((usage(one).scratch_bytes for one in manifests), reverse=True)
    assert [scratch_bytes(manifests, lanes=n) for n in (1, 2, 3, 4)] == [
        sizes[0],
        sum(sizes[:2]),
        sum(sizes),
        sum(sizes),
    ]
    assert scratch_bytes([]) == 0


def test_weights_are_those_of_all(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "lookups")]
    assert together(manifests).weights_bytes == sum(demand(m).weights_bytes for m in manifests)


def test_another_engine_never_needs_less(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("used-twice", "images", "transformer")]
    sizes = [together(manifests[:count]).other_bytes for count in range(4)]
    assert sizes == sorted(sizes)
    kept = usage(manifests[2])
    assert sizes[3] - sizes[2] >= kept.values_bytes + kept.io_bytes + kept.process_bytes


def test_values_of_unknown_size_are_not_interrupted(engine: BuildToy) -> None:
    assert is_interruptible(engine("used-twice").manifest)
    manifest = engine("dynamic").manifest
    assert is_interruptible(manifest)
    assert not is_interruptible(msgspec.structs.replace(manifest, formulas={}))


def test_the_smallest_budget_is_that_of_single_blocks(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "transformer")]
    demand = together(manifests)
    apart = scratch_bytes(manifests, merged=False)
    weights = sum(map(least_weights_bytes, manifests))
    assert demand.smallest_bytes == other_bytes(manifests, apart) + weights
    assert demand.other_bytes == other_bytes(manifests, scratch_bytes(manifests))
    most = most_scratch_bytes(manifests, demand.smallest_bytes + (1 << 20))
    assert 0 <= demand.smallest_bytes + (1 << 20) - weights - other_bytes(manifests, most) < 8192
    assert most_scratch_bytes(manifests, 0) == 0


@pytest.mark.parametrize(
    ("limit_bytes", "lanes", "expected"),
    [
        (20, 1, [False, True, True]),
        (99, 1, [False, True, True]),
        (100, 1, [True, True, True]),
        (30, 2, [False, False, True]),
        (38, 2, [False, True, True]),
        (117, 2, [False, True, True]),
        (118, 2, [True, True, True]),
    ],
)
def test_steps_have_several_blocks_where_scratch_memory_allows_it(
    monkeypatch: pytest.MonkeyPatch, limit_bytes: int, lanes: int, expected: list[bool]
) -> None:
    """By needs: one block 20, 10 and 4; several 100, 18 and 4."""
    needs: dict[Any, tuple[int, int]] = {"a": (20, 100), "b": (10, 18), "c": (4, 4)}

    def used(name: Any, *, merged: bool = True) -> Any:
        return SimpleNamespace(scratch_bytes=needs[name][merged])

    monkeypatch.setattr(memory, "usage", used)
    assert merging(list(needs), limit_bytes, lanes=lanes) == expected
