"""A child process as its parent sees it; `swapnet.process.serve` is the other side.

`Child` takes any messages, and `ask` has one job done.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from swapnet.custom_ops import custom_ops
from swapnet.errors import BudgetError, SwapnetError
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.failure import Failed, ProcessDied, ProcessTimedOut, raised
from swapnet.process.parenthood import environment_of_child
from swapnet.process.serve import Reached
from swapnet.progress import Progress, silent
from swapnet.units import format_size

__all__ = ["Child", "ask"]

T = TypeVar("T", bound="Child")


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
        command = [str(python or sys.executable), "-m", module, *custom_ops()]
        if group is not None:
            join = f'echo $$ > "{group.processes_file}"; exec "$@"'
            command = ["sh", "-c", join, "sh", *command]
        # A pipe that nobody reads would stop a process that says much.
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment_of_child(),
            start_new_session=True,
        )

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
