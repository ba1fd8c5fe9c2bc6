"""Worker processes of a scenario as their parent sees them."""

from __future__ import annotations

from math import prod
from typing import TypeVar

import msgspec
import numpy as np

from swapnet.arrays import Array
from swapnet.executor.scenario.messages import (
    Command,
    Job,
    Key,
    Measured,
    Output,
    Ready,
    Reply,
    RoundResult,
)
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child

__all__ = ["WorkerProcess"]

T = TypeVar("T", Ready, Measured, RoundResult)


class WorkerProcess(Child):
    """One way to share a budget, in a process of its own.

    Attributes
    ----------
    outputs
        The outputs that were not known.

    Raises
    ------
    SwapnetError
        Whatever the worker raised.
    BudgetError
        The kernel killed it for memory.
    """

    def __init__(
        self,
        name: str,
        job: Job,
        *,
        group: MemoryGroup | None = None,
        limit_bytes: int | None = None,
        patience_s: float | None = None,
    ) -> None:
        super().__init__(
            "swapnet.executor.scenario.worker",
            f"the process with the {name} split",
            group=group,
            limit_bytes=limit_bytes,
            patience_s=patience_s,
        )
        self.outputs: dict[Key, dict[str, Array]] = {}
        try:
            self.tell(job)
            self._hear(Ready)
        except BaseException:
            self.close()
            raise

    def ask(self, command: Command, kind: type[T]) -> T:
        """Have a command done; its reply."""
        self.tell(command)
        return self._hear(kind)

    def _hear(self, kind: type[T]) -> T:
        while True:
            reply = msgspec.convert(self.hear(), Reply)
            if isinstance(reply, Output):
                self.outputs[reply.key] = self._arrays(reply)
            elif isinstance(reply, kind):
                return reply

    def _arrays(self, output: Output) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for tensor in output.tensors:
            dtype = np.dtype(tensor.dtype)
            data = self.take(dtype.itemsize * prod(tensor.shape))
            arrays[tensor.name] = np.frombuffer(data, dtype).reshape(tensor.shape)
        return arrays
