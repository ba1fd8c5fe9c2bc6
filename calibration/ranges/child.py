"""The observing process as its parent sees it."""

from __future__ import annotations

from swapnet.calibration.ranges.worker import Answer, Found, Job, Ran
from swapnet.process.ask import ask
from swapnet.process.cgroup import MemoryGroup
from swapnet.progress import Progress

__all__ = ["observe_in_child"]


def observe_in_child(
    job: Job,
    progress: Progress,
    *,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> Found:
    """Run a job in a process of its own; takes a group and raises as `ask`."""

    def hear(answer: Ran | Found) -> Found | None:
        if isinstance(answer, Found):
            return answer
        progress("observe", answer.done, len(job.samples))
        return None

    return ask(
        "swapnet.calibration.ranges.worker",
        job,
        Answer,
        hear,
        verb="calibrates",
        group=group,
        limit_bytes=limit_bytes,
    )
