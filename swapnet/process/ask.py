"""A process that does one job, as its parent sees it: a job in, lines of JSON out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child

__all__ = ["ask"]

T = TypeVar("T")


def ask(
    module: str,
    job: msgspec.Struct,
    answers: Any,
    hear: Callable[[Any], T | None],
    *,
    verb: str,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> T:
    """Run a job in a process of its own; the process ends with this call, whatever happens.

    Parameters
    ----------
    module
        What the process runs.
    job
        Its first line of standard input, as JSON.
    answers
        Union of what it says, one in a line, `Failed` among them.
    hear
        Told of each answer but that; what it returns ends the call, unless that is None.
    verb
        What the process does, for messages.
    group
        Where the kernel counts, and perhaps limits, its memory.
    limit_bytes
        The group's limit, for the message when the kernel kills the process.

    Raises
    ------
    SwapnetError
        Whatever the process raised.
    BudgetError
        The kernel killed it for memory.
    BackendError
        It died of something else.
    """
    who = f"the process that {verb}"
    with Child(module, who, group=group, limit_bytes=limit_bytes) as child:
        child.tell(job)
        while True:
            if (found := hear(msgspec.convert(child.hear(), answers))) is not None:
                return found
