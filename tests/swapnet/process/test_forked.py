from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from swapnet.errors import BudgetError
from swapnet.process.failure import ProcessDied
from swapnet.process.forked import Forked, _serve
from tests.helpers.threads import LIMIT_S


def add(one: int, other: int) -> tuple[int, int]:
    return one + other, os.getpid()


def refuse() -> None:
    raise BudgetError("no", why="3 is more than 2", hint="give 3")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    raise ValueError("odd")


def test_the_job_is_done_in_another_process() -> None:
    with Forked(add, "adds") as process:
        process.begin(2, 3)
        found, pid = process.answer()
    assert found == 5
    assert pid != os.getpid()


def test_its_error_is_raised_here() -> None:
    with Forked(refuse, "refuses") as process:
        process.begin()
        with pytest.raises(BudgetError, match="no") as caught:
            process.answer()
    assert caught.value.hint == "give 3"


def test_a_dead_process_is_told() -> None:
    with Forked(die, "dies") as process:
        process.begin()
        with pytest.raises(
            ProcessDied, match="the process that dies was killed by signal 9"
        ) as caught:
            process.answer()
    assert caught.value.was_killed


def test_a_crash_is_told_with_its_reason() -> None:
    with Forked(crash, "crashes") as process:
        process.begin()
        with pytest.raises(
            ProcessDied, match="the process that crashes ended with status 1"
        ) as caught:
            process.answer()
    assert caught.value.why == "ValueError: odd"
    assert not caught.value.was_killed


def test_an_orphan_does_not_wait_for_a_job() -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(0, there, add, "it"), daemon=True)
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 0
    here.close()
    there.close()


def test_a_process_without_a_job_ends() -> None:
    with Forked(add, "adds"):
        pass
