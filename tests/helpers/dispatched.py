"""Models of a dispatcher without a thread of their own: the test's thread serves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from swapnet.executor.runtime.dispatcher import Port
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Scheduler

__all__ = ["serving"]

_SEQUENCE = count()


@contextmanager
def serving(port: Port) -> Iterator[None]:
    """Ask a model for something, and serve it in the block."""
    port.tell(Scheduler.asked, Job(port.name, next(_SEQUENCE), 0.0, 1.0, 1.0, 1.0))
    assert port.next_work().do == "serve"
    try:
        yield
    finally:
        port.tell(Scheduler.done, port.name)
