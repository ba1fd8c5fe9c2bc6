"""A child process that does one job: the job in, lines of JSON out."""

from __future__ import annotations

from typing import Any

import msgspec

from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child
from swapnet.process.serve import Reached
from swapnet.progress import Progress, silent

__all__ = ["ask"]


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

    Parameters
    ----------
    module
        Name of the module that the process runs; its work is `answering` the job.
    job
        First line of its standard input, as JSON.
    answer
        Type of the answer.
    progress
        Takes the progress of the job.
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
        while isinstance(told := child.hear(), dict) and told.get("type") == Reached.__name__:
            progress(told["stage"], told["done"], told["total"])
        return msgspec.convert(told, answer)
