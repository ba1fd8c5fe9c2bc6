"""Scratch memory that sessions share: one arena at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.planning.usage import usage
from swapnet.executor.runtime.dispatcher import Dispatcher
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.sharing import Sharing
from tests.helpers.dispatched import serving
from tests.helpers.engines import Arrays, BuildToy
from tests.helpers.threads import ended

MEMORY = "of this test"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    Scratch._in_force.pop(MEMORY, None)


def test_an_arena_is_registered_once_until_another_is() -> None:
    registered: list[int] = []
    one, other = Scratch(1 << 20), Scratch(2 << 20)
    for scratch in (one, one, other, other, one):
        with Scratch.environment:
            scratch.enforce(MEMORY, registered.append)
    assert registered == [1 << 20, 2 << 20, 1 << 20]
    assert (one.generation, other.generation) == (2, 1)


def test_another_size_is_another_generation() -> None:
    registered: list[int] = []
    scratch = Scratch(1 << 20)
    scratch.enforce(MEMORY, registered.append)
    scratch.resize(3 << 20)
    assert scratch.limit_bytes == 3 << 20
    assert (registered, scratch.generation) == ([1 << 20], 1)
    scratch.enforce(MEMORY, registered.append)
    assert (registered, scratch.generation) == ([1 << 20, 3 << 20], 2)


def test_one_that_is_retired_leaves_the_others() -> None:
    one, other = Scratch(1 << 20), Scratch(1 << 20)
    one.enforce(MEMORY, lambda _: None)
    other.enforce(MEMORY, lambda _: None)
    one.retire()
    other.enforce(MEMORY, lambda _: pytest.fail("it is in force"))


def test_there_is_always_some() -> None:
    scratch = Scratch(0)
    assert scratch.limit_bytes > 0
    scratch.resize(0)
    assert scratch.limit_bytes > 0


def test_sessions_share_one_arena_and_are_made_anew_with_another(engine: BuildToy) -> None:
    """Two engines, one limit: resized while both pause, both run again as before."""
    toys = [engine("used-twice"), engine("images")]
    limit = max(usage(toy.manifest).scratch_bytes for toy in toys)
    dispatcher, scratch = Dispatcher(readers=2), Scratch(limit)
    ports = [dispatcher.add(name, 1.0) for name in ("used-twice", "images")]
    executors = [
        SharedExecutor(toy.folder, toy.smallest, sharing=Sharing(port, scratch))
        for toy, port in zip(toys, ports, strict=True)
    ]

    def execute(number: int) -> Arrays:
        with serving(ports[number]):
            return executors[number](toys[number].feeds())

    def run() -> None:
        expected = [execute(number) for number in range(2)]
        assert scratch.generation == 1
        for limit_bytes in (2 * limit, limit):
            for one in executors:
                one.pause()
            scratch.resize(limit_bytes)
            for number, outputs in enumerate(expected):
                found = execute(number)
                assert all(np.array_equal(found[name], outputs[name]) for name in outputs)
        assert scratch.generation == 3
        for one in executors:
            one.close()
        dispatcher.close()

    ended(run)
