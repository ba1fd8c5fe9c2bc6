"""Threads that read, for one pipeline or for many: none stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from swapnet.errors import StorageError
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.runtime.dispatcher import Dispatcher, Port
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import DirectLoader
from swapnet.executor.swapping.moments import Passed
from swapnet.executor.swapping.pipeline import Order, Pipeline
from swapnet.executor.swapping.readers import Channel
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from tests.helpers.dispatched import serving
from tests.helpers.profiles import with_requests
from tests.helpers.simulated_storage import SimulatedStorage
from tests.helpers.threads import LIMIT_S, ended, started

PAGE = 4096
MakeManifest = Callable[..., Manifest]
Until = Callable[[Callable[[], bool]], None]


class Reads:
    """Puts reads with names; those that are blocked wait for `go`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.log: list[str] = []
        self.go = threading.Event()

    def put(self, name: str, *, blocked: bool = False) -> threading.Event:
        begun = threading.Event()

        def read() -> None:
            self.log.append(name)
            begun.set()
            if blocked:
                self.go.wait()

        self.channel.put(read)
        return begun


def test_reads_are_done_in_the_order_in_which_they_are_put() -> None:
    channel = Channel(1)
    reads = Reads(channel)
    assert reads.put("first", blocked=True).wait(LIMIT_S)
    last = [reads.put(name) for name in "abc"][-1]
    reads.go.set()
    assert last.wait(LIMIT_S)
    ended(channel.close)
    assert reads.log == ["first", "a", "b", "c"]


def test_several_reads_are_in_flight() -> None:
    channel = Channel(3)
    reads = Reads(channel)
    assert channel.busy_since() is None
    for begun in [reads.put(str(number), blocked=True) for number in range(3)]:
        assert begun.wait(LIMIT_S)
    with channel.lock:
        assert channel.busy_since() is not None
    reads.go.set()
    ended(channel.close)


def test_closing_waits_for_reads_in_flight(until: Until) -> None:
    before = threading.active_count()
    channel = Channel(2)
    reads = Reads(channel)
    assert reads.put("first", blocked=True).wait(LIMIT_S)
    closing = started(channel.close)
    assert not closing.done()
    reads.go.set()
    closing.result(LIMIT_S)
    ended(channel.close)
    until(lambda: threading.active_count() <= before)


# Pipelines on one channel


def streaming(manifest: Manifest) -> Plan:
    budget = smallest_budget(manifest)[0] + 3 * PAGE
    profile = with_requests(assumed_profile(manifest), PAGE, 1)
    return make_plan(manifest, profile, budget, PlanOptions(resident=False, merge=False))


def piped(manifest: Manifest, storage: SimulatedStorage, order: Order) -> Pipeline:
    plan = streaming(manifest)
    return Pipeline(plan, DirectLoader(storage, Arena(plan.arena_bytes)), order)


def lap(pipeline: Pipeline, port: Port, number: int) -> None:
    """An inference of six steps."""
    with serving(port):
        port.begin()
        for step in range(6):
            pipeline.wait(number, step)
            port.take()
            pipeline.done(Passed())
        port.leave()


def test_a_failing_read_does_not_stop_the_others(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 6)
    dispatcher = Dispatcher(readers=2)
    ports = [dispatcher.add(name, 1.0) for name in ("broken", "healthy")]
    broken = piped(manifest, SimulatedStorage(manifest, failing=range(100)), ports[0])
    healthy = piped(manifest, SimulatedStorage(manifest), ports[1])
    broken.start()
    healthy.start()

    def infer() -> None:
        with pytest.raises(StorageError, match="could not be read"):
            broken.wait(0, 0)
        for number in range(3):
            lap(healthy, ports[1], number)
        broken.restart()
        with pytest.raises(StorageError, match="could not be read"):
            broken.wait(0, 0)
        broken.close()
        lap(healthy, ports[1], 3)
        healthy.close()
        dispatcher.close()

    ended(infer)
    assert healthy.read_bytes >= 4 * 6 * PAGE


def test_a_pipeline_of_its_own_closes_its_channel(
    simulated_manifest: MakeManifest, until: Until
) -> None:
    before = threading.active_count()
    manifest = simulated_manifest([PAGE] * 4)
    plan = streaming(manifest)
    pipeline = Pipeline(plan, DirectLoader(SimulatedStorage(manifest), Arena(plan.arena_bytes)))
    pipeline.start()
    for step in range(4):
        ended(partial(pipeline.wait, 0, step))
        pipeline.done(Passed())
    ended(pipeline.close)
    ended(pipeline.close)
    until(lambda: threading.active_count() <= before)
