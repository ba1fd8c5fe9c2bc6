"""One benchmark: sides in their own processes take turns, ratios are taken pair by pair."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from swapnet.arrays import save_npz
from swapnet.budget import Budget
from swapnet.errors import SwapnetError
from swapnet.executor.admission import admitted_bytes
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.ablation import Variant
from swapnet.executor.bench.cgroup import (
    MemoryGroup,
    accounting,
    check_available,
    is_available,
)
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.bench.process import Worker
from swapnet.executor.bench.report import Peer, Report
from swapnet.executor.bench.roles import Request, Role, Round
from swapnet.executor.bench.runtime import FixedCost, Runtime
from swapnet.executor.bench.summary import Measured, make_report, peer_of
from swapnet.executor.bench.turns import Schedule, Turns, take_turns
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.memory import for_pool
from swapnet.executor.plan import Plan, PlanOptions, make_plan
from swapnet.executor.storage import LoadMode
from swapnet.manifest import Manifest, load_manifest
from swapnet.profile import load_profile, with_needs
from swapnet.units import format_size

__all__ = ["Findings", "Offload", "Setup", "bench"]

_PATIENCE_S = 60.0
"""For one turn of a side that may fail: under a small limit others read the model over and over."""

_UNLIMITED_INFERENCES = 3


@dataclass(frozen=True)
class Offload:
    """The same model on PyTorch, offloaded to disk by accelerate.

    Attributes
    ----------
    folder
        Its weights, as `swapnet.executor.bench.offload` writes them.
    python
        An interpreter that has PyTorch and accelerate.
    """

    folder: Path
    python: Path


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
    device
        Compute threads.
    unswapped
        The original ONNX file, run by ONNX Runtime at its own best settings in turn with ours;
        None to leave it out.
    mapped
        An optimised ONNX file with external data, run by ONNX Runtime with memory-mapped weights
        in turn with ours, under the same limit; None to leave it out.
    offload
        accelerate in turn with ours, under the limit of its own fixed cost and the budget; None
        to leave it out.
    against
        Another engine directory of the same model, such as one in another precision, swapped in
        turn with ours at the same bytes of budget, under the same limit; None to leave it out.
    shapes
        Input shapes, measured before; empty for those of the build.
    ablations
        Other ways to swap by name, in turn with ours, under the same limit.
    load_mode, options
        How weights are read, and how to plan.
    memory_limit
        Run under the kernel's limit of the fixed cost and the budget.
    fixed_bytes
        Fixed costs that are known already, by side (``"swapped"``, ``"offload"``); others are
        measured.
    schedule
        How long.
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
    offload: Offload | None = None
    against: Path | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ablations: Mapping[str, Variant] = field(default_factory=dict)
    load_mode: LoadMode = LoadMode.AUTO
    options: PlanOptions = field(default_factory=PlanOptions)
    memory_limit: bool = False
    fixed_bytes: Mapping[str, int] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
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


def bench(setup: Setup) -> Findings:
    """Measure one engine at one budget.

    Raises
    ------
    BudgetError
        The budget is too small, or the kernel killed the swapped model.
    BackendUnavailableError
        A kernel limit was asked for and is not to be had.
    SwapnetError
        Whatever a side raised; other ways to run the model may fail, which the report says.
    """
    manifest = for_pool(load_manifest(setup.folder, setup.shapes or None), ThreadPool.GLOBAL)
    profile = load_profile(setup.folder, manifest, setup.device.fingerprint)
    manifest = with_needs(manifest, profile.needs)
    budget_bytes = admitted_bytes(setup.budget, manifest)
    plan = make_plan(manifest, profile, budget_bytes, setup.options)
    counted = is_available()
    if setup.memory_limit:
        check_available()
    with tempfile.TemporaryDirectory(prefix="swapnet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        sides = _Sides(setup, plan, folder, stack, counted)
        turns = take_turns(setup.schedule, sides.workers, sides.optional)
        turns.notes.update(sides.notes)
        swapped = sides.workers["swapped"]
        details = swapped.details()
        # The peak is read before outputs are written out, which is not the model's doing.
        group = sides.groups.get("swapped")
        peak = group.peak_bytes if group is not None else int(details["resident_peak_bytes"])
        peak -= sides.runtime_bytes
        if manifest.runs_on_gpu:
            peak = int(details["gpu_bytes"])
        outputs = sides.outputs("swapped", folder)
        error = (
            largest_difference(outputs, sides.outputs("unswapped", folder))
            if setup.unswapped is not None
            else None
        )
        peers = {name: _peer(sides, turns, name, outputs, folder) for name in sides.optional}
        report = make_report(
            Measured(
                manifest=manifest,
                profile=profile,
                plan=plan,
                swapped=tuple(turns.rounds["swapped"]),
                resident=tuple(turns.rounds["resident"]),
                unswapped=tuple(turns.rounds.get("unswapped", ())),
                peers={k: p for k, p in peers.items() if k not in setup.ablations},
                ablations={k: p for k, p in peers.items() if k in setup.ablations},
                runtime_bytes=sides.runtime_bytes,
                peak_bytes=peak,
                accounting=_accounting(setup, manifest, counted),
                error=error,
                load_mode=details["load_mode"],
            ),
            budget=str(setup.budget),
            percentiles=setup.percentiles,
            device=setup.device,
            command=setup.command,
        )
        for worker in sides.workers.values():
            worker.close()
        return Findings(
            report,
            plan,
            manifest,
            tuple(turns.rounds["swapped"]),
            outputs,
            tuple(map(tuple, details["steps_ms"])),
            tuple(details["trace"]),
        )


def _accounting(setup: Setup, manifest: Manifest, counted: bool) -> str:
    if manifest.runs_on_gpu:
        return "GPU"
    return accounting(counted=counted, limited=setup.memory_limit)


class _Sides:
    """All processes of one benchmark, started under their limits.

    Attributes
    ----------
    workers
        By name; those that could not start are missing.
    groups
        Where the kernel counts, by name.
    optional
        Names of the sides that may fail, whether they started or not.
    notes
        Why a side did not start.
    runtime_bytes
        Fixed cost of our process.
    fixed_bytes
        Of the processes that have another.
    """

    def __init__(
        self,
        setup: Setup,
        plan: Plan,
        folder: Path,
        stack: ExitStack,
        counted: bool,
    ) -> None:
        self._setup = setup
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._counted = counted
        self.workers: dict[str, Worker] = {}
        self.groups: dict[str, MemoryGroup] = {}
        self.optional: list[str] = []
        self.fixed_bytes: dict[str, int] = {}
        self._turns = Turns()
        save_npz(folder / "inputs.npz", setup.inputs)
        self._open()

    @property
    def notes(self) -> Mapping[str, str]:
        return self._turns.notes

    def outputs(self, name: str, folder: Path) -> dict[str, Array]:
        """Of a side's latest inference; its limit ends here."""
        if name in self.groups:
            self.groups[name].lift()
        return self.workers[name].outputs(folder)

    def unlimited_offload(self) -> str:
        """In words: how accelerate fares with no limit, where it does not live under this one."""
        offload = self._setup.offload
        assert offload is not None
        request = self._request("offload", offload.folder)
        try:
            with ExitStack() as stack:
                group = stack.enter_context(MemoryGroup(None)) if self._counted else None
                worker = Worker(request, group, python=offload.python)
                turn = stack.enter_context(worker).run(_UNLIMITED_INFERENCES)
                peak = group.peak_bytes if group else worker.details()["resident_peak_bytes"]
                worker.close()
        except SwapnetError as error:
            return f"without a limit: {error.what}"
        return (
            f"without a limit it takes {median(turn.latency_ms):.0f} ms and "
            f"{format_size(peak)}, its weights in the page cache"
        )

    def _open(self) -> None:
        setup = self._setup
        runtime = Runtime(
            setup.runtime_engine, self._folder, setup.device, drop_cache=setup.memory_limit
        )
        known = setup.fixed_bytes.get("swapped")
        self.runtime_bytes = known or runtime.measure(counted=self._counted)
        runtime.warm_up()
        self._start("swapped", self._request("swapped", setup.folder), self.runtime_bytes)
        self._start("resident", self._request("resident", setup.folder))
        if setup.unswapped is not None:
            self._start("unswapped", self._request("unswapped", setup.unswapped))
        if setup.mapped is not None:
            mapped = self._request("mapped", setup.mapped)
            self._try("mapped", mapped, self.runtime_bytes)
        if setup.against is not None:
            other = self._request("swapped", setup.against)
            self._try("against", other, self.runtime_bytes)
        for name, variant in setup.ablations.items():
            request = self._request("swapped", setup.folder, variant)
            self._try(name, request, self.runtime_bytes)
        if setup.offload is not None:
            self._open_offload(setup.offload)

    def _open_offload(self, offload: Offload) -> None:
        cost = FixedCost(self._request("offload", None), python=offload.python)
        fixed = self._setup.fixed_bytes.get("offload")
        try:
            if fixed is None:
                fixed = cost.measure(counted=self._counted)
            else:
                cost.warm_up()
        except SwapnetError as error:
            self.optional.append("offload")
            self._turns.fail("offload", error)
            return
        self.fixed_bytes["offload"] = fixed
        self._try("offload", self._request("offload", offload.folder), fixed, offload.python)

    def _request(self, role: Role, path: Path | None, variant: Variant | None = None) -> Request:
        variant = variant or Variant("", self._setup.options)
        return Request(
            role=role,
            path=str(path) if path else "",
            inputs=str(self._folder / "inputs.npz"),
            threads=self._setup.device.threads,
            budget_bytes=self._plan.budget_bytes,
            load_mode=(variant.load_mode or self._setup.load_mode).value,
            options=variant.options,
            streamed=tuple((read.file_offset, read.nbytes) for read in self._plan.reads),
            readers=max(self._plan.readers, 1),
            trace=self._setup.trace,
            shapes=self._setup.shapes or None,
            gpu_memory=self._setup.device.gpu_memory,
        )

    def _try(
        self, name: str, request: Request, fixed_bytes: int, python: Path | None = None
    ) -> None:
        self.optional.append(name)
        try:
            self._start(name, request, fixed_bytes, python, patience_s=_PATIENCE_S)
        except SwapnetError as error:
            self._turns.fail(name, error)

    def _start(
        self,
        name: str,
        request: Request,
        fixed_bytes: int | None = None,
        python: Path | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        """Start a side; with a fixed cost it is counted, and limited where that was asked for."""
        group = limit = None
        if fixed_bytes is not None:
            if self._setup.memory_limit:
                limit = fixed_bytes + self._plan.budget_bytes
            if self._counted:
                group = self._stack.enter_context(MemoryGroup(limit))
                self.groups[name] = group
        worker = Worker(request, group, limit, python=python, patience_s=patience_s)
        self.workers[name] = self._stack.enter_context(worker)


def _peer(sides: _Sides, turns: Turns, name: str, ours: Mapping[str, Array], folder: Path) -> Peer:
    rounds: list[Round] = turns.rounds.get(name, [])
    error = None
    if rounds and name not in turns.notes:
        theirs = {k: v for k, v in sides.outputs(name, folder).items() if k in ours}
        error = largest_difference(ours, theirs)[1] if theirs else None
    note = turns.notes.get(name, "")
    if note and name == "offload" and name in sides.fixed_bytes:
        note = f"{note}; {sides.unlimited_offload()}"
    return peer_of(
        turns.rounds["swapped"],
        rounds,
        runtime_bytes=sides.fixed_bytes.get(name),
        max_rel_error=error,
        note=note,
    )
