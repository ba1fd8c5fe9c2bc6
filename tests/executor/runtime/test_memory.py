from __future__ import annotations

from swapnet.executor.planning.usage import demand, usage
from swapnet.executor.runtime.memory import is_interruptible, scratch_bytes, together
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
    assert not is_interruptible(engine("dynamic").manifest)
