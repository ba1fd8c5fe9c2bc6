"""The pipeline's threads, with simulated delays: every request and step at its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import BackendError, StorageError, SwapnetError
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.planning.layout import lay_out_values
from swapnet.executor.planning.plan import Plan, PlanOptions, Read
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.timeline import predict
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import READERS, DirectLoader, load_once, loading
from swapnet.executor.swapping.moments import Passed
from swapnet.executor.swapping.pipeline import Pipeline
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from swapnet.testing.engine import SimulatedBackend, block_byte
from tests.helpers.profiles import delays, with_requests
from tests.helpers.simulated_storage import SimulatedStorage, VirtualClock

PAGE = 4096
MakeManifest = Callable[..., Manifest]


@dataclass
class Rig:
    """A pipeline and a simulated device around one plan."""

    manifest: Manifest
    plan: Plan
    storage: SimulatedStorage
    pipeline: Pipeline
    segments: Sequence[Segment]
    values: Arena
    """Segments know its address only."""

    def infer(self, lap: int) -> float:
        """One inference of input 0; every block adds its byte."""
        given: dict[str, Any] = {"x": np.zeros(1)}
        results = {"y": np.zeros(1)}
        for index, segment in enumerate(self.segments):
            self.pipeline.wait(lap, index)
            segment.run(given, results)
            self.pipeline.done(Passed())
        return float(results["y"][0])

    def laps(self, count: int) -> None:
        """So many inferences, each with the right answer."""
        expected = sum(block_byte(block.index) for block in self.manifest.blocks)
        assert [self.infer(lap) for lap in range(count)] == [expected] * count


def make_rig(
    manifest: Manifest,
    plan: Plan,
    clock: VirtualClock | None = None,
    *,
    failing: Sequence[int] = (),
    poison: bool = True,
) -> Rig:
    arena = Arena(plan.arena_bytes)
    layout = lay_out_values(manifest)
    values = Arena(layout.nbytes)
    kept = [
        Read(block.index, block.extent.offset, place.offset, place.nbytes, 0, place.nbytes)
        for block, place in zip(manifest.blocks, plan.places, strict=True)
        if place.resident
    ]
    load_once(DirectLoader(SimulatedStorage(manifest), arena), kept)
    storage = SimulatedStorage(manifest, clock, failing)

    def overwrite(read: Read) -> None:
        arena.fill(read.arena_offset, read.nbytes, 0xFF)

    before_read = overwrite if poison else None
    pipeline = Pipeline(plan, DirectLoader(storage, arena, before_read=before_read))
    bindings = Bindings(
        {
            (block.index, block.weights[0].name): arena.address + place.offset
            for block, place in zip(manifest.blocks, plan.places, strict=True)
        },
        {name: values.address + offset for name, offset in layout.offsets.items()},
    )
    backend = SimulatedBackend(manifest, None if clock is None else clock.step)
    segments = backend.segments(plan.steps, bindings)
    pipeline.start()
    return Rig(manifest, plan, storage, pipeline, segments, values)


def streaming_plan(manifest: Manifest, spare_bytes: int = 0, readers: int = 3) -> Plan:
    """The smallest ring, or one a little larger; nothing is resident."""
    budget = smallest_budget(manifest)[0] + spare_bytes
    profile = with_requests(assumed_profile(manifest), PAGE, readers)
    return make_plan(manifest, profile, budget, PlanOptions(resident=False, merge=False))


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.integers(1, 6 * PAGE), st.floats(0.001, 0.1)), min_size=1, max_size=8
    ),
    share=st.floats(0, 1),
    options=st.builds(
        PlanOptions, resident=st.booleans(), cyclic=st.booleans(), merge=st.booleans()
    ),
    request_bytes=st.sampled_from([PAGE, 2 * PAGE, 64 * PAGE]),
    readers=st.integers(1, 4),
)
def test_takes_the_time_that_was_predicted(
    simulated_manifest: MakeManifest,
    blocks: list[tuple[int, float]],
    share: float,
    options: PlanOptions,
    request_bytes: int,
    readers: int,
) -> None:
    manifest = simulated_manifest([nbytes for nbytes, _ in blocks])
    profile = delays(manifest, [(ms, ms) for _, ms in blocks], step_ms=0.002)
    profile = with_requests(profile, request_bytes, readers)
    smallest = smallest_budget(manifest)[0]
    plan = make_plan(manifest, profile, smallest + int(share * manifest.swappable_bytes), options)
    clock = VirtualClock(plan, profile)
    rig = make_rig(manifest, plan, clock)
    predicted = predict(plan.steps, plan.reads, profile)
    try:
        rig.laps(6)
    finally:
        rig.pipeline.close()
    *_, before, last = clock.inference_ends_ms()
    assert last - before == pytest.approx(predicted.steady_ms, rel=1e-6)
    assert plan.predicted_ms == predicted.steady_ms


@pytest.mark.parametrize("number", [0, 1, 5, 11, 12, 23])
def test_a_failing_request_names_its_block(simulated_manifest: MakeManifest, number: int) -> None:
    """One request per block, in order, for there is one reader."""
    manifest = simulated_manifest([PAGE] * 12)
    rig = make_rig(manifest, streaming_plan(manifest, 3 * PAGE, readers=1), failing=[number])
    with pytest.raises(StorageError, match=f"block {number % 12} could not be read") as caught:
        rig.laps(3)
    assert f"request {number} fails" in caught.value.why
    rig.pipeline.restart()
    rig.laps(3)
    rig.pipeline.close()


def test_a_failing_segment_leaves_the_pipeline_usable(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 6)
    rig = make_rig(manifest, streaming_plan(manifest))
    rig.laps(1)
    rig.pipeline.wait(1, 0)
    rig.pipeline.restart()
    rig.laps(1)
    rig.pipeline.close()


@pytest.mark.parametrize("timed", [False, True])
def test_a_wrong_plan_is_caught(
    simulated_manifest: MakeManifest, until: Callable[[Callable[[], bool]], None], timed: bool
) -> None:
    """Requests overwrite places that are in use: the clock refuses them, or a block finds out."""
    manifest = simulated_manifest([PAGE] * 6)
    plan = streaming_plan(manifest, readers=1)
    wrong = replace(plan, reads=tuple(replace(read, after=-6) for read in plan.reads))
    clock = VirtualClock(plan, assumed_profile(manifest)) if timed else None
    rig = make_rig(manifest, wrong, clock, poison=False)
    until(lambda: rig.storage.requests == (2 if timed else 6))
    with pytest.raises(
        SwapnetError, match="step 0 has not ended" if timed else "without its weights"
    ):
        rig.infer(0)
    rig.pipeline.close()


def test_nothing_is_read_where_everything_is_resident(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 3)
    plan = make_plan(manifest, assumed_profile(manifest), 1 << 30)
    rig = make_rig(manifest, plan)
    rig.laps(3)
    assert rig.storage.requests == rig.pipeline.read_bytes == 0
    rig.pipeline.close()


def test_requests_are_recorded(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE, 3 * PAGE])
    plan = streaming_plan(manifest, readers=1)
    rig = make_rig(manifest, plan)
    rig.pipeline.start(trace=True)
    rig.pipeline.restart()
    rig.infer(0)
    rig.pipeline.close()
    events = rig.pipeline.take_events(0)
    assert [event.ahead for event in events[: len(plan.reads)]] == [0] * len(plan.reads)
    assert {event.ahead for event in events} <= {0, 1}
    assert {event.reader for event in events} == {0}
    assert {event.nbytes for event in events} == {PAGE}
    assert all(event.start <= event.end for event in events)


def test_what_is_kept_is_read_or_named(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE, PAGE])
    reads = [Read(index, index * PAGE, index * PAGE, PAGE, 0, PAGE) for index in range(2)]
    arena = Arena(2 * PAGE)
    load_once(DirectLoader(SimulatedStorage(manifest), arena), reads)
    assert set(arena.view(PAGE, PAGE)) == {block_byte(1)}
    with pytest.raises(StorageError, match=r"block [01] could not be read"):
        load_once(DirectLoader(SimulatedStorage(manifest, failing=[1]), arena), reads)


def test_what_is_read_beside_a_statement_is_there_at_its_end(
    simulated_manifest: MakeManifest,
) -> None:
    manifest = simulated_manifest([PAGE, PAGE])
    reads = [Read(index, index * PAGE, index * PAGE, PAGE, 0, PAGE) for index in range(2)]
    arena = Arena(2 * PAGE)
    with loading(DirectLoader(SimulatedStorage(manifest), arena), reads):
        pass
    assert [arena.view(read.arena_offset, 1)[0] for read in reads] == [block_byte(0), block_byte(1)]
    begun: list[int] = []
    failed = threading.Event()

    def note(read: Read) -> None:
        begun.append(read.block)
        assert failed.wait(20)

    many = [Read(0, 0, 0, PAGE, 0, PAGE)] * 20
    loader = DirectLoader(SimulatedStorage(manifest), arena, before_read=note)

    def fail() -> None:
        # Those in flight end after the statement has failed.
        threading.Timer(0.5, failed.set).start()
        raise BackendError("no session", why="", hint="")

    with pytest.raises(BackendError, match="no session"), loading(loader, many):
        fail()
    assert len(begun) <= READERS
