"""The pipeline on a simulated GPU: order, overlap, and every way to forget one of its waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import BackendError, StorageError
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.backends.gpu import GpuBackend
from swapnet.executor.gpu.accelerator import MemoryKind
from swapnet.executor.gpu.clock import GpuMark
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.gpu.staging import StagedLoader
from swapnet.executor.planning.layout import lay_out_values
from swapnet.executor.planning.plan import Plan, PlanOptions, Read
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.swapping.loading import Loader, load_once, pieces
from swapnet.executor.swapping.moments import Mark, Passed
from swapnet.executor.swapping.pipeline import Pipeline
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from swapnet.testing.engine import SimulatedBackend, block_byte
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.profiles import with_requests
from tests.helpers.simulated_storage import SimulatedStorage

PAGE = 4096
MakeManifest = Callable[..., Manifest]


@dataclass
class Rig:
    """A pipeline on a simulated GPU; inferences follow each other without waiting."""

    manifest: Manifest
    plan: Plan
    gpu: SimulatedAccelerator
    kind: MemoryKind = MemoryKind.DEVICE
    failing: Sequence[int] = ()
    wrap: Callable[[Loader], Loader] = lambda loader: loader
    follows: bool = True
    marks: list[GpuMark] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = GpuBackend(self.manifest, self.gpu, self.kind)
        self.arena = self.backend.arena(self.plan.arena_bytes)
        self.storage = SimulatedStorage(self.manifest, failing=self.failing)
        quiet = SimulatedStorage(self.manifest)
        resident = self.backend.loader(quiet, self.arena, self.plan, None)
        for block, place in enumerate(self.plan.places):
            if place.resident:
                load_once(resident, list(pieces(block, place, resident.largest_bytes)))
        self.loader = self.wrap(
            self.backend.loader(self.storage, self.arena, self.plan, self.poison)
        )
        self.pipeline = Pipeline(self.plan, self.loader)
        layout = lay_out_values(self.manifest)
        self.values = self.gpu.allocate(MemoryKind.DEVICE, layout.nbytes)
        bindings = Bindings(
            {
                (block.index, block.weights[0].name): self.arena.address + place.offset
                for block, place in zip(self.manifest.blocks, self.plan.places, strict=True)
            },
            {name: self.values.address + offset for name, offset in layout.offsets.items()},
        )
        self.segments: Sequence[Segment] = SimulatedBackend(self.manifest).segments(
            self.plan.steps, bindings
        )
        self.pipeline.start()

    def poison(self, read: Read) -> None:
        self.arena.fill(read.arena_offset, read.nbytes, 0xFF)

    def infer(self, lap: int) -> dict[str, Any]:
        """Enqueue one inference of input 0."""
        given, results = {"x": np.zeros(1)}, {"y": np.zeros(1)}
        compute = self.backend._compute
        for index, segment in enumerate(self.segments):
            arrival = self.pipeline.wait(lap, index)
            if self.follows:
                self.backend.follow(arrival.marks)
            self.marks.append(self.backend.mark())
            compute.call(lambda _, run=segment.run: run(given, results))  # type: ignore[misc]
            self.marks.append(self.backend.mark())
            self.pipeline.done(self.marks[-1])
        return results

    def laps(self, count: int) -> None:
        """So many inferences, each with the right answer."""
        expected = sum(block_byte(block.index) for block in self.manifest.blocks)
        results = [self.infer(lap) for lap in range(count)]
        self.backend.synchronize()
        assert [float(result["y"][0]) for result in results] == [expected] * count

    def close(self) -> None:
        self.pipeline.close()
        self.loader.close()


def plan_of(manifest: Manifest, spare: int, *, readers: int = 2, **options: Any) -> Plan:
    budget = smallest_budget(manifest)[0] + spare
    profile = with_requests(assumed_profile(manifest), PAGE, readers)
    return make_plan(manifest, profile, budget, PlanOptions(merge=False, **options))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4 * PAGE), min_size=1, max_size=7),
    share=st.floats(0, 1),
    resident=st.booleans(),
    cyclic=st.booleans(),
    readers=st.integers(1, 4),
    kind=st.sampled_from([MemoryKind.DEVICE, MemoryKind.MANAGED, MemoryKind.MAPPED]),
    seed=st.integers(0, 1 << 30),
)
def test_every_block_has_its_bytes_in_any_order_of_work(
    simulated_manifest: MakeManifest,
    sizes: list[int],
    share: float,
    resident: bool,
    cyclic: bool,
    readers: int,
    kind: MemoryKind,
    seed: int,
) -> None:
    manifest = simulated_manifest(sizes)
    spare = int(share * manifest.swappable_bytes)
    plan = plan_of(manifest, spare, resident=resident, cyclic=cyclic, readers=readers)
    rig = Rig(manifest, plan, SimulatedAccelerator(seed), kind)
    try:
        rig.laps(4)
        rig.pipeline.restart()
        rig.laps(2)
    finally:
        rig.close()


@dataclass(frozen=True)
class _Ended:
    """The mark of a step, counted over all inferences."""

    step: int
    time: float = 0.0

    def wait(self) -> None: ...


@dataclass
class _Noting:
    """A loader that notes what each request waits for."""

    noted: list[tuple[Read, Mark | None]] = field(default_factory=list)
    largest_bytes: int = PAGE

    def load(self, read: Read, after: Mark | None) -> Mark:
        self.noted.append((read, after))
        return Passed()

    def reset(self) -> None: ...

    def close(self) -> None: ...


def test_a_read_waits_for_all_that_lay_where_it_goes(simulated_manifest: MakeManifest) -> None:
    """Requests of two readers may be enqueued in either order: each has to name all it needs."""
    manifest = simulated_manifest([1] * 7)
    spare = int(0.33 * manifest.swappable_bytes)
    plan = plan_of(manifest, spare, resident=False, readers=1)
    steps, reads = len(plan.steps), len(plan.reads)
    assert steps == reads == 7
    loader = _Noting()
    pipeline = Pipeline(plan, loader)
    pipeline.start()
    for number in range(3 * steps):
        pipeline.wait(*divmod(number, steps))
        pipeline.done(_Ended(number))
    pipeline.close()
    for number, (read, after) in enumerate(loader.noted):
        before = [n for n in range(number) if loader.noted[n][0].arena_offset == read.arena_offset]
        if before:
            assert isinstance(after, _Ended)
            assert after.step >= max(before)
    assert len(loader.noted) > 2 * reads


class _Unordered:
    """A loader that forgets what still executes."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.largest_bytes = loader.largest_bytes

    def load(self, read: Read, after: Mark | None) -> Mark:
        return self._loader.load(read, None)

    def reset(self) -> None:
        self._loader.reset()

    def close(self) -> None:
        self._loader.close()


class _Unmarked(_Unordered):
    """A loader whose copies nobody waits for."""

    def load(self, read: Read, after: Mark | None) -> Mark:
        self._loader.load(read, after)
        return Passed()


class _Hasty(StagedLoader):
    """Uses a slot again though the copy from it may not have begun."""

    def load(self, read: Read, after: Mark | None) -> Mark:
        for _ in range(self._slots.qsize()):
            slot = self._slots.get()
            self._slots.put(replace(slot, copied=None))
        return super().load(read, after)


def errors(manifest: Manifest, **options: Any) -> list[str]:
    """What goes wrong, of twelve seeds."""
    found: list[str] = []
    for seed in range(12):
        plan = plan_of(manifest, 2 * PAGE, resident=False)
        rig = Rig(manifest, plan, SimulatedAccelerator(seed), **options)
        try:
            rig.laps(3)
        except BackendError as error:
            found.append(str(error))
        finally:
            rig.close()
    return found


@pytest.mark.parametrize(
    "options",
    [{"wrap": _Unordered}, {"wrap": _Unmarked}, {"follows": False}],
    ids=["copies do not wait", "nobody waits for copies", "kernels do not wait"],
)
def test_a_wait_that_is_forgotten_is_found(
    simulated_manifest: MakeManifest, options: dict[str, Any]
) -> None:
    """Copies overtake kernels, or kernels copies."""
    found = errors(simulated_manifest([2 * PAGE] * 5), **options)
    assert len(found) >= 6
    assert all("ran without its weights" in error for error in found)


def test_a_slot_that_is_used_too_early_is_found(
    simulated_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = simulated_manifest([2 * PAGE] * 5)
    assert errors(manifest) == []
    monkeypatch.setattr("swapnet.executor.backends.gpu.StagedLoader", _Hasty)
    assert len(errors(manifest)) >= 6


@pytest.mark.parametrize(("copy_ms", "call_ms"), [(2.0, 3.0), (3.0, 2.0), (1.0, 1.0)])
def test_copies_hide_behind_execution_in_virtual_time(
    simulated_manifest: MakeManifest, copy_ms: float, call_ms: float
) -> None:
    """With two places the slower side alone sets the pace."""
    count, laps = 6, 4
    manifest = simulated_manifest([PAGE] * count)
    gpu = SimulatedAccelerator(copy_bytes_per_ms=PAGE / copy_ms, call_ms=[call_ms])
    rig = Rig(manifest, plan_of(manifest, 3 * PAGE, resident=False, readers=1), gpu)
    try:
        rig.laps(laps)
    finally:
        rig.close()
    steps = count * laps
    took_ms = rig.marks[-1].event.ms_since(rig.marks[0].event) + copy_ms
    assert took_ms <= max(copy_ms, call_ms) * steps + copy_ms + call_ms
    assert took_ms < 0.8 * (copy_ms + call_ms) * steps
    starts, ends = rig.marks[::2], rig.marks[1::2]
    assert all(later.time >= earlier.time for earlier, later in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("number", [0, 4, 11])
@pytest.mark.parametrize("kind", [MemoryKind.DEVICE, MemoryKind.MANAGED])
def test_a_failing_request_names_its_block(
    simulated_manifest: MakeManifest, number: int, kind: MemoryKind
) -> None:
    manifest = simulated_manifest([PAGE] * 6)
    plan = plan_of(manifest, PAGE, resident=False, readers=1)
    rig = Rig(manifest, plan, SimulatedAccelerator(), kind, failing=[number])
    with pytest.raises(StorageError, match=f"block {number % 6} could not be read"):
        rig.laps(3)
    rig.backend.synchronize()
    rig.pipeline.restart()
    rig.laps(3)
    rig.close()


def test_gpu_memory_is_not_resized_or_moved() -> None:
    gpu = SimulatedAccelerator()
    arena = GpuArena(gpu, MemoryKind.DEVICE, PAGE, gpu.stream())
    arena.resize(PAGE)
    arena.move(8, 8, 4)
    with pytest.raises(BufferError, match="can't become"):
        arena.resize(2 * PAGE)
    with pytest.raises(BufferError, match="stay at 8"):
        arena.move(8, 9, 4)
    arena.discard()
    assert gpu.free_bytes() == gpu.attributes.total_bytes
