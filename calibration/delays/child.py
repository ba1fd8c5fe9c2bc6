"""The measuring process as its parent sees it."""

from __future__ import annotations

from swapnet.calibration.delays.worker import Answer, Found, Job, Reached
from swapnet.process.ask import ask
from swapnet.profile import Profile
from swapnet.progress import Progress

__all__ = ["measure_in_child"]


def measure_in_child(job: Job, progress: Progress) -> Profile:
    """Run a job in a process of its own.

    Raises
    ------
    SwapnetError
        Whatever the child raised, or how it died: see `ask`.
    """

    def hear(answer: Reached | Found) -> Profile | None:
        if isinstance(answer, Found):
            return answer.profile
        progress(answer.stage, answer.done, answer.total)
        return None

    return ask("swapnet.calibration.delays.worker", job, Answer, hear, verb="measures")
