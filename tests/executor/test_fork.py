"""A fork after an executor or a runtime was opened: the child is told, and the parent goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from swapnet.errors import BackendError
from swapnet.executor import Device, SwapExecutor, SwapRuntime
from swapnet.executor.backends.scratch import Scratch
from tests.helpers.engines import BuildToy, Engine, assert_same

pytestmark = pytest.mark.slow

LIMIT_S = 60


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Blocks of 16 KiB."""
    return engine("used-twice")


def child_ends_well(work: Callable[[], None]) -> bool:
    """Whether work in a forked child returns; one that hangs is killed."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT_S)
        try:
            work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(BackendError, match="can't be used in a forked process") as caught:
        call()
    assert str(os.getpid()) in caught.value.why
    assert str(os.getppid()) in caught.value.why


def test_an_executor_says_so_in_the_child(toy: Engine) -> None:
    with SwapExecutor(toy.folder, toy.smallest, device=Device(threads=2)) as executor:
        expected = executor(toy.feeds(0))

        def work() -> None:
            refused(lambda: executor(toy.feeds(0)))
            refused(lambda: executor.submit(toy.feeds(0)))
            refused(lambda: executor.set_budget("100%"))
            executor.close()
            executor.close()
            refused(lambda: executor(toy.feeds(0)))
            with SwapExecutor(toy.folder, toy.smallest) as own:
                assert_same(own(toy.feeds(0)), expected)

        assert child_ends_well(work)
        assert_same(executor(toy.feeds(0)), expected)


def test_a_runtime_and_its_models_say_so_in_the_child(toy: Engine) -> None:
    with SwapRuntime("64MiB") as runtime:
        model = runtime.load(toy.folder)
        expected = model(toy.feeds(0))

        def work() -> None:
            refused(lambda: model(toy.feeds(0)))
            refused(lambda: model.submit(toy.feeds(0)))
            refused(lambda: model.update(priority=2.0))
            refused(lambda: model.stats)
            refused(lambda: runtime.load(toy.folder, name="other"))
            refused(lambda: runtime.set_budget("32MiB"))
            model.unload()
            runtime.close()
            with SwapRuntime("64MiB") as own:
                assert_same(own.load(toy.folder)(toy.feeds(0)), expected)

        assert child_ends_well(work)
        assert_same(model(toy.feeds(0)), expected)


def test_a_child_opens_while_its_parent_was_opening(toy: Engine) -> None:
    def work() -> None:
        with SwapExecutor(toy.folder, toy.smallest) as own:
            own(toy.feeds(0))

    held = Scratch.environment
    with held:
        assert child_ends_well(work)


def test_a_child_of_a_child_may_not_use_what_the_child_opened(toy: Engine) -> None:
    def work() -> None:
        with SwapExecutor(toy.folder, toy.smallest) as own:
            assert child_ends_well(lambda: refused(lambda: own(toy.feeds(0))))
            own(toy.feeds(0))

    assert child_ends_well(work)


_FORGET = """
import gc, os, signal, sys
from swapnet.executor import Device, SwapExecutor
executor = SwapExecutor(sys.argv[1], "100%", device=Device(threads=2))
child = os.fork()
if child == 0:
    signal.alarm(int(sys.argv[2]))
    del executor
    gc.collect()
    os._exit(0)
status = os.waitpid(child, 0)[1]
executor.close()
sys.exit(status != 0)
"""


def test_a_child_may_forget_what_its_parent_opened(toy: Engine) -> None:
    """ONNX Runtime waits for threads when a session is destroyed."""
    command = [sys.executable, "-c", _FORGET, str(toy.folder), str(LIMIT_S)]
    assert subprocess.run(command, check=False).returncode == 0
