"""Progress of a builder with one block, and the way to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Report", "make_monitor"]

_QUIET_S = 2.0
"""Blocks that take less say nothing."""


Report = Callable[[int, int], None]
"""Takes the steps of a block that are done, and all of them."""


def make_monitor(trt: tensorrt.Module, report: Report, is_stopped: Callable[[], bool]) -> Any:
    """An ``IProgressMonitor`` of the outermost phase, which ends the build when it is stopped.

    An error in ``report`` stops the builder and is kept in ``monitor.raised``: an exception must
    not cross the library.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._started = time.monotonic()
            self._outermost = ""
            self._steps = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._outermost, self._steps = phase_name, num_steps

        def phase_finish(self, phase_name: str) -> None:
            del phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            quiet = time.monotonic() - self._started < _QUIET_S
            if self.raised is None and phase_name == self._outermost and not quiet:
                try:
                    report(step + 1, self._steps)
                except BaseException as error:
                    self.raised = error
            return self.raised is None and not is_stopped()

    return Monitor()
