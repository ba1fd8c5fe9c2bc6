"""Worker processes as the benchmark sees them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from swapnet import errors
from swapnet.arrays import load_npz
from swapnet.errors import BackendError, BudgetError, SwapnetError
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.cgroup import MemoryGroup
from swapnet.executor.bench.roles import Request, Round
from swapnet.units import format_size

__all__ = ["Worker"]


class Worker:
    """One side of a benchmark in a process of its own; a context manager.

    Parameters
    ----------
    request
        What it runs.
    group
        Where the kernel counts, and perhaps limits, its memory.
    limit_bytes
        The group's limit, for the message when the kernel kills the worker.
    python
        Interpreter; None for this one.
    patience_s
        How long an answer may take; None for ever.

    Raises
    ------
    SwapnetError
        Whatever the worker raised.
    BudgetError
        The kernel killed it for memory.
    """

    def __init__(
        self,
        request: Request,
        group: MemoryGroup | None = None,
        limit_bytes: int | None = None,
        *,
        python: Path | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.request = request
        self._patience_s = patience_s
        self._limit_bytes = limit_bytes
        command = [str(python or sys.executable), "-m", "swapnet.executor.bench.worker"]
        if group is not None:
            join = f'echo $$ > "{group.processes_file}"; exec "$@"'
            command = ["sh", "-c", join, "sh", *command]
        # A pipe that nobody reads would stop a worker that says much.
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,
        )
        try:
            self._ask(msgspec.json.encode(request).decode())
        except BaseException:
            self.close()
            raise

    def run(self, count: int) -> Round:
        """One inference that does not count, then ``count`` that do."""
        return msgspec.convert(self._ask(str(count)), Round)

    def outputs(self, folder: Path) -> dict[str, Array]:
        """Of the latest inference."""
        path = folder / f"{self.request.role}.npz"
        self._ask(str(path))
        return load_npz(path)

    def details(self) -> Any:
        """Facts for the report."""
        return self._ask("details")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and wait for it. Safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._said.close()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._answer()
        if not answer:
            raise self._death()
        value = msgspec.json.decode(answer)
        if isinstance(value, dict) and "error" in value:
            kind: type[SwapnetError] = getattr(errors, value["error"])
            raise kind(value["what"], why=value["why"], hint=value["hint"])
        return value

    def _answer(self) -> str:
        """The worker's next line; empty where it ended.

        Raises
        ------
        BackendError
            It took too long, and was killed.
        """
        assert self._process.stdout is not None
        if self._patience_s is None:
            return self._process.stdout.readline()
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._patience_s, end)
        timer.start()
        try:
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not answer and late.is_set():
            raise BackendError(
                f"the {self.request.role} model is too slow",
                why=f"it gave no answer for {self._patience_s:g} s",
            )
        return answer

    def _death(self) -> SwapnetError:
        self._process.communicate()
        self._said.seek(0)
        said = self._said.read()
        status = self._process.returncode
        role = self.request.role
        if status in (-9, 137) and self._limit_bytes is not None:
            return BudgetError(
                f"the {role} model was killed by the kernel",
                why=f"it went above the limit of {self._limit_bytes} bytes "
                f"({format_size(self._limit_bytes)})",
                hint="give a larger budget, and report it: a budget should hold",
            )
        lines = said.strip().splitlines()
        return BackendError(
            f"the {role} model's process ended with status {status}",
            why=lines[-1] if lines else "it said nothing",
            hint="run it again; if it stays, report it with this message",
        )
