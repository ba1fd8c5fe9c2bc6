"""Whole models by count of bytes: the least recently used idle one leaves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial

import pytest

from swapnet.executor.runtime.residency import Residency
from tests.helpers.threads import LIMIT_S, started

Until = Callable[[Callable[[], bool]], None]


class Memory:
    """What is loaded, and what was evicted."""

    def __init__(self, available_bytes: int) -> None:
        self.residency = Residency(available_bytes)
        self.evicted: list[str] = []

    def use(self, name: str, nbytes: int = 1) -> bool:
        with self.residency.hold(name, nbytes, partial(self.evicted.append, name)) as is_new:
            return is_new


def test_the_least_recently_used_leaves() -> None:
    memory = Memory(3)
    assert [memory.use(name) for name in "abcab"] == [True, True, True, False, False]
    assert memory.use("d")
    assert memory.evicted == ["c"]
    assert memory.use("c")
    assert memory.evicted == ["c", "a"]


def test_as_many_leave_as_must() -> None:
    memory = Memory(4)
    for name in "abcd":
        memory.use(name)
    memory.use("large", 3)
    assert memory.evicted == ["a", "b", "c"]
    assert not memory.use("d")


def test_one_that_is_used_does_not_leave(until: Until) -> None:
    memory = Memory(2)
    with memory.residency.hold("used", 1, partial(memory.evicted.append, "used")):
        memory.use("idle")
        memory.use("new")
        assert memory.evicted == ["idle"]
        waits = started(partial(memory.use, "large", 2))
        until(lambda: "large" in memory.residency._waiting)
        until(lambda: memory.evicted == ["idle", "new"])
        assert not waits.done()
    assert waits.result(LIMIT_S)
    assert memory.evicted == ["idle", "new", "used"]


def test_who_is_asked_all_the_time_lets_others_in(until: Until) -> None:
    """A model in memory waits behind one that asked before, and comes back after it."""
    memory = Memory(1)
    with memory.residency.hold("often", 1, partial(memory.evicted.append, "often")):
        waits = started(partial(memory.use, "seldom"))
        until(lambda: "seldom" in memory.residency._waiting)
    assert memory.use("often")
    assert waits.result(LIMIT_S)
    assert memory.evicted == ["often", "seldom"]


def test_what_is_forgotten_is_not_evicted() -> None:
    memory = Memory(1)
    memory.use("gone")
    memory.residency.forget("gone")
    memory.residency.forget("gone")
    memory.use("new")
    assert memory.evicted == []


def holding_what_is_stuck() -> Memory:
    """Full of a model that can't be evicted."""
    memory = Memory(1)

    def fail() -> None:
        raise OSError("stuck")

    with memory.residency.hold("stuck", 1, fail):
        pass
    return memory


def test_who_leaves_is_evicted_once() -> None:
    memory = Memory(1)
    memory.use("leaving")
    memory.residency.leave("leaving")
    memory.residency.leave("leaving")
    assert memory.evicted == ["leaving"]
    assert memory.use("leaving")


def test_who_can_not_leave_still_counts() -> None:
    memory = holding_what_is_stuck()
    with pytest.raises(OSError, match="stuck"):
        memory.residency.leave("stuck")
    assert not memory.residency._has_room(1)


def test_less_memory_evicts_what_is_idle_at_once_and_the_rest_when_it_is() -> None:
    memory = Memory(3)
    memory.use("idle")
    with (
        memory.residency.hold("one", 1, partial(memory.evicted.append, "one")),
        memory.residency.hold("two", 1, partial(memory.evicted.append, "two")),
    ):
        memory.residency.resize(1)
        assert memory.evicted == ["idle"]
    assert memory.evicted == ["idle", "two"]
    memory.residency.resize(3)
    assert not memory.use("one")


def test_more_memory_lets_in_who_waits(until: Until) -> None:
    memory = Memory(1)
    with memory.residency.hold("used", 1, partial(memory.evicted.append, "used")):
        waits = started(partial(memory.use, "other"))
        until(lambda: "other" in memory.residency._waiting)
        memory.residency.resize(2)
        assert waits.result(LIMIT_S)
    assert memory.evicted == []


def test_an_eviction_that_fails_hinders_nobody_else() -> None:
    memory = holding_what_is_stuck()
    with pytest.raises(OSError, match="stuck"):
        memory.use("new")
    assert memory.use("new")


@pytest.mark.parametrize("available", [3, 5, 8])
def test_memory_is_never_overcommitted(available: int) -> None:
    memory: set[str] = set()
    sizes = {"a": 1, "b": 2, "c": 2, "d": 3}
    lock = threading.Lock()
    wrong: list[str] = []
    residency = Residency(available)

    def evict(name: str) -> None:
        with lock:
            memory.remove(name)

    def use(name: str) -> None:
        chance = random.Random(name)
        for _ in range(40):
            with residency.hold(name, sizes[name], partial(evict, name)) as is_new:
                with lock:
                    if is_new == (name in memory):
                        wrong.append(f"{name} is new: {is_new}")
                    memory.add(name)
                    if sum(sizes[n] for n in memory) > available:
                        wrong.append(f"{memory} do not fit")
                threading.Event().wait(0.0002 * chance.random())
                with lock:
                    if name not in memory:
                        wrong.append(f"{name} was evicted while it was used")

    for user in [started(partial(use, name)) for name in sizes]:
        user.result(LIMIT_S)
    assert not wrong
