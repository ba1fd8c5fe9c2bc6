"""Worker processes as the benchmark sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from swapnet.arrays import load_npz
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.timing import Round
from swapnet.executor.bench.worker import Details, Run, Save
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child

__all__ = ["Program", "Worker"]


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
            self._ask(request)
        except BaseException:
            self.close()
            raise

    def run(self, count: int) -> Round:
        """Run one inference that does not count, then ``count`` that do."""
        return msgspec.convert(self._ask(Run(count)), Round)

    def outputs(self, folder: Path) -> dict[str, Array]:
        """Outputs of the latest inference."""
        path = folder / f"{self.request.role}.npz"
        self._ask(Save(str(path)))
        return load_npz(path)

    def details(self) -> Any:
        """Facts for the report."""
        return self._ask(Details())

    def _ask(self, message: Any) -> Any:
        self.tell(message)
        return self.hear()
