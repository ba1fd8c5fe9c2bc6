"""The scheduler: examples of its rules, and all orders of events in small cases."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.runtime.policy import Job, Policy
from swapnet.executor.runtime.scheduler import Instruction, Scheduler


def told(scheduler: Scheduler, *events: str | tuple[Any, ...]) -> list[str]:
    """What events give together; ``"ended a 0"`` is one of model a and its plan 0."""
    given: list[Instruction] = []
    for event in events:
        if isinstance(event, str):
            event = tuple(int(word) if word.isdigit() else word for word in event.split())
        name, *facts = event
        given += getattr(scheduler, name)(*facts)
    return list(map(str, given))


def job(
    model: str,
    sequence: int,
    *,
    deadline_s: float = 1.0,
    at_s: float = 0.0,
    rows: int = 1,
    kind: str | None = None,
) -> Job:
    return Job(model, sequence, at_s, deadline_s, 1.0, 1.0, rows, kind)


def asked(model: str, sequence: int, **facts: Any) -> tuple[str, Job]:
    return "asked", job(model, sequence, **facts)


def resident(scheduler: Scheduler, *names: str, rows: int = 1) -> None:
    """Models with two steps, and nothing to read."""
    for name in names:
        told(scheduler, ("loaded", name, 0.0, 1.0, rows), ("planned", name, 0, (0, 0), ()))


def reading(scheduler: Scheduler, name: str, rate_per_s: float = 1.0) -> list[str]:
    """A model with one step, which has one read."""
    return told(scheduler, ("loaded", name, 0.0, rate_per_s), ("planned", name, 0, (1,), (-1,)))


def begun(scheduler: Scheduler, model: str, deadline_s: float) -> list[str]:
    """The first inference of a model, whose request has the number of its letter."""
    request = asked(model, ord(model) - ord("a"), deadline_s=deadline_s)
    return told(scheduler, request, f"began {model}")[1:]


# Compute


def test_an_earlier_deadline_overtakes_between_two_steps() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a", "b", "c")
    assert begun(scheduler, "a", 5.0) == ["step a"]
    assert begun(scheduler, "c", 9.0) == begun(scheduler, "b", 1.0) == []
    assert told(scheduler, "ended a 0") == ["step b"]
    assert told(scheduler, "ended b 0", "ended b 0") == ["step b"]
    assert told(scheduler, "left b") == ["step a"]
    assert told(scheduler, "ended a 0", "done a") == ["step c"]


def test_lanes_compute_beside_each_other() -> None:
    scheduler = Scheduler(lanes=2)
    resident(scheduler, "a", "b", "c")
    for name, deadline_s in (("a", 1.0), ("b", 2.0)):
        assert begun(scheduler, name, deadline_s) == [f"step {name}"]
    assert begun(scheduler, "c", 3.0) == []
    assert told(scheduler, "left a") == ["step c"]
    assert told(scheduler, "left a", "done b") == []
    assert begun(scheduler, "b", 9.0) == ["step b"], "a lane is given back once"
    assert begun(scheduler, "a", 9.0) == []


def test_a_model_that_can_not_be_interrupted_keeps_its_lane() -> None:
    scheduler = Scheduler()
    told(scheduler, ("loaded", "a", 0.0, 1.0, 1, True), ("planned", "a", 0, (1, 2), (-1, -1)))
    resident(scheduler, "b")
    assert begun(scheduler, "a", 9.0) == []
    assert told(scheduler, "landed a 0 0") == ["step a", "read a 1"]
    assert begun(scheduler, "b", 1.0) == []
    assert told(scheduler, "ended a 0") == [], "its bytes have not come"
    assert told(scheduler, "landed a 0 1")[0] == "step a"
    assert told(scheduler, "left a") == ["step b"]


def test_a_crowded_step_is_computed_alone() -> None:
    """After the steps of others have ended; the more urgent of two first."""
    scheduler = Scheduler(lanes=3)
    resident(scheduler, "a", "b", "c", "d")
    for name in "abc":
        begun(scheduler, name, 1.0 + ord(name))
    assert told(scheduler, "crowded b", "crowded a") == begun(scheduler, "d", 0.5) == []
    assert told(scheduler, "ended c 0") == ["step a"]
    assert told(scheduler, "ended a 0") == ["step b"]
    assert told(scheduler, "ended b 0") == ["step d", "step a", "step b"]


@pytest.mark.parametrize("last", ["left a", "done a", "unloaded a"])
@pytest.mark.parametrize("before", ["", "crowded a", "ended a 0"])
def test_an_inference_that_ends_waits_for_no_lane(before: str, last: str) -> None:
    """Computing, to be alone, or in line."""
    scheduler = Scheduler(lanes=2)
    resident(scheduler, "a", "b", "c")
    begun(scheduler, "b", 0.1)
    begun(scheduler, "a", 5.0)
    begun(scheduler, "c", 2.0)
    given = told(scheduler, *filter(None, [before]), last)
    assert given == ["step c"]
    assert told(scheduler, "left b", "left c") == []


# Requests and changes


def test_requests_of_one_kind_are_served_together() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a", rows=4)
    rows = [(1, "k"), (2, "k"), (2, "k"), (4, "k"), (1, "j"), (1, None), (1, None)]
    requests = [asked("a", n, rows=many, kind=kind) for n, (many, kind) in enumerate(rows)]
    assert told(scheduler, *requests) == ["serve a 0"]
    served = ["serve a 1 2", "serve a 3", "serve a 4", "serve a 5", "serve a 6"]
    assert told(scheduler, *["done a"] * 6) == served


def test_a_model_of_one_row_joins_nothing() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    requests = [asked("a", n, rows=rows, kind="k") for n, rows in enumerate((0, 0, 1))]
    assert told(scheduler, *requests, "done a", "done a") == ["serve a 0", "serve a 1", "serve a 2"]


def test_what_is_cancelled_is_not_served() -> None:
    """What has begun goes on."""
    scheduler = Scheduler()
    resident(scheduler, "a")
    assert told(scheduler, *(asked("a", n) for n in range(4))) == ["serve a 0"]
    assert told(scheduler, "cancelled a 0", "cancelled a 1", "cancelled a 3", "cancelled z 9") == []
    assert told(scheduler, "done a", "done a") == ["serve a 2"]


def test_nothing_is_read_for_what_is_cancelled() -> None:
    """The ring of b holds two inferences; the later request of c is read for before its second."""
    scheduler = Scheduler()
    told(scheduler, ("loaded", "b", 0.0, 1.0), ("planned", "b", 0, (1,), (-2,)))
    assert reading(scheduler, "c") == []
    told(scheduler, asked("b", 1, deadline_s=1.0), asked("b", 2, deadline_s=2.0))
    told(scheduler, asked("c", 3, deadline_s=3.0), "cancelled b 2")
    assert told(scheduler, "landed b 0 0") == ["read c 0"]


def test_changes_come_between_requests_and_before_those_that_wait() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    assert told(scheduler, asked("a", 1), asked("a", 2)) == ["serve a 1"]
    assert told(scheduler, "changing a", "changing a") == []
    assert told(scheduler, "suspended a") == ["change a"]
    assert told(scheduler, "done a") == ["change a"]
    assert told(scheduler, "done a", ("resumed", "a", 1, True), "changing a") == ["resume a 1"]
    assert told(scheduler, "done a") == ["change a"]
    assert told(scheduler, "done a", "done a") == ["serve a 2"]


def test_a_model_that_closes_finishes_what_has_come() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    told(scheduler, asked("a", 1), asked("a", 2))
    assert told(scheduler, "closing a", "done a", "done a") == ["serve a 2", "stop a"]
    assert told(scheduler, asked("a", 3)) == ["refuse a 3"]
    assert told(scheduler, "unloaded a") == []
    assert scheduler.rate_per_s("a", 0.0) == 0.0


def test_what_waits_for_memory_changes_first_and_then_goes_on() -> None:
    """Joined requests are one; news of a request that has ended is old."""
    scheduler = Scheduler()
    resident(scheduler, "a", rows=2)
    told(scheduler, asked("a", 0), asked("a", 1, kind="k"), asked("a", 2, kind="k"), "done a")
    assert told(scheduler, "suspended a", "changing a", "changing a") == ["change a"]
    assert told(scheduler, ("resumed", "a", 0, False), ("resumed", "gone", 2, True)) == []
    assert told(scheduler, ("resumed", "a", 2, True), ("resumed", "a", 2, False)) == []
    assert told(scheduler, "done a", "done a") == ["change a", "resume a 1 2"]
    assert told(scheduler, ("resumed", "a", 2, True)) == []
    assert told(scheduler, "suspended a") == []
    assert told(scheduler, ("resumed", "a", 1, False)) == ["abandon a 1 2"]


@pytest.mark.parametrize("events", [("closing a", "suspended a"), ("suspended a", "closing a")])
def test_a_model_that_closes_gives_up_what_waits_for_memory(events: tuple[str, ...]) -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    told(scheduler, asked("a", 1), asked("a", 2))
    assert told(scheduler, *events) == ["abandon a 1"]
    assert told(scheduler, ("resumed", "a", 1, True)) == []
    assert told(scheduler, "done a", "done a") == ["serve a 2", "stop a"]


def test_memory_that_came_before_the_end_is_used() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    told(scheduler, asked("a", 1), "suspended a", "changing a", ("resumed", "a", 1, True))
    assert told(scheduler, "closing a", "done a") == ["resume a 1"]


@pytest.mark.parametrize("wrong", [("loaded", "a", 0.0, 1.0), "began a", "ended a 0", "crowded a"])
def test_events_that_can_not_happen_are_refused(wrong: str) -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    with pytest.raises(ValueError, match="a"):
        told(scheduler, wrong)


def test_a_plan_stays_while_a_step_uses_its_memory() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    begun(scheduler, "a", 1.0)
    with pytest.raises(ValueError, match="no step of plan 7"):
        told(scheduler, "ended a 7")
    with pytest.raises(ValueError, match="a uses the memory of plan 0"):
        told(scheduler, ("planned", "a", 7, (0,), ()))


# Storage


def test_requests_are_read_for_before_what_is_expected() -> None:
    """Then whoever is asked next; where nothing is known, last."""
    scheduler = Scheduler()
    rates = {"first": 0.0, "never": 0.0, "seldom": 0.1, "often": 10.0, "late": 0.0, "early": 0.0}
    given = [told for name, rate in rates.items() for told in reading(scheduler, name, rate)]
    told(scheduler, asked("late", 1, deadline_s=8.0), asked("early", 2, deadline_s=7.0))
    while (latest := told(scheduler, f"landed {given[-1].split()[1]} 0 0")) != []:
        given += latest
    assert given == [
        f"read {name} 0" for name in ["first", "early", "late", "often", "seldom", "never"]
    ]


def test_a_rate_that_is_given_counts_until_others_are_seen() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    told(scheduler, ("expected", "a", 5.0, 3.0))
    assert scheduler.rate_per_s("a", 5.0) == 3.0


def test_nothing_is_read_after_a_failure_until_reading_begins_again() -> None:
    scheduler = Scheduler(readers=2)
    ring = (1, 2, 3), (-1, -1, -1)
    given = told(scheduler, ("loaded", "a", 0.0, 1.0), ("planned", "a", 0, *ring))
    assert given == ["read a 0", "read a 1"]
    assert told(scheduler, "lost a 0", "landed a 0 1") == []
    assert told(scheduler, ("planned", "a", 1, *ring)) == given
    assert told(scheduler, "halted a 0", "landed a 1 0") == ["read a 2"]
    assert told(scheduler, "halted a 1", "landed a 1 1", "landed a 1 2") == []


def test_bytes_of_a_plan_that_is_gone_count_for_no_other() -> None:
    scheduler = Scheduler(readers=2)
    reading(scheduler, "a")
    assert told(scheduler, "halted a 0", ("planned", "a", 1, (1,), (-1,))) == ["read a 0"]
    assert begun(scheduler, "a", 1.0) == []
    assert told(scheduler, "landed a 0 0") == []
    assert told(scheduler, "landed a 1 0") == ["step a"]


# Memory


def shared(scheduler: Scheduler, limit_bytes: int, **shares_bytes: int) -> None:
    told(scheduler, ("resized", limit_bytes))
    for name, nbytes in shares_bytes.items():
        told(scheduler, ("loaded", name, 0.0, 1.0), ("shared", name, nbytes))


@pytest.mark.parametrize(
    ("limit_bytes", "stages"),
    [
        (5, [["evict a 3"], ["grant b 7"]]),
        (6, [["evict a 3"], ["resize 6", "grant a 3", "grant b 7", "grant c 9"]]),
        (4, [["resize 4", "evict a 3", "grant b 2", "grant c 9"], ["grant b 7"]]),
    ],
)
def test_whoever_gives_memory_goes_first(limit_bytes: int, stages: list[list[str]]) -> None:
    """Where the limit of scratch memory changes, all take part; none that is not loaded."""
    scheduler = Scheduler()
    shared(scheduler, 5, a=8, b=2, c=9)
    wanted = ("sharing", limit_bytes, {"a": 3, "b": 7, "c": 9, "to come": 1})
    for stage in stages:
        assert told(scheduler, wanted) == stage
        for do, *name, nbytes in map(str.split, stage):
            told(scheduler, ("resized" if do == "resize" else "shared", *name, int(nbytes)))
    assert told(scheduler, wanted) == []
    assert (scheduler.limit_bytes, scheduler.share_bytes("a")) == (limit_bytes, 3)
    assert scheduler.share_bytes("to come") == 0


SIZES = st.tuples(*[st.integers(0, 9)] * 4)


@settings(deadline=None, max_examples=100)
@given(SIZES, SIZES, st.randoms(use_true_random=False))
def test_memory_in_use_is_never_more_than_before_or_after(
    before: tuple[int, ...], after: tuple[int, ...], chance: random.Random
) -> None:
    """Models take their plans in any order, once the limit is changed."""
    scheduler = Scheduler()
    shared(scheduler, before[0], **dict(zip("abc", before[1:], strict=True)))
    most = max(sum(before), sum(after))
    wanted = after[0], dict(zip("abc", after[1:], strict=True))
    stages = 0
    while stage := list(scheduler.sharing(*wanted)):
        stages += 1
        assert stages <= 2
        if stage[0].do == "resize":
            scheduler.resized(*stage.pop(0).numbers)
            assert len(stage) == 3
        chance.shuffle(stage)
        for do, name, (nbytes,) in stage:
            assert do == ("evict" if nbytes < scheduler.share_bytes(name) else "grant")
            scheduler.shared(name, nbytes)
            assert scheduler.limit_bytes + sum(map(scheduler.share_bytes, "abc")) <= most
    assert (scheduler.limit_bytes, *map(scheduler.share_bytes, "abc")) == after


# Rates


@pytest.mark.parametrize(
    ("divided_for", "drifted"),
    [(0.51, False), (1.0, False), (1.99, False), (0.49, True), (2.1, True)],
)
def test_a_rate_within_a_factor_of_two_is_the_one_expected(
    divided_for: float, drifted: bool
) -> None:
    """Nor does a model count of which nothing was expected, or that is gone."""
    scheduler = Scheduler()
    resident(scheduler, "a", "new")
    told(scheduler, ("expected", "new", 0.0, 99.0))
    told(scheduler, ("divided", 0.0, {"gone": 9.0, "a": divided_for}))
    assert ("divide" in told(scheduler, asked("new", 1, at_s=2.0))) == drifted


def test_rates_are_looked_at_every_two_seconds() -> None:
    scheduler = Scheduler()
    resident(scheduler, "a")
    told(scheduler, ("divided", 10.0, {"a": 50.0}))
    requests = [asked("a", n, at_s=at_s) for n, at_s in enumerate((11.9, 12.0, 13.9, 14.1))]
    assert ["divide" in told(scheduler, each) for each in requests] == [False, True, False, True]


# All orders of events


@dataclass
class Model:
    """One model of the world around a scheduler, with counts of its own."""

    name: str
    needs: tuple[int, ...]
    afters: tuple[int, ...]
    interruptible: bool = True
    plan: int = 0
    reads: list[int] = field(default_factory=list)
    """In flight."""
    landed: set[int] = field(default_factory=set)
    begun: int = 0
    """Reads."""
    ended: int = 0
    """Steps."""
    halted: bool = True
    serving: tuple[int, ...] = ()
    infers: bool = False
    computing: bool = False
    holds: bool = False
    """It keeps its lane without a step: it can't be interrupted, or has not left yet."""
    alone: bool = False
    """Its step has to be computed alone."""
    crowds: int = 0
    fails: int = 0
    grows: int = 0
    """Inferences that end for want of memory, and are done again once they have it."""
    waits: str = ""
    """``grow`` while a request waits for memory, ``give up`` where it gets none."""
    changing: bool = False
    changes: int = 0
    asked: deque[int] = field(default_factory=deque)

    def is_fed(self) -> bool:
        lap, step = divmod(self.ended, len(self.needs))
        return set(range(lap * len(self.afters) + self.needs[step])) <= self.landed

    def has_room(self, number: int) -> bool:
        lap, index = divmod(number, len(self.afters))
        return self.ended > lap * len(self.needs) + self.afters[index]


class World:
    """Threads that do what a scheduler says, one event at a time; every promise is checked."""

    def __init__(
        self, models: Sequence[Model], requests: Sequence[Job], *, lanes: int, readers: int
    ) -> None:
        self.scheduler = Scheduler(lanes=lanes, readers=readers)
        self.lanes, self.readers = lanes, readers
        self.models = {model.name: model for model in models}
        self.requests = deque(requests)
        self.deadlines = {request.sequence: request.deadline_s for request in requests}
        self.served: list[int] = []
        for model in models:
            self.tell("loaded", model.name, 0.0, 1.0, 1, not model.interruptible)
            self.read(model)

    def enabled(self) -> Iterator[Callable[[], None]]:
        """All that could happen next."""
        if self.requests:
            yield self.ask
        for m in self.models.values():
            for number in m.reads:
                yield lambda m=m, n=number: self.land(m, n)  # type: ignore[misc]
            if m.computing:
                yield lambda m=m: self.end(m)  # type: ignore[misc]
                if m.crowds and self.lanes > 1:
                    yield lambda m=m: self.crowd(m)  # type: ignore[misc]
                if m.fails:
                    yield lambda m=m: self.fail(m)  # type: ignore[misc]
                if m.grows:
                    yield lambda m=m: self.suspend(m)  # type: ignore[misc]
            if m.waits == "grow":
                yield lambda m=m: self.grown(m, True)  # type: ignore[misc]
                yield lambda m=m: self.grown(m, False)  # type: ignore[misc]
            if m.changes:
                yield lambda m=m: self.change(m)  # type: ignore[misc]
            if m.changing:
                yield lambda m=m: self.changed(m)  # type: ignore[misc]
            elif m.waits == "give up":
                yield lambda m=m: self.give_up(m)  # type: ignore[misc]
            elif m.serving and not m.waits and not m.infers and not (m.halted and m.reads):
                yield lambda m=m: self.begin(m)  # type: ignore[misc]

    def tell(self, event: str, *facts: Any) -> None:
        for do, name, numbers in getattr(self.scheduler, event)(*facts):
            m = self.models[name]
            if do == "step":
                self.check_step(m)
                m.computing = True
            elif do == "read":
                assert numbers == (m.begun,)
                assert m.has_room(m.begun), "a step may use the place"
                assert not m.halted
                m.reads.append(m.begun)
                m.begun += 1
            elif do == "serve":
                assert not m.serving
                assert not m.changing
                assert numbers == (m.asked.popleft(),)
                m.serving = numbers
            elif do in ("resume", "abandon"):
                assert m.waits == "told"
                assert not m.changing
                assert numbers == m.serving
                m.waits = "give up" if do == "abandon" else ""
            else:
                assert do == "change"
                assert not m.serving or m.waits
                m.changing = True
        in_flight = sum(len(m.reads) for m in self.models.values())
        assert in_flight <= self.readers
        for m in self.models.values():
            could = m.afters and not m.halted and m.has_room(m.begun)
            assert not could or in_flight == self.readers, "a free reader has nothing to do"
        lanes = sum(m.computing or m.holds for m in self.models.values())
        if lanes < self.lanes and not any(m.alone for m in self.models.values()):
            ready = [m for m in self.models.values() if m.infers and m.is_fed() and not m.computing]
            assert not ready, "a free lane has nothing to do"

    def check_step(self, m: Model) -> None:
        busy = [other for other in self.models.values() if other.computing]
        assert m.infers
        assert not m.computing
        assert m.is_fed(), "its bytes are not there"
        assert len(busy) < self.lanes
        if m.alone or any(other.alone for other in busy):
            assert not busy, "it has to be alone"
        if self.lanes == 1 and not m.holds:
            assert not any(other.holds for other in self.models.values())
            ready = [o for o in self.models.values() if o.infers and o.is_fed()]
            assert m is min(ready, key=lambda o: self.deadlines[o.serving[0]])
        m.holds = not m.interruptible

    def ask(self) -> None:
        request = self.requests.popleft()
        self.models[request.model].asked.append(request.sequence)
        self.tell("asked", request)

    def land(self, m: Model, number: int) -> None:
        m.reads.remove(number)
        m.landed.add(number)
        self.tell("landed", m.name, m.plan, number)

    def end(self, m: Model) -> None:
        m.computing = m.alone = False
        m.ended += 1
        last = m.ended % len(m.needs) == 0
        m.infers = not last
        m.holds = m.holds or last
        self.tell("ended", m.name, m.plan)
        if last:
            self.leave(m)
            self.done(m)

    def crowd(self, m: Model) -> None:
        m.crowds -= 1
        m.computing, m.holds, m.alone = False, False, True
        self.tell("crowded", m.name)

    def fail(self, m: Model) -> None:
        """Reading begins again before the next inference, as after any failure."""
        m.fails -= 1
        m.computing = m.alone = m.infers = False
        self.leave(m)
        m.halted = True
        self.tell("halted", m.name, m.plan)

    def suspend(self, m: Model) -> None:
        m.grows -= 1
        m.fails += 1
        self.fail(m)
        m.waits = "grow"
        self.tell("suspended", m.name)

    def grown(self, m: Model, has_memory: bool) -> None:
        m.waits = "told"
        self.tell("resumed", m.name, m.serving[0], has_memory)

    def give_up(self, m: Model) -> None:
        m.waits = ""
        self.done(m)

    def leave(self, m: Model) -> None:
        m.holds = False
        self.tell("left", m.name)

    def done(self, m: Model) -> None:
        self.served += m.serving
        m.serving = ()
        self.tell("done", m.name)

    def begin(self, m: Model) -> None:
        if m.halted:
            self.read(m)
        m.infers = True
        self.tell("began", m.name)

    def read(self, m: Model) -> None:
        m.halted, m.begun, m.ended, m.landed = False, 0, 0, set()
        m.plan += 1
        self.tell("planned", m.name, m.plan, m.needs, m.afters)

    def change(self, m: Model) -> None:
        m.changes -= 1
        self.tell("changing", m.name)

    def changed(self, m: Model) -> None:
        m.changing = False
        self.tell("done", m.name)


def run(world: World, choose: Callable[[int], int]) -> None:
    """Let things happen until nothing can: everything must have been served."""
    asked = {request.sequence for request in world.requests}
    while happens := list(world.enabled()):
        happens[choose(len(happens))]()
    assert set(world.served) == asked, "a deadlock"
    for m in world.models.values():
        assert not any((m.changes, m.changing, m.computing, m.waits))


def all_orders(make: Callable[[], World]) -> int:
    """Run every order of events; their number."""
    choices: list[tuple[int, int]] = []
    count = 0
    while True:
        at = 0

        def choose(many: int) -> int:
            nonlocal at
            if at == len(choices):
                choices.append((0, many))
            at += 1
            return choices[at - 1][0]

        run(make(), choose)
        count += 1
        while choices and choices[-1][0] == choices[-1][1] - 1:
            choices.pop()
        if not choices:
            return count
        taken, many = choices.pop()
        choices.append((taken + 1, many))


RING = ((1, 2), (-2, -1))
"""Each of two steps has a read, which waits for the end of the same step before."""


@pytest.mark.parametrize(
    ("models", "lanes", "readers"),
    [
        ([Model("a", *RING), Model("b", (0,), (), crowds=0)], 1, 1),
        ([Model("a", (1,), (-1,)), Model("b", (1,), (-1,))], 1, 2),
        ([Model("a", (1,), (-1,), interruptible=False), Model("b", (0,), ())], 1, 1),
        ([Model("a", (1,), (-1,), fails=1), Model("b", (0,), ())], 1, 1),
        ([Model("a", (0,), (), changes=1), Model("b", (0,), ())], 1, 1),
        ([Model("a", (0,), (), grows=1, changes=1)], 1, 1),
        ([Model("a", (0, 0), (), crowds=1), Model("b", (0,), (), crowds=1)], 2, 1),
        (
            [Model("a", (0,), (), crowds=1, interruptible=False), Model("b", (0,), (), fails=1)],
            2,
            1,
        ),
    ],
)
def test_every_order_of_events_keeps_every_promise(
    models: Sequence[Model], lanes: int, readers: int
) -> None:
    """Nothing waits for ever, nothing is overwritten in use, the most urgent goes first."""

    def make() -> World:
        fresh = [
            Model(m.name, m.needs, m.afters, m.interruptible, 0, crowds=m.crowds, fails=m.fails)
            for m in models
        ]
        for copy, m in zip(fresh, models, strict=True):
            copy.changes, copy.grows = m.changes, m.grows
        requests = [job("a", 0, deadline_s=2.0), job(models[-1].name, 1, deadline_s=1.0)]
        return World(fresh, requests, lanes=lanes, readers=readers)

    assert all_orders(make) > 20


def shapes() -> st.SearchStrategy[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Rings that hold one step or more, with some reads for each step."""

    @st.composite
    def draw(
        pick: Callable[[st.SearchStrategy[int]], int],
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        steps = pick(st.integers(1, 4))
        ahead = pick(st.integers(1, steps))
        needs: list[int] = []
        afters: list[int] = []
        for step in range(steps):
            afters += [step - ahead] * pick(st.integers(0, 2))
            needs.append(len(afters))
        return tuple(needs), tuple(afters)

    return draw()


@settings(deadline=None, max_examples=70)
@given(
    st.lists(
        st.tuples(shapes(), st.booleans(), *[st.integers(0, 2)] * 4),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=8, unique_by=lambda r: r[1]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_any_order_of_events_keeps_every_promise(
    given_models: Sequence[
        tuple[tuple[tuple[int, ...], tuple[int, ...]], bool, int, int, int, int]
    ],
    given_requests: Sequence[tuple[int, int]],
    lanes: int,
    readers: int,
    chance: random.Random,
) -> None:
    models = [
        Model("abc"[at], *shape, interruptible, crowds=crowds, fails=fails, grows=grows)
        for at, (shape, interruptible, crowds, fails, grows, _) in enumerate(given_models)
    ]
    for model, (*_, changes) in zip(models, given_models, strict=True):
        model.changes = changes
    requests = [
        job("abc"[which % len(models)], sequence, deadline_s=float(deadline_s))
        for sequence, (which, deadline_s) in enumerate(given_requests)
    ]
    world = World(models, requests, lanes=lanes, readers=readers)
    run(world, chance.randrange)


@pytest.mark.parametrize("policy", list(Policy))
def test_what_has_ended_is_forgotten(policy: Policy) -> None:
    scheduler = Scheduler(policy)
    reading(scheduler, "a")
    for number in range(200):
        told(scheduler, asked("a", number), "began a", f"landed a 0 {number}")
        told(scheduler, "ended a 0", "left a", "done a")
    (model,) = scheduler._models.values()
    queues = (scheduler._ready, scheduler._crowded, scheduler._reads, model.waiting)
    assert not any(map(len, queues))
    told(scheduler, "unloaded a")
    assert not any(map(len, (scheduler._models, scheduler._reads, scheduler._ranks._finish)))
