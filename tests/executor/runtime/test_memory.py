from __future__ import annotations

import msgspec

from swapnet.executor.backends.onnxruntime import names_shapes
from swapnet.executor.planning.layout import lay_out_values
from swapnet.executor.planning.usage import demand, least_weights_bytes, usage
from swapnet.executor.runtime.memory import (
    is_interruptible,
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
    assert is_interruptible(manifest) == names_shapes()
    assert not is_interruptible(msgspec.structs.replace(manifest, formulas={}))


def test_the_smallest_budget_has_the_weights_of_one_block_each(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "transformer")]
    demand = together(manifests)
    weights = sum(map(least_weights_bytes, manifests))
    assert demand.other_bytes == other_bytes(manifests, scratch_bytes(manifests))
    assert demand.smallest_bytes == demand.other_bytes + weights
    most = most_scratch_bytes(manifests, demand.smallest_bytes + (1 << 20))
    assert 0 <= demand.smallest_bytes + (1 << 20) - weights - other_bytes(manifests, most) < 8192
    assert most_scratch_bytes(manifests, 0) == 0


def test_values_inside_blocks_share_memory_where_one_step_runs_at_a_time(
    engine: BuildToy,
) -> None:
    manifests = [engine(name).manifest for name in ("images", "computed-indices")]
    inside = [lay_out_values(manifest, inside=True).nbytes for manifest in manifests]
    crossing = [lay_out_values(manifest, inside=False).nbytes for manifest in manifests]
    both = [lay_out_values(manifest).nbytes for manifest in manifests]
    assert all(inside)
    shared, apart = other_bytes(manifests, 0), other_bytes(manifests, 0, lanes=2)
    assert apart - shared == sum(both) - sum(crossing) - max(inside)
    alone = [other_bytes([manifest], 0) for manifest in manifests]
    assert shared == sum(alone) - min(inside)
