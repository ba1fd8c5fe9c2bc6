"""Reads for many: the most urgent one first, and none stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from swapnet.errors import StorageError
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.runtime.model import Urgencies
from swapnet.executor.runtime.rates import RateMeter
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import DirectLoader
from swapnet.executor.swapping.moments import Passed
from swapnet.executor.swapping.pipeline import Pipeline, Urgency
from swapnet.executor.swapping.readers import Channel, Rank
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from swapnet.testing.engine import SimulatedStorage
from tests.helpers.profiles import with_requests
from tests.helpers.threads import LIMIT_S, ended, started

PAGE = 4096
MakeManifest = Callable[..., Manifest]
Until = Callable[[Callable[[], bool]], None]


class Reads:
    """Reads with names; those that are blocked wait for `go`."""

    def __init__(self, name: str, rank: Rank | None, count: int, log: list[str]) -> None:
        self.name = name
        self.urgency = rank
        self.left = count
        self.log = log
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def rank(self) -> Rank | None:
        return self.urgency if self.left else None

    def claim(self) -> Callable[[], None]:
        self.left -= 1
        self.log.append(self.name)
        return self.read

    def read(self) -> None:
        self.begun.set()
        self.go.wait()


def occupied(channel: Channel, log: list[str]) -> Reads:
    """A read under way that keeps the one reader."""
    first = Reads("first", (0.0,), 1, log)
    first.go.clear()
    channel.attach(first)
    assert first.begun.wait(LIMIT_S)
    return first


def test_the_most_urgent_source_is_read_first(until: Until) -> None:
    log: list[str] = []
    channel = Channel(1)
    first = occupied(channel, log)
    for name, rank in (("idle", (1.0, 3.0)), ("soon", (1.0, 2.0)), ("late", (0.0, 8.0, 1.0))):
        channel.attach(Reads(name, rank, 2, log))
    channel.attach(Reads("early", (0.0, 7.0, 9.0), 2, log))
    channel.attach(Reads("never", None, 2, log))
    first.go.set()
    until(lambda: len(log) == 9)
    ended(channel.close)
    ordered = ["early", "late", "soon", "idle"]
    assert log == ["first", *(name for name in ordered for _ in range(2))]


def test_ranks_are_those_of_the_moment(until: Until) -> None:
    log: list[str] = []
    channel = Channel(1)
    first = occupied(channel, log)
    one, other = Reads("one", (1.0,), 1, log), Reads("other", (2.0,), 1, log)
    channel.attach(one)
    channel.attach(other)
    other.urgency = (0.5,)
    first.go.set()
    until(lambda: len(log) == 3)
    ended(channel.close)
    assert log[1:] == ["other", "one"]


def test_a_source_wakes_the_readers(until: Until) -> None:
    log: list[str] = []
    channel = Channel(2)
    source = Reads("late", None, 2, log)
    channel.attach(source)
    with channel.changed:
        source.urgency = (0.0,)
        channel.changed.notify_all()
    until(lambda: source.left == 0)
    ended(channel.close)


def test_several_reads_are_in_flight() -> None:
    log: list[str] = []
    channel = Channel(3)
    sources = [Reads(str(index), (0.0,), 1, log) for index in range(3)]
    for source in sources:
        source.go.clear()
        channel.attach(source)
    for source in sources:
        assert source.begun.wait(LIMIT_S)
    for source in sources:
        source.go.set()
    ended(channel.close)


def test_a_detached_source_is_not_read() -> None:
    log: list[str] = []
    channel = Channel(1)
    first = occupied(channel, log)
    gone = Reads("gone", (0.0,), 1, log)
    channel.attach(gone)
    channel.detach(gone)
    first.go.set()
    ended(channel.close)
    assert log == ["first"]


def test_closing_waits_for_reads_in_flight(until: Until) -> None:
    before = threading.active_count()
    log: list[str] = []
    channel = Channel(2)
    first = occupied(channel, log)
    closing = started(channel.close)
    until(lambda: channel._closed)
    assert not closing.done()
    first.go.set()
    closing.result(LIMIT_S)
    ended(channel.close)
    until(lambda: threading.active_count() <= before)


# Pipelines on one channel


def streaming(manifest: Manifest) -> Plan:
    budget = smallest_budget(manifest)[0] + 3 * PAGE
    profile = with_requests(assumed_profile(manifest), PAGE, 1)
    return make_plan(manifest, profile, budget, PlanOptions(resident=False, merge=False))


def piped(
    manifest: Manifest, storage: SimulatedStorage, channel: Channel, urgency: Urgency
) -> Pipeline:
    plan = streaming(manifest)
    return Pipeline(plan, DirectLoader(storage, Arena(plan.arena_bytes)), channel, urgency=urgency)


def lap(pipeline: Pipeline, number: int, steps: int) -> None:
    for step in range(steps):
        pipeline.wait(number, step)
        pipeline.done(Passed())


def test_a_failing_read_does_not_stop_the_others(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 6)
    channel = Channel(2)
    broken = piped(manifest, SimulatedStorage(manifest, failing=range(100)), channel, lambda _: ())
    healthy = piped(manifest, SimulatedStorage(manifest), channel, lambda _: (1.0,))
    broken.start()
    healthy.start()

    def infer() -> None:
        with pytest.raises(StorageError, match="could not be read"):
            broken.wait(0, 0)
        for number in range(3):
            lap(healthy, number, 6)
        broken.restart()
        with pytest.raises(StorageError, match="could not be read"):
            broken.wait(0, 0)
        broken.close()
        lap(healthy, 3, 6)
        healthy.close()
        channel.close()

    ended(infer)
    assert not channel._sources
    assert healthy.read_bytes >= 4 * 6 * PAGE


def test_urgency_counts_from_the_inference_that_comes_next(
    simulated_manifest: MakeManifest, until: Until
) -> None:
    """While an inference runs its reads are 0 ahead, those for the next one are 1 ahead."""
    manifest = simulated_manifest([PAGE] * 6)
    asked: list[int] = []

    def urgency(ahead: int) -> Rank:
        asked.append(ahead)
        return (float(ahead),)

    channel = Channel(1)
    pipeline = piped(manifest, SimulatedStorage(manifest), channel, urgency)
    pipeline.start()
    until(lambda: pipeline.has_arrived(0, 0))
    assert set(asked) == {0}
    for number in range(3):
        asked.clear()
        ended(partial(lap, pipeline, number, 5))
        ended(partial(pipeline.wait, number, 5))
        until(lambda: set(asked) == {0, 1})
        pipeline.done(Passed())
    ended(pipeline.close)
    ended(channel.close)


def test_requests_come_before_prefetching_for_whoever_is_asked_next() -> None:
    """Somebody waits; then by when the next request is expected; of nothing known, last."""
    often, seldom, never = (Urgencies(RateMeter(rate)) for rate in (10.0, 0.1, 0.0))
    asked = Urgencies(RateMeter(0.0))
    asked.pending = ((5.0, 0.0, 1.0), (6.0, 0.0, 2.0))
    ranks = [
        urgency(ahead)
        for urgency, ahead in ((asked, 0), (asked, 1), (often, 0), (seldom, 0), (never, 0))
    ]
    assert ranks == sorted(ranks)
    assert asked(2) > often(0)
    assert often(0)[:1] < never(0)
    assert often(0)[2] < often(1)[2]


def test_a_pipeline_of_its_own_closes_its_channel(
    simulated_manifest: MakeManifest, until: Until
) -> None:
    before = threading.active_count()
    manifest = simulated_manifest([PAGE] * 4)
    plan = streaming(manifest)
    pipeline = Pipeline(plan, DirectLoader(SimulatedStorage(manifest), Arena(plan.arena_bytes)))
    pipeline.start()
    ended(lambda: lap(pipeline, 0, 4))
    ended(pipeline.close)
    ended(pipeline.close)
    until(lambda: threading.active_count() <= before)
