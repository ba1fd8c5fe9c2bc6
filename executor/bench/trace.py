"""Timeline of one inference, in the Trace Event Format of Perfetto and chrome://tracing."""

from __future__ import annotations

from typing import Any

from swapnet.executor.execution import Inference
from swapnet.executor.planning.plan import Plan

__all__ = ["trace_events"]

_STORAGE, _COMPUTE, _STALL = 1, 2, 3
_LANES = {_STORAGE: "storage", _COMPUTE: "compute", _STALL: "waiting for bytes"}


def trace_events(plan: Plan, inference: Inference) -> list[dict[str, Any]]:
    """Events of one inference: requests, steps and waits, one lane each; times in µs."""
    origin = min([inference.steps[0].wait, *(read.start for read in inference.reads)])
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": lane, "args": {"name": name}}
        for lane, name in _LANES.items()
    ]

    def add(lane: int, name: str, start: float, end: float, **args: int) -> None:
        events.append(
            {
                "name": name,
                "ph": "X",
                "pid": 1,
                "tid": lane,
                "ts": (start - origin) * 1e6,
                "dur": (end - start) * 1e6,
                "args": args,
            }
        )

    for read in inference.reads:
        add(_STORAGE, f"block {read.block}", read.start, read.end, nbytes=read.nbytes)
    for event in inference.steps:
        step = plan.steps[event.step]
        name = f"block {step.first}" + (f"-{step.last}" if step.last > step.first else "")
        add(_COMPUTE, name, event.start, event.end)
        if event.start > event.wait:
            add(_STALL, name, event.wait, event.start)
    return events
