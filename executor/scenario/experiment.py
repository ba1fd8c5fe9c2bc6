"""One scenario at one budget: ways to share it take turns, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median

from swapnet.arrays import save_npz
from swapnet.errors import BudgetError, SwapnetError
from swapnet.executor.bench.fixed_cost import executor_cost
from swapnet.executor.bench.summary import machine_of
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.report.trace import TraceEvent
from swapnet.executor.runtime.admission import too_small
from swapnet.executor.scenario.expected_outputs import ExpectedOutputs
from swapnet.executor.scenario.experiment_options import (
    OTHERS,
    OURS,
    SPLIT,
    UNLIMITED,
    ExperimentOptions,
)
from swapnet.executor.scenario.messages import (
    Alone,
    Close,
    Engine,
    Job,
    Measured,
    Ready,
    Round,
    RoundResult,
)
from swapnet.executor.scenario.report import Line, Report
from swapnet.executor.scenario.steps import changes_of
from swapnet.executor.scenario.summary import (
    Played,
    Summing,
    bound_ms,
    latencies,
    samples,
    summary,
)
from swapnet.executor.scenario.worker_process import WorkerProcess
from swapnet.executor.swapping.storage import WeightFile
from swapnet.files import working_folder
from swapnet.machine import memory_bytes
from swapnet.manifest import WEIGHTS, Extent, Manifest
from swapnet.process.cgroup import MemoryGroup, check_available, is_available
from swapnet.progress import Progress, silent

__all__ = ["Outcome", "experiment"]

_PATIENCE_S, _PATIENCE = 300.0, 20.0
"""Time-out of a round: in seconds, or times its arrival window, whichever is longer."""

_ALONE = 4
"""Inferences that say what a DNN takes alone; the first does not count."""

_SAMPLE_BYTES = 64 << 20
_FLOW_S = 0.2
"""Weights that measure storage, and the time that it is measured before each round."""

_BUSIER = 4
"""Inferences that are kept of the busiest DNN for one of the least asked: memory is limited."""


@dataclass(frozen=True)
class Outcome:
    """Results of one scenario.

    Attributes
    ----------
    report
        The summary.
    trace_events
        Events of our way's last inferences, of all DNNs; empty unless traced.
    """

    report: Report
    trace_events: tuple[TraceEvent, ...]


def experiment(options: ExperimentOptions, progress: Progress = silent) -> Outcome:
    """Measure one scenario at one budget.

    Raises
    ------
    BudgetError
        The budget is too small, the machine has too little memory for all ways at the same time,
        or the kernel killed our process.
    BackendUnavailableError
        A kernel limit was asked for and is not available.
    SwapnetError
        Whatever our process raised, or the one with unlimited memory; others may fail, which the
        report says.
    """
    _check_memory(options)
    if options.memory_limit:
        check_available()
    with ExitStack() as stack:
        ways = _Ways(options, stack)
        return ways.run(progress)


def _check_memory(options: ExperimentOptions) -> None:
    smallest_bytes = options.demand.smallest_bytes
    if options.budget_bytes < smallest_bytes:
        names = [part.entry.name for part in options.parts]
        raise too_small(names, smallest_bytes, options.budget_bytes)
    needed, available = options.all_ways_bytes, memory_bytes()
    if needed > available:
        raise BudgetError(
            f"{options.name} and what it is compared with take more than this machine has",
            why=f"all ways, one with unlimited memory, need {needed} bytes, there are {available}",
            hint="compare with fewer, give a smaller budget, or use `swapnet scenario forecast`",
        )


def _sample(manifest: Manifest) -> list[Extent]:
    """Weights to measure storage with, while nothing else is done."""
    extents: list[Extent] = []
    for block in manifest.blocks:
        if block.extent.nbytes and sum(extent.nbytes for extent in extents) < _SAMPLE_BYTES:
            extents.append(block.extent)
    return extents


class _Ways:
    """All processes of one scenario."""

    def __init__(self, options: ExperimentOptions, stack: ExitStack) -> None:
        self._options = options
        self._stack = stack
        self._counted = is_available()
        self._groups: dict[str, MemoryGroup] = {}
        self._processes: dict[str, WorkerProcess] = {}
        self._rounds: dict[str, list[RoundResult]] = {}
        self._peaks: dict[str, int] = {}
        self._notes: dict[str, str] = {}
        self._answers = ExpectedOutputs([part.can_join for part in options.parts])
        self._compute_ms: list[float] = []
        self._traced: tuple[TraceEvent, ...] = ()
        self._folder = stack.enter_context(working_folder("swapnet-"))

    def run(self, progress: Progress) -> Outcome:
        """Open all, let them take turns, close them, sum up."""
        options = self._options
        names = (UNLIMITED, OURS, *options.others)
        progress("open", 0, len(names))
        runtime = executor_cost(
            options.one_operator, self._folder, options.device, drop_cache=options.memory_limit
        )
        self._runtime_bytes = runtime.measure(counted=self._counted)
        runtime.warm_up()
        self._write_samples()
        for index, name in enumerate(names):
            progress("open", index, len(names))
            self._open(name)
        largest = max(options.parts, key=lambda part: part.manifest.weights_nbytes)
        weights = WeightFile(largest.engine.folder / WEIGHTS, pace=options.device.pace)
        storage = self._stack.enter_context(closing(weights))
        reader = BackgroundReader(storage, _sample(largest.manifest))
        rates = []
        for turn in range(options.rounds):
            rates.append(reader.flow(_FLOW_S) or reader.total_bytes / reader.once())
            for name in names if turn % 2 == 0 else reversed(names):
                progress(f"round {turn + 1} of {options.rounds}, {name}", 0, 1)
                self._round(name, turn)
        for name in names:
            self._release(name)
        return Outcome(self._report(median(rates), str(storage.mode)), self._traced)

    def _write_samples(self) -> None:
        # Called after the page cache was dropped, so that our pages are not charged to workers.
        for index, part in enumerate(self._options.parts):
            save_npz(self._samples(index), part.samples)

    def _samples(self, index: int) -> Path:
        return self._folder / f"{index}.npz"

    def _open(self, name: str) -> None:
        options = self._options
        limited = name != UNLIMITED
        group = limit = None
        if limited and options.memory_limit:
            limit = self._runtime_bytes + options.budget_bytes + options.traffic_bytes
        if limited and self._counted:
            group = self._groups[name] = self._stack.enter_context(MemoryGroup(limit))
        patience_s = max(_PATIENCE_S, _PATIENCE * options.round_seconds)
        with self._unless_optional(name):
            process = WorkerProcess(
                name, self._job(name), group=group, limit_bytes=limit, patience_s=patience_s
            )
            self._processes[name] = self._stack.enter_context(process)
            self._rounds[name] = []
            self._run_alone(name, process)
        has_windows = any(part.engine.manifest.has_windows for part in options.parts)
        if group is not None and limit is None and has_windows:
            group.forget_peak()  # of the page cache that sessions were made through

    def _job(self, name: str) -> Job:
        options = self._options
        engines = (
            Engine(part.entry, str(part.engine.folder), str(self._samples(index)))
            for index, part in enumerate(options.parts)
        )
        limited = name != UNLIMITED
        pace = options.device.pace
        return Job(
            engines=tuple(engines),
            budget_bytes=options.budget_bytes if limited else options.unlimited_bytes,
            split=name if name in OTHERS else SPLIT,
            threads=options.device.threads,
            storage_bytes_per_s=None if pace is None else pace.bytes_per_s,
            lanes=options.lanes,
            budgets=tuple(step.budget_bytes for step in options.steps) if limited else (),
            known=self._answers.known,
            trace=_BUSIER * options.trace if name == OURS else 0,
        )

    def _run_alone(self, name: str, process: WorkerProcess) -> None:
        """Run every input once; unlimited memory gives the answers, and the time of computing."""
        for index, part in enumerate(self._options.parts):
            for sample in range(part.count):
                if name != UNLIMITED:
                    process.ask(Alone(index, sample), Measured)
                    continue
                count = _ALONE if sample == 0 else 1
                found = process.ask(Alone(index, sample, count), Measured)
                key = (index, sample, found.digest)
                self._answers.expect(key, process.outputs.pop(key))
                if sample == 0:
                    self._compute_ms.append(median(found.latency_ms[1:]))

    def _round(self, name: str, turn: int) -> None:
        options = self._options
        if name in self._notes:
            return
        steps = options.steps if name != UNLIMITED else ()
        changes = changes_of(steps, turn, options.rounds, options.round_seconds)
        with self._unless_optional(name):
            wanted = Round(options.arrivals(turn), changes)
            turned = self._processes[name].ask(wanted, RoundResult)
            self._rounds[name].append(turned)

    def _release(self, name: str) -> None:
        if name not in self._processes:
            return
        process = self._processes[name]
        self._answers.judge(process.outputs)
        if name in self._notes:
            return
        with self._unless_optional(name):
            group = self._groups.get(name)
            peak = group.peak_bytes if group is not None else 0
            trace = self._options.trace if name == OURS else 0
            if group is not None and trace:
                group.lift()  # the timeline as text is not part of the budget
            ready = process.ask(Close(trace), Ready)
            self._traced += ready.events
            if name != UNLIMITED:
                others = self._runtime_bytes + self._options.traffic_bytes
                self._peaks[name] = (peak or ready.resident_peak_bytes) - others
        process.close()

    @contextmanager
    def _unless_optional(self, name: str) -> Iterator[None]:
        """Note an error of a way that ours is compared with; others raise."""
        try:
            yield
        except SwapnetError as error:
            if name not in self._options.others:
                raise
            self._notes[name] = f"{error.what}: {error.why}" if error.why else error.what

    def _report(self, storage_bytes_per_s: float, load_mode: str) -> Report:
        options = self._options
        played = {
            name: Played(tuple(rounds), self._peaks.get(name), self._notes.get(name, ""))
            for name, rounds in self._rounds.items()
        }
        for name, note in self._notes.items():
            played.setdefault(name, Played(note=note))
        ours, unlimited = played[OURS], played[UNLIMITED]
        summing = Summing([part.entry for part in options.parts], self._answers)
        others = [*options.others, UNLIMITED]
        return Report(
            scenario=options.name,
            title=options.scenario.title,
            split=SPLIT,
            lanes=options.lanes,
            budget=str(options.budget),
            budget_bytes=options.budget_bytes,
            demand_bytes=options.demand.total_bytes,
            weights_bytes=options.demand.weights_bytes,
            peak_bytes=self._peaks[OURS],
            fixed_bytes=self._runtime_bytes,
            traffic_bytes=options.traffic_bytes,
            memory_accounting=self._groups[OURS].accounting if self._counted else "resident set",
            storage_bytes_per_s=storage_bytes_per_s,
            weighted_latency_ms=summing.weighted_ms(ours.served),
            models=tuple(self._lines(summing, ours, unlimited, storage_bytes_per_s)),
            compare={
                name.replace("-", "_"): None
                if played[name].note
                else summing.ratio(ours, played[name])
                for name in others
            },
            ways={name.replace("-", "_"): summing.way(played[name]) for name in (OURS, *others)},
            phases=summing.phases(
                options.steps, options.budget_bytes, options.round_seconds, ours, unlimited
            ),
            samples=samples(ours),
            errors=summing.errors(ours.served),
            rounds=options.rounds,
            seed=options.seed,
            command=options.command,
            machine=machine_of(options.parts[0].manifest, options.device, load_mode),
        )

    def _lines(
        self, summing: Summing, ours: Played, unlimited: Played, storage_bytes_per_s: float
    ) -> Iterator[Line]:
        options = self._options
        shares_bytes = ours.rounds[-1].moments[-1].shares_bytes
        read_bytes = [sum(t.read_bytes[i] for t in ours.rounds) for i in range(len(options.parts))]
        served = [[s for s in ours.served if s.model == i] for i in range(len(options.parts))]
        for index, part in enumerate(options.parts):
            mine = served[index]
            entry = part.entry
            unlimited_ms = summary(latencies(unlimited.served, index))
            fastest_ms = min(self._compute_ms[index], unlimited_ms.min if unlimited_ms else inf)
            yield Line(
                name=entry.name,
                model=entry.source,
                task=entry.task,
                priority=entry.priority,
                rate_per_s=entry.rate_per_s,
                deadline_ms=entry.deadline_ms,
                requests=len(mine),
                failures=sum(bool(s.error) for s in mine),
                wrong_outputs=summing.wrong(mine),
                latency_ms=summary(latencies(mine, index)),
                unlimited_ms=unlimited_ms,
                ratio_to_unlimited=summing.ratio_of(index, ours, unlimited),
                bound_ms=bound_ms(
                    fastest_ms,
                    weights_bytes=part.manifest.weights_nbytes,
                    read_bytes=read_bytes[index] / len(mine),
                    share_bytes=shares_bytes[index],
                    storage_bytes_per_s=storage_bytes_per_s,
                ),
                compute_ms=self._compute_ms[index],
                deadline_misses=summing.misses(mine),
                budget_bytes=shares_bytes[index],
                weights_bytes=part.manifest.weights_nbytes,
                read_bytes=read_bytes[index],
                read_bytes_per_inference=read_bytes[index] // len(mine),
            )
