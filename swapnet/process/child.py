"""A child process as its parent sees it; `swapnet.process.serve` is the other side.

`Child` takes any messages, and `ask` has one job done.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias, TypeVar

import msgspec

from swapnet.custom_ops import custom_ops
from swapnet.errors import BudgetError, SwapnetError
from swapnet.machine import close_files
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.failure import Failed, ProcessDied, ProcessTimedOut, raised
from swapnet.process.parenthood import environment_of_child
from swapnet.process.serve import Parent, Reached, serve
from swapnet.progress import Progress, silent
from swapnet.units import format_size

__all__ = ["Child", "ask", "forked"]

T = TypeVar("T", bound="Child")

_Started: TypeAlias = "tuple[subprocess.Popen[bytes], IO[str]]"
"""A process, and the file that its standard error goes to."""

_WAITING: dict[str, list[_Started]] = {}
"""Processes of `forked` by their modules."""


class Child:
    """A process that runs a module; a context manager that ends it.

    The thread that makes it must outlive it: the kernel ends the process with that thread.

    Parameters
    ----------
    module
        Name of the module that the process runs.
    who
        Name of the process in messages, such as ``"the process that measures"``.
    group
        Group in which the kernel counts, and perhaps limits, its memory.
    limit_bytes
        The group's limit, for the message when the kernel kills the process.
    python
        Interpreter; None for this one.
    patience_s
        Time-out of an answer; None waits for ever.
    """

    def __init__(
        self,
        module: str,
        who: str,
        *,
        group: MemoryGroup | None = None,
        limit_bytes: int | None = None,
        python: Path | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._who = who
        self._patience_s = patience_s
        self._limit_bytes = limit_bytes
        if group is None and python is None and _WAITING.get(module):
            self._process, self._said = _WAITING[module].pop()
            return
        command = [str(python or sys.executable), "-m", module, *custom_ops()]
        if group is not None:
            join = f'echo $$ > "{group.processes_file}"; exec "$@"'
            command = ["sh", "-c", join, "sh", *command]
        self._process, self._said = _started(command)

    def tell(self, message: Any) -> None:
        """Write one line of JSON; a process that has ended says so when it is listened to."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def hear(self) -> Any:
        """The next line of the process.

        Raises
        ------
        SwapnetError
            The process raised it.
        BudgetError
            The kernel killed the process for its memory.
        BackendError
            The process died of another cause, or took too long and was killed.
        """
        value = msgspec.json.decode(
            self._read(lambda out: out.readline(), lambda line: line.endswith(b"\n"))
        )
        if isinstance(value, dict) and value.get("type") == Failed.__name__:
            raise raised(msgspec.convert(value, Failed))
        return value

    def take(self, nbytes: int) -> bytes:
        """The next bytes of the process, as they are.

        Raises
        ------
        BudgetError, BackendError
            As `hear`: the process died before it had written all of them.
        """
        return self._read(lambda out: out.read(nbytes), lambda data: len(data) == nbytes)

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and wait for it. Safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._said.close()

    def _read(self, read: Callable[[IO[bytes]], bytes], is_whole: Callable[[bytes], bool]) -> bytes:
        """Read from the process; where what comes is not whole, the process has died."""
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = None if self._patience_s is None else threading.Timer(self._patience_s, end)
        if timer is not None:
            timer.start()
        try:
            data = read(self._process.stdout)
        finally:
            if timer is not None:
                timer.cancel()
        if is_whole(data):
            return data
        if late.is_set():
            assert self._patience_s is not None
            raise ProcessTimedOut(self._who, self._patience_s)
        raise self._death()

    def _death(self) -> SwapnetError:
        self._process.communicate()
        status = self._process.returncode
        limit = self._limit_bytes
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL) and limit is not None:
            return BudgetError(
                f"{self._who} was killed by the kernel",
                why=f"it went above the limit of {limit} bytes ({format_size(limit)})",
                hint="give a larger budget, and report this: a budget should hold",
            )
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        return ProcessDied.of(self._who, status, lines[-1] if lines else "it printed nothing")


def ask(
    module: str,
    job: msgspec.Struct,
    answer: Any,
    progress: Progress = silent,
    *,
    verb: str,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> Any:
    """The answer of a process of its own to a job; the process always ends with this call.

    The work of ``module`` is `answering` the job with an ``answer`` of this type, and ``verb`` is
    its activity for messages. Takes a group, and raises, as `Child`.
    """
    who = f"the process that {verb}"
    with Child(module, who, group=group, limit_bytes=limit_bytes) as child:
        child.tell(job)
        while isinstance(told := child.hear(), dict) and told.get("type") == Reached.__name__:
            progress(told["stage"], told["done"], told["total"])
        return msgspec.convert(told, answer)


@contextmanager
def forked(*modules: str) -> Iterator[None]:
    """Fork a process for each module, which the next `Child` of it takes: it need not import again.

    Only a process of ours may do that, and only before it has made a session or a thread.
    """
    works = [(module, import_module(module).work) for module in modules]
    for module, work in works:
        started = _started([module], partial(_serve_here, work))
        _WAITING.setdefault(module, []).append(started)
    try:
        yield
    finally:
        for module in set(modules):
            for process, said in _WAITING.pop(module):
                process.kill()
                process.communicate()
                said.close()


def _started(command: list[str], instead: Callable[[], NoReturn] | None = None) -> _Started:
    """Start a command, or do something else in the new process."""
    # A pipe that nobody reads would stop a process that says much.
    said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment_of_child(),
        start_new_session=True,
        preexec_fn=instead,
    )
    return process, said


def _serve_here(work: Callable[[Parent], None]) -> NoReturn:
    """Work in a process that was just forked, as a new one would; it never returns."""
    status = 1
    try:
        parent = os.getppid()
        sys.argv[1:] = custom_ops()
        close_files()  # among them a pipe: `Popen` waits until it is closed
        os.environ |= environment_of_child(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        logging.getLogger("swapnet").handlers.clear()
        status = serve(work)
    except BaseException:
        with open(2, "w", closefd=False) as said:
            traceback.print_exc(file=said)
    finally:
        os._exit(status)
