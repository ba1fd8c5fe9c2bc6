"""A worker process of the benchmark, as both ends see it: requests in, rounds out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from swapnet.arrays import load_npz
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.sides import Request, Side, open_side
from swapnet.executor.bench.timing import Round
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child
from swapnet.process.serve import Parent, serve

__all__ = ["Program", "Worker", "serve_side"]


def serve_side(open_side: Callable[[Request], Side]) -> int:
    """Serve one side to the parent of this process; returns the exit status.

    Parameters
    ----------
    open_side
        Opens the side of a request; the request is answered when the side is open. Lines after it
        are calls of the side's methods, each answered by what it returns.
    """

    def work(parent: Parent) -> None:
        side = open_side(parent.job(Request))
        parent.answer("ready")
        for name, *arguments in parent.commands(list[Any]):
            parent.answer(getattr(side, name)(*arguments))
        side.close()

    return serve(work)


@dataclass(frozen=True)
class Program:
    """Program of a side's process.

    Attributes
    ----------
    module
        Module that calls `swapnet.executor.bench.worker.serve_side`.
    python
        Interpreter; None for this one.
    """

    module: str = "swapnet.executor.bench.worker"
    python: Path | None = None


class Worker(Child):
    """One side of a benchmark in its own process.

    Raises
    ------
    SwapnetError
        The worker raised it.
    BudgetError
        The kernel killed it for memory.
    """

    def __init__(
        self,
        request: Request,
        group: MemoryGroup | None = None,
        limit_bytes: int | None = None,
        *,
        program: Program | None = None,
        patience_s: float | None = None,
    ) -> None:
        program = program or Program()
        super().__init__(
            program.module,
            f"the process of the {request.role} model",
            group=group,
            limit_bytes=limit_bytes,
            python=program.python,
            patience_s=patience_s,
        )
        self.request = request
        try:
            self.tell(request)
            self.hear()
        except BaseException:
            self.close()
            raise

    def run(self, count: int) -> Round:
        """Run one inference that does not count, then ``count`` that do."""
        return msgspec.convert(self._call("run", count), Round)

    def outputs(self, folder: Path) -> dict[str, Array]:
        """Outputs of the latest inference."""
        path = folder / f"{self.request.role}.npz"
        self._call("save", str(path))
        return load_npz(path)

    def details(self) -> Any:
        """Facts for the report."""
        return self._call("details")

    def _call(self, method: str, *arguments: Any) -> Any:
        self.tell([method, *arguments])
        return self.hear()


if __name__ == "__main__":
    sys.exit(serve_side(open_side))
