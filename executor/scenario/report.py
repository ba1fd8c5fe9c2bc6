"""The report of a scenario: schema ``swapnet-scenario/2``."""

from __future__ import annotations

from typing import Literal

import msgspec

from swapnet.executor.bench.report import Machine
from swapnet.executor.bench.statistics import Summary
from swapnet.executor.scenario.messages import Moment

__all__ = ["Line", "Phase", "Report", "Way"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One DNN.

    Attributes
    ----------
    name, model, task, priority, rate_per_s, deadline_ms
        As in the scenario; the rate as it was, with the run's speed.
    requests, failures, wrong_outputs
        Wrong: not the bytes that unlimited memory gives. What was answered together with other
        requests may differ by `swapnet.executor.scenario.expected_outputs.JOINED_LIMIT`.
    latency_ms, unlimited_ms
        Time from when a request was due to its end; None where all failed.
    ratio_to_unlimited
        Ratio of mean latencies: the median over rounds.
    bound_ms
        Lower bound of an inference: the fastest one with everything in memory, or reading all that
        its ring does not hold, at the bandwidth of idle storage.
    compute_ms
        Alone and with everything in memory.
    deadline_misses
        Requests that ended after their deadline.
    budget_bytes
        Share at the end: memory for its weights.
    weights_bytes
        Bytes that it would read without resident weights.
    read_bytes, read_bytes_per_inference
        Bytes read from storage.
    """

    name: str
    model: str
    task: str
    priority: float
    rate_per_s: float
    deadline_ms: float | None
    requests: int
    failures: int
    wrong_outputs: int
    latency_ms: Summary | None
    unlimited_ms: Summary | None
    ratio_to_unlimited: float | None
    bound_ms: float
    compute_ms: float
    deadline_misses: int
    budget_bytes: int
    weights_bytes: int
    read_bytes: int
    read_bytes_per_inference: int


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to share the budget: ours, another, or none to share.

    Attributes
    ----------
    weighted_latency_ms
        Mean over requests, weighted by priority; None without requests.
    latency_ms
        Latency of each DNN.
    peak_bytes
        Peak above ``fixed_bytes`` and ``traffic_bytes``.
    note
        Reason why it did not run to the end.
    """

    weighted_latency_ms: float | None = None
    latency_ms: dict[str, Summary | None] = {}
    requests: int = 0
    failures: int = 0
    wrong_outputs: int = 0
    deadline_misses: int = 0
    read_bytes: int = 0
    peak_bytes: int | None = None
    note: str = ""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the run with one budget.

    Attributes
    ----------
    start_s, end_s
        Times of the traffic.
    rebalance_ms
        Time of the change to this budget; None for the first.
    weighted_latency_ms, unlimited_weighted_latency_ms
        Means over the requests that were due in it.
    """

    budget_bytes: int
    start_s: float
    end_s: float
    rebalance_ms: float | None
    requests: int
    failures: int
    weighted_latency_ms: float | None
    unlimited_weighted_latency_ms: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario at one budget; keys and units of the schema ``swapnet-scenario/2``.

    Attributes
    ----------
    demand_bytes, weights_bytes
        Memory of all DNNs together, without swapping.
    peak_bytes
        Measured, above ``fixed_bytes`` and ``traffic_bytes``.
    fixed_bytes
        Fixed cost of the process.
    traffic_bytes
        Inputs that requests are made of, and outputs while they are compared.
    memory_accounting
        Way of counting: ``"kernel limit"``, ``"kernel"`` or ``"resident set"``. With
        ``", sampled"`` where the kernel keeps no peak.
    storage_bytes_per_s
        Bandwidth of idle storage: the median over rounds.
    weighted_latency_ms
        Mean over requests, weighted by the priority of the DNN.
    compare
        Weighted latency of each other way over ours, the median over rounds; None where it failed.
    ways
        All ways, ours as ``"ours"``.
    phases
        Parts of the run between changes of the budget.
    samples
        Moments of ours, over time.
    errors
        Reason of each DNN's first failed request.
    """

    schema: Literal["swapnet-scenario/2"] = "swapnet-scenario/2"
    scenario: str
    title: str
    split: str
    lanes: int
    budget: str
    budget_bytes: int
    demand_bytes: int
    weights_bytes: int
    peak_bytes: int
    fixed_bytes: int
    traffic_bytes: int
    memory_accounting: str
    storage_bytes_per_s: float
    weighted_latency_ms: float | None
    models: tuple[Line, ...]
    compare: dict[str, float | None]
    ways: dict[str, Way]
    phases: tuple[Phase, ...]
    samples: tuple[Moment, ...]
    errors: dict[str, str]
    rounds: int
    seed: int
    command: str
    machine: Machine
