"""Messages between a worker process and its parent, one line of JSON each.

The bytes of its arrays follow an `Output`, as they lie in memory: no text, and no file, whose page
cache would count as memory of the worker.
"""

from __future__ import annotations

from typing import Any

import msgspec

from swapnet.executor.scenario.scenario import Entry
from swapnet.executor.scenario.steps import Change
from swapnet.executor.scenario.traffic import Arrival

__all__ = [
    "Alone",
    "Changed",
    "Close",
    "Command",
    "Engine",
    "Job",
    "Key",
    "Measured",
    "Moment",
    "Output",
    "Ready",
    "Reply",
    "Round",
    "RoundResult",
    "Served",
    "Tensor",
]

Key = tuple[int, int, str]
"""Outputs: number of the DNN, number of its input, digest."""


class Engine(msgspec.Struct, frozen=True):
    """One DNN of a worker.

    Attributes
    ----------
    entry
        Its entry in the scenario.
    folder
        Engine directory.
    samples
        ``.npz`` of its inputs, with a leading sample axis.
    """

    entry: Entry
    folder: str
    samples: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The DNNs that a worker opens: its first line.

    Attributes
    ----------
    engines
        Engines in the order of the scenario.
    budget_bytes
        Memory of all engines together.
    split
        One of `swapnet.executor.runtime.split.RULES`, or
        `swapnet.executor.scenario.baselines.WHOLE_MODEL`.
    threads, lanes
        Compute threads, and inferences that compute at once.
    storage_bytes_per_s
        To slow storage down to; None leaves it as it is.
    budgets
        Budgets of later; each is tried at the beginning.
    known
        Outputs that the parent has; others are sent to it.
    trace
        Number of inferences to keep for a timeline, of each DNN; 0 keeps none.
    """

    engines: tuple[Engine, ...]
    budget_bytes: int
    split: str
    threads: int
    lanes: int = 1
    storage_bytes_per_s: float | None = None
    budgets: tuple[int, ...] = ()
    known: tuple[Key, ...] = ()
    trace: int = 0


class Alone(msgspec.Struct, frozen=True, tag=True):
    """Run one input ``count`` times while nothing else runs."""

    model: int
    sample: int
    count: int = 1


class Round(msgspec.Struct, frozen=True, tag=True):
    """Run one round of requests, and change the budget meanwhile."""

    arrivals: tuple[Arrival, ...]
    changes: tuple[Change, ...] = ()


class Close(msgspec.Struct, frozen=True, tag=True):
    """Release everything; say what was used, and the timeline.

    Attributes
    ----------
    trace
        Inferences of any DNN from the last of which on the timeline is wanted; 0 for none.
    """

    trace: int = 0


Command = Alone | Round | Close


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Opened, or released.

    Attributes
    ----------
    resident_peak_bytes
        The most that the process had resident.
    events
        Timeline of all DNNs, as `swapnet.executor.report.trace.trace_events` makes it.
    """

    resident_peak_bytes: int = 0
    events: tuple[dict[str, Any], ...] = ()


class Measured(msgspec.Struct, frozen=True, tag=True):
    """Latencies of one input alone, and the digest of its latest outputs."""

    latency_ms: tuple[float, ...]
    digest: str


class Served(msgspec.Struct, frozen=True, array_like=True):
    """The end of one request.

    Attributes
    ----------
    model, sample, due_s
        As in its `Arrival`.
    latency_ms
        Time from when the request was due to its end.
    digest
        Digest of its outputs; empty where it failed.
    error
        Reason why it failed.
    """

    model: int
    sample: int
    due_s: float
    latency_ms: float
    digest: str = ""
    error: str = ""


class Moment(msgspec.Struct, frozen=True):
    """The runtime at one time.

    Attributes
    ----------
    time_s
        Time from the beginning of the round; in a report, of all rounds.
    budget_bytes
        Budget in force.
    shares_bytes, waiting
        Bytes of each DNN's share, and number of its waiting requests.
    """

    time_s: float
    budget_bytes: int
    shares_bytes: tuple[int, ...]
    waiting: tuple[int, ...]


class Changed(msgspec.Struct, frozen=True, array_like=True):
    """A budget that was set: when, to what, and how long that took."""

    at_s: float
    budget_bytes: int
    took_ms: float


class RoundResult(msgspec.Struct, frozen=True, tag=True):
    """Result of one round.

    Attributes
    ----------
    served
        Ends of requests, in order.
    read_bytes
        Bytes that each DNN read.
    moments, changed
        Over time.
    seconds
        Time until all requests had ended and all budgets were set.
    """

    served: tuple[Served, ...]
    read_bytes: tuple[int, ...] = ()
    moments: tuple[Moment, ...] = ()
    changed: tuple[Changed, ...] = ()
    seconds: float = 0.0


class Tensor(msgspec.Struct, frozen=True):
    """One array of an `Output`, in C order; ``dtype`` as NumPy writes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Output(msgspec.Struct, frozen=True, tag=True):
    """Outputs that the parent does not have; their bytes follow, tensor after tensor."""

    key: Key
    tensors: tuple[Tensor, ...]


Reply = Ready | Measured | RoundResult | Output
