"""One benchmark: sides in their own processes take turns, ratios are taken pair by pair."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import swapnet
from swapnet.arrays import save_npz
from swapnet.budget import Budget
from swapnet.errors import BackendUnavailableError, BudgetError
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.cgroup import MemoryGroup, is_available
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.bench.process import Worker
from swapnet.executor.bench.report import Machine, Report, Verdict
from swapnet.executor.bench.roles import Request, Round
from swapnet.executor.bench.runtime import Runtime
from swapnet.executor.bench.statistics import percentile, summarise
from swapnet.executor.device import Device, available_processors
from swapnet.executor.machine import memory_bytes
from swapnet.executor.memory import demand
from swapnet.executor.plan import Plan, make_plan
from swapnet.executor.storage import LoadMode
from swapnet.manifest import Manifest, load_manifest
from swapnet.profile import load_profile
from swapnet.units import format_size

__all__ = ["Findings", "Setup", "bench"]


@dataclass(frozen=True)
class Setup:
    """What to measure and how long.

    Attributes
    ----------
    folder
        Engine directory.
    budget
        Of the swapped side.
    inputs
        Arrays by name.
    runtime_engine
        An engine of one operator: its process is the fixed cost.
    unswapped
        The original ONNX file, run by ONNX Runtime at its own best settings in turn with ours;
        None to leave it out.
    mapped
        An optimised ONNX file with external data, run by ONNX Runtime with memory-mapped weights
        in turn with ours, under the same limit; None to leave it out.
    device
        Compute threads.
    memory_limit
        Run under the kernel's limit of the fixed cost and the budget.
    iterations, warm_up_ms, duration_s
        At least so many inferences and so long, after such a warm-up.
    rounds
        At least so many turns; a ratio is the median of their pairs.
    percentiles
        To report.
    trace
        Record the timeline of the last inference.
    command
        For the report.
    """

    folder: Path
    budget: Budget
    inputs: dict[str, Array]
    runtime_engine: Path
    device: Device
    unswapped: Path | None = None
    mapped: Path | None = None
    load_mode: LoadMode = LoadMode.AUTO
    memory_limit: bool = False
    iterations: int = 10
    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    rounds: int = 5
    percentiles: tuple[float, ...] = (90, 95, 99)
    trace: bool = False
    command: str = ""


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes
    ----------
    report
        The summary.
    rounds
        Of the swapped side, in order.
    outputs
        Of the swapped side's last inference.
    steps_ms
        By step of ``plan``: execution time in each counted inference.
    trace_events
        Of the last inference; empty unless traced.
    """

    report: Report
    plan: Plan
    manifest: Manifest
    rounds: tuple[Round, ...]
    outputs: dict[str, Array]
    steps_ms: tuple[tuple[float, ...], ...]
    trace_events: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Sides:
    """What each side gave, round by round."""

    swapped: tuple[Round, ...]
    resident: tuple[Round, ...]
    unswapped: tuple[Round, ...]
    mapped: tuple[Round, ...]


def bench(setup: Setup) -> Findings:
    """Measure one engine at one budget.

    Raises
    ------
    BudgetError
        The budget is too small, or the kernel killed the swapped model.
    BackendUnavailableError
        A kernel limit was asked for and is not to be had.
    SwapnetError
        Whatever a side raised.
    """
    manifest = load_manifest(setup.folder)
    profile = load_profile(setup.folder, manifest, setup.device.fingerprint)
    needed = demand(manifest)
    budget_bytes = setup.budget.resolve(needed)
    machine = memory_bytes()
    if budget_bytes > machine:
        raise BudgetError(
            f"a budget of {setup.budget} is more than this machine has",
            why=f"it is {budget_bytes} bytes, the machine has {machine}",
            hint=f"give at most {format_size(machine)}",
        )
    plan = make_plan(manifest, profile, budget_bytes)
    counted = is_available()
    if setup.memory_limit and not counted:
        raise BackendUnavailableError(
            "the kernel's memory limit is not to be had here",
            why="making a cgroup with a memory limit needs root and a memory controller",
            hint="run as root, or leave --memory-limit out",
        )
    with tempfile.TemporaryDirectory(prefix="swapnet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        request = _requests(setup, plan, manifest, folder)
        runtime = Runtime(setup.runtime_engine, folder, setup.device, drop_cache=setup.memory_limit)
        runtime_bytes = runtime.measure(counted=counted)
        limit = runtime_bytes + budget_bytes if setup.memory_limit else None
        group = stack.enter_context(MemoryGroup(limit)) if counted else None
        runtime.warm_up()
        swapped = stack.enter_context(Worker(request("swapped"), group, limit))
        sides = {"swapped": swapped, "resident": stack.enter_context(Worker(request("resident")))}
        if setup.unswapped is not None:
            sides["unswapped"] = stack.enter_context(Worker(request("unswapped")))
        if setup.mapped is not None:
            mapped_group = stack.enter_context(MemoryGroup(limit)) if counted else None
            sides["mapped"] = stack.enter_context(Worker(request("mapped"), mapped_group, limit))
        rounds = _take_turns(setup, sides)
        details = swapped.details()
        # The peak is read before outputs are written out, which is not the model's doing.
        peak = group.peak_bytes if group is not None else int(details["resident_peak_bytes"])
        if group is not None:
            group.lift()
        outputs = {key: side.outputs(folder) for key, side in sides.items() if key != "mapped"}
        report = _report(
            setup,
            manifest,
            plan,
            rounds,
            runtime_bytes=runtime_bytes,
            peak_bytes=peak - runtime_bytes,
            accounting=_accounting(setup, counted),
            error=largest_difference(outputs["swapped"], outputs["unswapped"])
            if "unswapped" in outputs
            else None,
            load_mode=details["load_mode"],
        )
        for side in sides.values():
            side.close()
        return Findings(
            report,
            plan,
            manifest,
            rounds.swapped,
            outputs["swapped"],
            tuple(map(tuple, details["steps_ms"])),
            tuple(details["trace"]),
        )


def _accounting(setup: Setup, counted: bool) -> str:
    if setup.memory_limit:
        return "kernel limit"
    return "kernel" if counted else "resident set"


def _requests(
    setup: Setup, plan: Plan, manifest: Manifest, folder: Path
) -> Callable[[str], Request]:
    save_npz(folder / "inputs.npz", setup.inputs)
    streamed = tuple(
        (block.extent.offset, block.extent.nbytes)
        for block, place in zip(manifest.blocks, plan.places, strict=True)
        if not place.resident
    )
    paths = {"unswapped": setup.unswapped, "mapped": setup.mapped}

    def request(role: Any) -> Request:
        return Request(
            role=role,
            path=str(paths.get(role) or setup.folder),
            inputs=str(folder / "inputs.npz"),
            threads=setup.device.threads,
            budget_bytes=plan.budget_bytes,
            load_mode=str(setup.load_mode),
            streamed=streamed,
            trace=setup.trace,
        )

    return request


def _take_turns(setup: Setup, sides: dict[str, Worker]) -> _Sides:
    until = time.perf_counter() + setup.warm_up_ms / 1e3
    while True:
        for side in sides.values():
            side.run(1)
        if time.perf_counter() >= until:
            break
    count = max(1, -(-setup.iterations // setup.rounds))
    rounds: dict[str, list[Round]] = {name: [] for name in sides}
    spent = 0.0
    while len(rounds["swapped"]) < setup.rounds or spent < setup.duration_s * 1e3:
        for name, side in sides.items():
            rounds[name].append(side.run(count))
        spent += sum(rounds["swapped"][-1].latency_ms)
    return _Sides(
        *(tuple(rounds.get(n, ())) for n in ("swapped", "resident", "unswapped", "mapped"))
    )


def _report(
    setup: Setup,
    manifest: Manifest,
    plan: Plan,
    sides: _Sides,
    *,
    runtime_bytes: int,
    peak_bytes: int,
    accounting: str,
    error: tuple[float, float] | None,
    load_mode: str,
) -> Report:
    latencies = [ms for r in sides.swapped for ms in r.latency_ms]
    stall_ms = median(ms for r in sides.swapped for ms in r.stall_ms)
    read_bytes = sum(r.read_bytes for r in sides.swapped)
    storage = median(r.storage_bytes_per_s for r in sides.resident)
    whole = sides.unswapped or tuple(Round(r.idle_ms) for r in sides.resident)
    reading_ms = plan.streamed_bytes / storage * 1e3 if plan.streamed_bytes else 0.0
    bounds = [max(_middle(w), reading_ms) for w in whole]
    contended = [
        max(_middle(r), _middle(w)) if plan.streamed_bytes else _middle(w)
        for r, w in zip(sides.resident, whole, strict=True)
    ]
    unswapped = [ms for r in sides.unswapped for ms in r.latency_ms]
    mapped = [ms for r in sides.mapped for ms in r.latency_ms]
    verdict: Verdict = (
        "storage-bound" if reading_ms > median(map(_middle, whole)) else ("compute-bound")
    )
    ordered = sorted(latencies)
    return Report(
        model=manifest.source.name,
        backend=manifest.compiled.backend,
        budget=str(setup.budget),
        budget_bytes=plan.budget_bytes,
        demand_bytes=demand(manifest).total_bytes,
        weights_bytes=demand(manifest).weights_bytes,
        resident_bytes=plan.resident_bytes + plan.shared_bytes,
        ring_bytes=plan.ring_bytes,
        activation_bytes=plan.usage.activation_bytes,
        staging_bytes=plan.usage.staging_bytes,
        peak_bytes=peak_bytes,
        runtime_bytes=runtime_bytes,
        memory_accounting=accounting,
        streamed_bytes=round(read_bytes / len(latencies)),
        storage_bytes_per_s=storage,
        latency_ms=summarise(latencies),
        percentiles_ms={f"{p:g}": percentile(ordered, p) for p in setup.percentiles},
        throughput_qps=1e3 * len(latencies) / sum(latencies),
        unswapped_ms=summarise(unswapped) if unswapped else None,
        ratio_to_unswapped=_ratio(sides.swapped, map(_middle, sides.unswapped)),
        mapped_ms=summarise(mapped) if mapped else None,
        ratio_of_mapped=_inverse(_ratio(sides.swapped, map(_middle, sides.mapped))),
        bound_ms=median(bounds),
        ratio_to_bound=_ratio(sides.swapped, bounds) or 0.0,
        contended_bound_ms=median(contended),
        ratio_to_contended_bound=_ratio(sides.swapped, contended) or 0.0,
        predicted_ms=plan.predicted_ms,
        overlap_fraction=max(0.0, 1 - stall_ms / reading_ms) if reading_ms else 1.0,
        stall_ms=stall_ms,
        max_abs_error=error[0] if error else None,
        max_rel_error=error[1] if error else None,
        verdict=verdict if plan.streamed_bytes else "not swapped",
        iterations=len(latencies),
        command=setup.command,
        machine=Machine(
            processor=_processor(),
            processors=available_processors(),
            memory_bytes=memory_bytes(),
            kernel=platform.release(),
            python=platform.python_version(),
            swapnet=swapnet.__version__,
            backend=f"{manifest.compiled.backend} {_installed(manifest)}",
            load_mode=load_mode,
            threads=setup.device.threads,
        ),
    )


def _middle(turn: Round) -> float:
    return median(turn.latency_ms)


def _ratio(swapped: Sequence[Round], others: Any) -> float | None:
    """Median over the rounds of ours over theirs; None where there is no other."""
    pairs = [_middle(ours) / theirs for ours, theirs in zip(swapped, others, strict=False)]
    return median(pairs) if pairs else None


def _inverse(ratio: float | None) -> float | None:
    return None if ratio is None else 1 / ratio


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _installed(manifest: Manifest) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(manifest.compiled.backend)
    except PackageNotFoundError:
        return manifest.compiled.version
