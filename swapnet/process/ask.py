"""A child process that does one job: the job in, lines of JSON out."""

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
    """Run a job in a process of its own; the process always ends with this call.

    Parameters
    ----------
    module
        Name of the module that the process runs.
    job
        First line of its standard input, as JSON.
    answers
        Union of the types of its answers, one in a line, `Failed` among them.
    hear
        Takes each answer; the first result other than None ends the call.
    verb
        Activity of the process, for messages.
    group, limit_bytes
        As for `Child`.

    Raises
    ------
    SwapnetError
        The process raised it.
    BudgetError
        The kernel killed the process for its memory.
    BackendError
        The process died of another cause.
    """
    who = f"the process that {verb}"
    with Child(module, who, group=group, limit_bytes=limit_bytes) as child:
        child.tell(job)
        while True:
            if (found := hear(msgspec.convert(child.hear(), answers))) is not None:
                return found
