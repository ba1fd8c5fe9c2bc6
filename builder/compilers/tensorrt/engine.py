"""One block from its ONNX model to its serialized engine, here or in a process of its own."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swapnet.builder.compilers.tensorrt.errors import builder_refusal, unavailable
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.builder.compilers.tensorrt.network import add_profile, make_config, parse_network
from swapnet.builder.compilers.tensorrt.timing_cache import timing_cached
from swapnet.errors import ModelError
from swapnet.process.child import ask
from swapnet.process.failure import ProcessDied
from swapnet.process.serve import answering, serve
from swapnet.progress import Progress
from swapnet.tensorrt import (
    Log,
    Severity,
    interrupts_deferred,
    listening,
    load_tensorrt,
    logger,
)

if TYPE_CHECKING:
    import tensorrt

__all__ = ["compile_engine", "compile_in_child", "make_monitor"]

_MODULE = "swapnet.builder.compilers.tensorrt.engine"

_QUIET_S = 2.0
"""Blocks that take less say nothing."""

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


def compile_engine(job: Job, progress: Progress) -> int | None:
    """Write the engine of a block.

    ``progress`` is called with the builder's steps; an error in it stops the builder and is raised
    here.

    Returns
    -------
    int or None
        Bytes of its values and kernels beside weights, as the library logs them.

    Raises
    ------
    ModelError
        The library refuses the block.
    BackendUnavailableError
        The library is not installed, or can't build here.
    OSError
        The engine can't be written.
    """
    trt = load_tensorrt(job.backend)
    with interrupts_deferred() as interrupted, listening(job.backend) as log:
        builder = _make_builder(trt, job, log)
        network = parse_network(trt, builder, job, log)
        config = make_config(trt, builder, job, log)
        add_profile(builder, config, job, log)
        monitor = make_monitor(trt, partial(progress, f"compile {job.title}"), interrupted.is_set)
        config.progress_monitor = monitor
        cached = (
            timing_cached(config, Path(job.timing_cache)) if job.timing_cache else nullcontext()
        )
        with cached:
            plan = builder.build_serialized_network(network, config)
            if monitor.raised is not None:
                raise monitor.raised
            if plan is None and not interrupted.is_set():
                raise builder_refusal(job, log)
    Path(job.engine).write_bytes(plan)
    return _activation_bytes(log)


def _activation_bytes(log: Log) -> int | None:
    found = [match for text in log.texts(Severity.INFO) if (match := _ACTIVATIONS.search(text))]
    return int(found[-1][1]) if found else None


def _make_builder(trt: tensorrt.Module, job: Job, log: Log) -> tensorrt.Builder:
    try:
        return trt.Builder(logger(job.backend))
    except TypeError as error:  # pybind11's word for a factory that returned nothing
        raise unavailable(job.backend, log) from error


def compile_in_child(job: Job, progress: Progress) -> int | None:
    """As `compile_engine`, in a process of its own, which gives all memory back when it ends.

    Raises
    ------
    ModelError
        Also where the process is killed.
    """
    try:
        activation_bytes: int | None = ask(
            _MODULE, job, int | None, progress, verb="compiles the block"
        )
    except ProcessDied as error:
        raise ModelError(
            f"{job.title} can't be compiled by {job.backend}",
            why=f"{error.what}: {error.why}",
            hint=f"{error.hint}, or give a smaller --max-block",
        ) from error
    return activation_bytes


def make_monitor(
    trt: tensorrt.Module, report: Callable[[int, int], None], is_stopped: Callable[[], bool]
) -> Any:
    """An ``IProgressMonitor`` of the outermost phase, which ends the build when it is stopped.

    ``report`` takes the steps that are done, and all of them. An error in it stops the builder and
    is kept in ``monitor.raised``: an exception must not cross the library.
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


if __name__ == "__main__":
    sys.exit(serve(answering(Job, compile_engine)))
