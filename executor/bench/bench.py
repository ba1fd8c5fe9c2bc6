"""One benchmark: sides run in turn in their own processes, ratios are taken round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from swapnet.arrays import save_npz
from swapnet.budget import Budget
from swapnet.errors import SwapnetError
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.difference import (
    DIFFERENCE_LIMIT,
    Rule,
    in_shape,
    judge,
    largest_difference,
    non_finite_reasons,
    packing_reasons,
    rounding,
)
from swapnet.executor.bench.fixed_cost import FixedCost, executor_cost, settled_peak
from swapnet.executor.bench.report import Peer, Report
from swapnet.executor.bench.rounds import Pauses, Rounds, Schedule, run_rounds
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.summary import make_report, peer_of
from swapnet.executor.bench.timing import Opening, Round, Timing
from swapnet.executor.bench.worker import Program, Worker
from swapnet.executor.engine import Engine
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.planning.planner import make_plan
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS
from swapnet.executor.swapping.storage import LoadMode
from swapnet.files import folder_bytes, is_in_page_cache, working_folder
from swapnet.manifest import WEIGHTS, Manifest
from swapnet.process.cgroup import MemoryGroup, check_available, is_available
from swapnet.profile import Profile
from swapnet.progress import Progress, silent

__all__ = ["Findings", "Other", "Setup", "bench"]

_PATIENCE_S = 60.0
"""Time-out of a round of a side that may fail: under a small limit it reads the model endlessly."""

_RECOUNTED = 3
"""Inferences of a process whose memory is counted again."""


@dataclass(frozen=True)
class Other:
    """Another way to run the model, in turn with ours at the same bytes of budget.

    Attributes
    ----------
    path
        Engine directory or ONNX file.
    role
        See `Request`.
    options, load_mode
        Restrictions of the plan and way to read, for a side that swaps; None for those of ours.
    program
        Program that runs it, with its own fixed cost: that of the same program with the path
        ``""``. None for a process of ours.
    """

    path: Path
    role: str = "swapped"
    options: PlanOptions | None = None
    load_mode: LoadMode | None = None
    program: Program | None = None


@dataclass(frozen=True)
class Setup:
    """Settings of one benchmark.

    Attributes
    ----------
    engine
        The engine, at its input shapes and on its device.
    budget
        Budget of the swapped side.
    inputs
        Arrays by name.
    one_operator
        Engine of one operator: the memory of its process is the fixed cost.
    unswapped
        The original ONNX file, run by ONNX Runtime at its own best settings in turn with ours;
        None to leave it out.
    others
        Other ways to run the model by name, in turn with ours, under the same limit. They may fail.
    load_mode, options, storage_timeout_ms, memory_limit, percentiles, trace, command
        As for `swapnet.bench`.
    rule
        Largest difference from the unswapped model.
    references, reference_rule
        Outputs to compare with, by name, and their largest difference.
    explain
        Called where the difference is larger: reasons that lie in the original model.
    fixed_bytes
        Fixed costs that are known already: ``"swapped"`` is that of our processes, others have
        the names of ``others``. Missing ones are measured.
    schedule
        Number and duration of rounds.
    pauses
        Time between inferences.
    advice
        Search the budget at which waits do not matter: seconds for a large model.
    """

    engine: Engine
    budget: Budget
    inputs: dict[str, Array]
    one_operator: Path
    unswapped: Path | None = None
    others: Mapping[str, Other] = field(default_factory=dict)
    load_mode: LoadMode = LoadMode.AUTO
    options: PlanOptions = field(default_factory=PlanOptions)
    rule: Rule = field(default_factory=lambda: Rule("relative", DIFFERENCE_LIMIT))
    references: Mapping[str, Array] = field(default_factory=dict)
    reference_rule: Rule = field(default_factory=Rule)
    explain: Callable[[], Iterable[str]] = tuple
    storage_timeout_ms: float = STORAGE_TIMEOUT_MS
    memory_limit: bool = False
    fixed_bytes: Mapping[str, int] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    pauses: Pauses = field(default_factory=Pauses)
    percentiles: tuple[float, ...] = (90, 95, 99)
    trace: int = 0
    advice: bool = False
    command: str = ""


@dataclass(frozen=True)
class Findings:
    """Results of one benchmark.

    Attributes
    ----------
    report
        The summary.
    plan, manifest, profile
        Plan, manifest and stored delays of the swapped side.
    rounds
        Rounds of the swapped side, in order.
    outputs
        Outputs of the swapped side's last inference.
    trace_events
        Events of the opening, of the first inference and of the latest; empty unless traced.
    """

    report: Report
    plan: Plan
    manifest: Manifest
    profile: Profile
    rounds: tuple[Round, ...]
    outputs: dict[str, Array]
    trace_events: tuple[dict[str, Any], ...]

    @property
    def timings(self) -> list[Timing]:
        """Counted inferences of the swapped side, in order."""
        return [timing for turn in self.rounds for timing in turn.timings]


def bench(setup: Setup, progress: Progress = silent) -> Findings:
    """Measure one engine at one budget; ``progress`` is called with each stage and round.

    Raises
    ------
    BudgetError
        The budget is too small, or the kernel killed the swapped model.
    BackendUnavailableError
        A kernel limit was asked for and is not available.
    SwapnetError
        A side raised it; failures of ``others`` are only reported.
    """
    engine = setup.engine.in_child().with_needs()
    manifest, profile = engine.manifest, engine.delays
    budget_bytes = admitted_bytes(setup.budget, manifest, profile=profile, options=setup.options)
    plan = make_plan(manifest, profile, budget_bytes, setup.options)
    counted = is_available()
    if setup.memory_limit:
        check_available()
    with working_folder("swapnet-bench-") as folder, ExitStack() as stack:
        progress("open", 0, 1)
        sides = _Sides(setup, plan, folder, stack, counted)
        runs = {name: worker.run for name, worker in sides.workers.items()}
        taken = run_rounds(setup.schedule, runs, setup.others, progress)
        taken.notes.update(sides.rounds.notes)
        swapped = sides.workers["swapped"]
        # The peak is read before timelines and outputs are written: that takes memory too.
        group = sides.groups.get("swapped")
        counted_bytes = settled_peak(sides.counts(group)) if group is not None else None
        details = swapped.details()
        peak = int(details["resident_peak_bytes"]) if counted_bytes is None else counted_bytes
        peak -= sides.fixed_bytes
        counted_by = "resident set" if group is None else group.accounting
        if manifest.runs_on_gpu:
            peak, counted_by = int(details["gpu_bytes"]), "GPU"
        outputs = sides.outputs("swapped")
        error = judgement = None
        if setup.unswapped is not None:
            theirs = sides.outputs("unswapped")
            error = largest_difference(outputs, theirs)
            judgement = judge(outputs, theirs, setup.rule)
            if not judgement.is_within:
                reasons = tuple(_reasons(sides, manifest, outputs, theirs))
                judgement = msgspec.structs.replace(judgement, reasons=reasons)
        references = None
        if setup.references:
            expected = in_shape(setup.references, outputs)
            references = judge(outputs, expected, setup.reference_rule)
            found = (*non_finite_reasons(outputs, expected), *rounding(manifest))
            reasons = () if references.is_within else found
            references = msgspec.structs.replace(references, reasons=reasons)
        peers = {name: _peer(sides, taken, name, outputs) for name in setup.others}
        report = make_report(
            *(manifest, profile, plan, taken),
            percentiles=setup.percentiles,
            advice=setup.advice,
            device=setup.engine.device,
            load_mode=details["load_mode"],
            rate_hz=setup.pauses.rate_hz,
            budget=str(setup.budget),
            engine_bytes=folder_bytes(engine.folder),
            peak_bytes=peak,
            fixed_bytes=sides.fixed_bytes,
            memory_accounting=counted_by,
            opening=Opening(**details["opening"], cache=sides.cache),
            max_abs_error=error[0] if error else None,
            max_rel_error=error[1] if error else None,
            difference=judgement,
            references=references,
            peers=peers,
            command=setup.command,
        )
        for worker in sides.workers.values():
            worker.close()
        return Findings(
            report,
            plan,
            manifest,
            profile,
            tuple(taken.rounds["swapped"]),
            outputs,
            tuple(details["trace"]),
        )


class _Sides:
    """All processes of one benchmark, started under their limits, by the names of their sides.

    Sides that could not start are in ``rounds`` only. ``cache`` says whether the page cache held
    the weights when the swapped side was opened.
    """

    def __init__(
        self, setup: Setup, plan: Plan, folder: Path, stack: ExitStack, counted: bool
    ) -> None:
        self.setup = setup
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._counted = counted
        self.workers: dict[str, Worker] = {}
        self.groups: dict[str, MemoryGroup] = {}
        self.other_fixed_bytes: dict[str, int] = {}
        self.rounds = Rounds()
        save_npz(folder / "inputs.npz", setup.inputs)
        self._open()

    def counts(self, group: MemoryGroup) -> Iterator[tuple[int, int]]:
        """Counts of the swapped side, in its group and then in others, for `settled_peak`."""
        # Under a limit the kernel takes the page cache back at need.
        yield group.peak_bytes, 0 if self.setup.memory_limit else group.cached_bytes
        while True:
            request = self.workers["swapped"].request
            with MemoryGroup(None) as again, Worker(request, again) as worker:
                self._forget_opening(again)
                worker.run(_RECOUNTED)
                count = again.peak_bytes, again.cached_bytes
            yield count

    def outputs(self, name: str) -> dict[str, Array]:
        """Outputs of a side's latest inference; its memory limit ends here."""
        if name in self.groups:
            self.groups[name].lift()
        return self.workers[name].outputs(self._folder)

    def unpacked_outputs(self) -> dict[str, Array]:
        """Outputs of the unswapped model without packed weights, in a process that ends."""
        with Worker(self._request("unpacked", self.setup.unswapped)) as worker:
            worker.run(1)
            return worker.outputs(self._folder)

    def _open(self) -> None:
        setup = self.setup
        runtime = executor_cost(
            setup.one_operator, self._folder, setup.engine.device, drop_cache=setup.memory_limit
        )
        known = setup.fixed_bytes.get("swapped")
        self.fixed_bytes = known or runtime.measure(counted=self._counted)
        runtime.warm_up()
        # Not earlier: measuring the fixed cost may drop the page cache.
        cached = is_in_page_cache(setup.engine.folder / WEIGHTS)
        self.cache: Literal["cold", "warm"] = "warm" if cached else "cold"
        self._start("swapped", self._request("swapped", setup.engine.folder), self.fixed_bytes)
        if (group := self.groups.get("swapped")) is not None:
            self._forget_opening(group)
        self._start("resident", self._request("resident", setup.engine.folder))
        if setup.unswapped is not None:
            self._start("unswapped", self._request("unswapped", setup.unswapped))
        for name, other in setup.others.items():
            try:
                self._start_other(name, other)
            except SwapnetError as error:
                self.rounds.fail(name, error)

    def _forget_opening(self, group: MemoryGroup) -> None:
        """Forget page cache that sessions were made through: the kernel takes it back at need."""
        if self.setup.engine.manifest.has_windows and not self.setup.memory_limit:
            group.forget_peak()

    def _start_other(self, name: str, other: Other) -> None:
        fixed_bytes = self.fixed_bytes
        if other.program is not None:
            trivial = self._request(other.role, None)
            cost = FixedCost(trivial, program=other.program)
            known = self.setup.fixed_bytes.get(name)
            if known is None:
                fixed_bytes = cost.measure(counted=self._counted)
            else:
                fixed_bytes = known
                cost.warm_up()
            self.other_fixed_bytes[name] = fixed_bytes
        request = self._request(other.role, other.path, other.options, other.load_mode)
        self._start(name, request, fixed_bytes, other.program, patience_s=_PATIENCE_S)

    def _request(
        self,
        role: str,
        path: Path | None,
        options: PlanOptions | None = None,
        load_mode: LoadMode | None = None,
    ) -> Request:
        setup = self.setup
        return Request.to(
            setup.engine,
            role,
            path=str(path or ""),
            inputs=str(self._folder / "inputs.npz"),
            budget_bytes=self._plan.budget_bytes,
            load_mode=(load_mode or setup.load_mode).value,
            options=options or setup.options,
            streamed=tuple((read.file_offset, read.stored_bytes) for read in self._plan.reads),
            readers=max(self._plan.readers, 1),
            trace=setup.trace,
            pauses=setup.pauses,
            storage_timeout_ms=setup.storage_timeout_ms,
        )

    def _start(
        self,
        name: str,
        request: Request,
        fixed_bytes: int | None = None,
        program: Program | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        """Start a side; ``fixed_bytes`` makes the kernel count it, and limit it if asked for."""
        group = limit = None
        if fixed_bytes is not None:
            if self.setup.memory_limit:
                limit = fixed_bytes + self._plan.budget_bytes
            if self._counted:
                group = self._stack.enter_context(MemoryGroup(limit))
                self.groups[name] = group
        worker = Worker(request, group, limit, program=program, patience_s=patience_s)
        self.workers[name] = self._stack.enter_context(worker)


def _reasons(
    sides: _Sides, manifest: Manifest, ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> Iterator[str]:
    """Reasons why outputs differ from the unswapped model's."""
    yield from non_finite_reasons(ours, theirs)
    yield from rounding(manifest)
    if known := tuple(sides.setup.explain()):
        yield from known
        return
    rule = sides.setup.rule
    limit = rule.limit if rule.algorithm == "relative" else DIFFERENCE_LIMIT
    with suppress(SwapnetError):
        unpacked = sides.unpacked_outputs()
        yield from packing_reasons(ours, theirs, unpacked, limit)


def _peer(sides: _Sides, taken: Rounds, name: str, ours: Mapping[str, Array]) -> Peer:
    rounds: list[Round] = taken.rounds.get(name, [])
    error = None
    if rounds and name not in taken.notes:
        theirs = {k: v for k, v in sides.outputs(name).items() if k in ours}
        error = largest_difference(ours, theirs)[1] if theirs else None
    return peer_of(
        taken.rounds["swapped"],
        rounds,
        fixed_bytes=sides.other_fixed_bytes.get(name),
        max_rel_error=error,
        note=taken.notes.get(name, ""),
    )
