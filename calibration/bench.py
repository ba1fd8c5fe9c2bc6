"""`swapnet.bench`: one engine at one budget, in turn with other ways to run its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swapnet.budget import Budget
from swapnet.builder.importing.source import original_model, random_reasons
from swapnet.builder.one_operator import one_operator_engine
from swapnet.builder.rewriting.optimise import operators_of, save_optimised
from swapnet.calibration.delays.measure import ensure_measured
from swapnet.errors import InputError
from swapnet.executor.backends import can_run
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.bench import Findings, Other, Setup
from swapnet.executor.bench.bench import bench as run_bench
from swapnet.executor.bench.difference import Rule, check_comparable
from swapnet.executor.bench.judgement import DIFFERENCE_LIMIT
from swapnet.executor.bench.pauses import Pauses
from swapnet.executor.bench.report import Report
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import check_inputs
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan
from swapnet.executor.samples import sample_of
from swapnet.executor.shapes import ensure_shapes, to_stderr
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS
from swapnet.executor.swapping.storage import LoadMode
from swapnet.files import working_folder
from swapnet.profile import assumed_profile
from swapnet.progress import Progress, silent

__all__ = ["BenchOptions", "bench", "bench_with"]

_ROUNDS, _MOST_ROUNDS = 5, 10


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of a benchmark; `swapnet.bench` makes them from its keywords.

    Attributes
    ----------
    references
        Outputs to compare with, by name.
    accuracy
        Measure and limit of the difference from ``references`` and, with ``compare``, from the
        unswapped model. By default ``tolerance`` for that, and `Rule` without arguments for them.
    trace
        Number of the latest inferences in the timeline; 0 records none.
    command
        Command line, for the report.
    """

    inputs: Mapping[str, Any] | None = None
    compare: bool = False
    tolerance: float | None = None
    references: Mapping[str, Array] = field(default_factory=dict)
    accuracy: Rule | None = None
    mapped: bool = False
    against: Engine | str | Path | None = None
    model: str | Path | None = None
    memory_limit: bool = False
    iterations: int = 10
    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    idle_ms: float = 0.0
    rate_hz: float | None = None
    percentiles: Sequence[float] = (90.0, 95.0, 99.0)
    device: Device | None = None
    load_mode: LoadMode | str = LoadMode.AUTO
    plan: PlanOptions = field(default_factory=PlanOptions)
    shapes: Mapping[str, Sequence[int]] | None = None
    dims: Mapping[str, int] | None = None
    measure: bool = True
    storage_timeout_ms: float = STORAGE_TIMEOUT_MS
    trace: int = 0
    command: str = ""

    @property
    def rule(self) -> Rule:
        """Largest difference from the unswapped model."""
        limit = DIFFERENCE_LIMIT if self.tolerance is None else self.tolerance
        return self.accuracy or Rule("relative", limit)

    @property
    def schedule(self) -> Schedule:
        """Five rounds, or fewer where there are fewer inferences, and more until it is stable."""
        return Schedule(
            iterations=self.iterations,
            warm_up_ms=self.warm_up_ms,
            duration_s=self.duration_s,
            rounds=min(_ROUNDS, self.iterations),
            most_rounds=_MOST_ROUNDS,
        )


def bench(
    engine: Engine | str | Path,
    budget: Budget | str | int,
    *,
    inputs: Mapping[str, Any] | None = None,
    compare: bool = False,
    tolerance: float | None = None,
    mapped: bool = False,
    against: Engine | str | Path | None = None,
    model: str | Path | None = None,
    memory_limit: bool = False,
    iterations: int = 10,
    warm_up_ms: float = 200.0,
    duration_s: float = 3.0,
    idle_ms: float = 0.0,
    rate_hz: float | None = None,
    percentiles: Sequence[float] = (90.0, 95.0, 99.0),
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
    options: PlanOptions | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    measure: bool = True,
    storage_timeout_ms: float = STORAGE_TIMEOUT_MS,
    say: Callable[[str], None] = to_stderr,
    progress: Progress = silent,
) -> Report:
    """Measure latency and memory of an engine at a budget, as ``swapnet bench`` does.

    All sides run in turn, in processes of their own.

    Parameters
    ----------
    engine, budget
        As for `SwapExecutor`.
    inputs
        One array per model input, by name; by default the engine's first sample, or seeded values.
    compare
        Run the unswapped model in turn, and compare outputs.
    tolerance
        Largest difference from the unswapped model, relative to the largest output; adds
        ``compare``. By default 1e-3.
    mapped
        Run memory-mapped ONNX Runtime in turn.
    against
        Another engine of the model, to run in turn in the same bytes.
    model
        ONNX file to compare with; by default the one that the engine was built from.
    memory_limit
        Enforce the budget in the kernel; needs root.
    iterations, duration_s
        Least number of inferences, and least sum of their latencies and pauses, in seconds. More
        rounds are added, up to ten, while the medians of the last three differ by more than 10 %.
    warm_up_ms
        Duration of the warm-up, all sides in turn.
    idle_ms, rate_hz
        Pause before each inference, or the rate at which they begin; not both.
    percentiles
        Percentiles of the latency to report, from 0 to 100.
    device
        Where to execute; by default where the engine was compiled for, on all processors.
    load_mode, options, shapes, dims, storage_timeout_ms
        As for `SwapExecutor`.
    measure
        Measure this device first if it has no stored delays.
    say
        Called with one line when something is measured first.
    progress
        Called with each stage and round.

    Returns
    -------
    Report
        Measurements; its keys and units are those of ``swapnet bench --json``.

    Raises
    ------
    InputError
        Options do not go together, the model is not there, or inputs do not fit it.
    BudgetError
        The budget is too small, or the kernel killed the swapped model.
    BackendUnavailableError
        The engine or a kernel limit can't be used here.
    SwapnetError
        The engine does not open or run.
    """
    with_these = BenchOptions(
        inputs=inputs,
        compare=compare,
        tolerance=tolerance,
        mapped=mapped,
        against=against,
        model=model,
        memory_limit=memory_limit,
        iterations=iterations,
        warm_up_ms=warm_up_ms,
        duration_s=duration_s,
        idle_ms=idle_ms,
        rate_hz=rate_hz,
        percentiles=percentiles,
        device=device,
        load_mode=load_mode,
        plan=options or PlanOptions(),
        shapes=shapes,
        dims=dims,
        measure=measure,
        storage_timeout_ms=storage_timeout_ms,
    )
    return bench_with(engine, budget, with_these, say=say, progress=progress).report


def bench_with(
    engine: Engine | str | Path,
    budget: Budget | str | int,
    options: BenchOptions,
    *,
    say: Callable[[str], None] = to_stderr,
    progress: Progress = silent,
) -> Findings:
    """The benchmark of `bench`, with plan, rounds and outputs beside the report.

    ``progress`` is called with each stage and round.
    """
    parsed, load_mode = Budget.parse(budget), LoadMode.parse(options.load_mode)
    pauses = Pauses(options.idle_ms, options.rate_hz)
    opened = _opened(engine, options, say)
    _check(opened, options)
    other = None
    if options.against is not None:
        other = _opened(options.against, options, say)
        names = [str(each.folder) for each in (opened, other)]
        check_comparable(names, [each.manifest for each in (opened, other)])
    inputs = _inputs(opened, options)
    compare = options.compare or options.tolerance is not None
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder("swapnet-"))
        given = None if options.model is None else Path(options.model)
        source = original_model(opened.manifest, given) if compare or options.mapped else None
        nbytes = admitted_bytes(parsed, opened.manifest)
        make_plan(opened.manifest, assumed_profile(opened.manifest), nbytes, options.plan)
        opened = _with_delays(opened, options, say, progress)
        others: dict[str, Other] = {}
        if options.mapped and source is not None:
            compiled = opened.manifest.compiled
            whole = save_optimised(source, folder, operators=operators_of(compiled))
            others["mapped"] = Other(whole, "mapped")
        if other is not None:
            others["against"] = Other(_with_delays(other, options, say, progress).folder)
        progress("fixed cost", 0, 1)
        return run_bench(
            Setup(
                engine=opened,
                budget=parsed,
                inputs=inputs,
                one_operator=one_operator_engine(folder),
                unswapped=source if compare else None,
                others=others,
                load_mode=load_mode,
                options=options.plan,
                rule=options.rule,
                references=options.references,
                reference_rule=options.accuracy or Rule(),
                explain=lambda: random_reasons(source) if source else (),
                storage_timeout_ms=options.storage_timeout_ms,
                memory_limit=options.memory_limit,
                schedule=options.schedule,
                pauses=pauses,
                percentiles=tuple(options.percentiles),
                trace=options.trace,
                advice=True,
                command=options.command,
            ),
            progress,
        )


def _opened(
    engine: Engine | str | Path, options: BenchOptions, say: Callable[[str], None]
) -> Engine:
    opened = Engine.open(engine, device=options.device)
    if options.device is None and not isinstance(engine, Engine):
        opened = opened.on_threads()
    return ensure_shapes(opened.in_child(), options.shapes, dims=options.dims, say=say)


def _check(engine: Engine, options: BenchOptions) -> None:
    manifest = engine.manifest
    if options.mapped and engine.device.pace is not None:
        raise InputError(
            "--mapped and --storage do not go together",
            why="the kernel reads for memory-mapped ONNX Runtime, which --storage can't slow down",
            hint="leave one of them out",
        )
    if options.tolerance is not None and options.accuracy is not None:
        raise InputError(
            "two measures of the difference are given",
            why="--tolerance is short for --accuracy-algorithm relative --accuracy-threshold, with "
            "--compare",
            hint="leave one of them out",
        )
    is_compared = options.compare or options.tolerance is not None or options.references
    if options.accuracy is not None and not is_compared:
        raise InputError(
            "a difference is limited, and there is nothing to compare with",
            why="algorithm, threshold and tolerances measure a difference from other outputs",
            hint="give those: --compare, --load-ref-outputs, or --loadRefOutputs of swapnet "
            "trtexec",
        )
    if options.memory_limit and manifest.runs_on_gpu:
        raise InputError(
            f"--memory-limit is not for {manifest.compiled.backend}",
            why="the kernel limits memory of the host, where CUDA needs an unknown part",
            hint="leave it out: SwapNet's allocators measure and limit memory of the GPU",
        )
    if not options.percentiles or not all(0 <= each <= 100 for each in options.percentiles):
        raise InputError(
            f"{','.join(map(str, options.percentiles))!r} is not a list of percentiles",
            why="percentiles are numbers from 0 to 100 joined by commas",
            hint="write them like 90,95,99",
        )


def _inputs(engine: Engine, options: BenchOptions) -> dict[str, Array]:
    if options.inputs is None:
        return sample_of(engine)
    return check_inputs(engine.manifest, options.inputs)


def _with_delays(
    engine: Engine, options: BenchOptions, say: Callable[[str], None], progress: Progress
) -> Engine:
    if not options.measure or not can_run(engine.manifest.compiled.backend):
        return engine
    return ensure_measured(engine, load_mode=options.load_mode, progress=progress, say=say)
