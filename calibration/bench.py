"""`swapnet.bench`: one engine at one budget, in turn with other ways to run its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swapnet.budget import Budget
from swapnet.builder.importing.source import open_source, original_model, random_reasons
from swapnet.builder.one_operator import one_operator_engine
from swapnet.builder.rewriting.optimise import operators_of, save_optimised
from swapnet.calibration.delays.measure import ensure_measured
from swapnet.errors import InputError
from swapnet.executor.backends import can_run
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.bench import Other, Setup
from swapnet.executor.bench.bench import bench as run_bench
from swapnet.executor.bench.difference import DIFFERENCE_LIMIT, Rule, check_comparable
from swapnet.executor.bench.report import Report
from swapnet.executor.bench.rounds import Pauses, Schedule
from swapnet.executor.bench.statistics import percentiles_of
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

__all__ = ["bench"]

_ROUNDS, _MOST_ROUNDS = 5, 10


def bench(
    engine: Engine | str | Path,
    budget: Budget | str | int,
    *,
    inputs: Mapping[str, Any] | None = None,
    compare: bool = False,
    tolerance: float | None = None,
    references: Mapping[str, Array] | None = None,
    accuracy_algorithm: str | None = None,
    accuracy_threshold: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
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
    trace: int = 0,
    command: str = "",
    on_findings: Callable[[Any], object] | None = None,
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
    references
        Outputs to compare with, by name.
    accuracy_algorithm, accuracy_threshold, atol, rtol
        Measure and limit of the difference from ``references`` and, with ``compare``, from the
        unswapped model, as in `Rule`; not with ``tolerance``.
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
        rounds are added, up to ten, while the medians of the last three differ by more than 10 %;
        none with a duration of 0.
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
    trace
        Number of the latest inferences in the timeline; 0 records none.
    command
        Command line, for the report.
    on_findings
        Called with the `Findings`: plan, rounds, outputs and timeline beside the report.
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
    accuracy = Rule.of(accuracy_algorithm, accuracy_threshold, atol, rtol)
    if tolerance is not None and accuracy is not None:
        raise InputError(
            "two measures of the difference are given",
            why="--tolerance is short for --accuracy-algorithm relative --accuracy-threshold, with "
            "--compare",
            hint="leave one of them out",
        )
    if accuracy is not None and not (compare or references):
        raise InputError(
            "a difference is limited, and there is nothing to compare with",
            why="algorithm, threshold and tolerances measure a difference from other outputs",
            hint="give those: --compare, --load-ref-outputs, or --loadRefOutputs of swapnet "
            "trtexec",
        )
    plan_options, parsed = options or PlanOptions(), Budget.parse(budget)
    setup = partial(
        Setup,
        budget=parsed,
        load_mode=LoadMode.parse(load_mode),
        options=plan_options,
        rule=accuracy or Rule("relative", DIFFERENCE_LIMIT if tolerance is None else tolerance),
        references=references or {},
        reference_rule=accuracy or Rule(),
        storage_timeout_ms=storage_timeout_ms,
        memory_limit=memory_limit,
        schedule=Schedule(
            iterations=iterations,
            warm_up_ms=warm_up_ms,
            duration_s=duration_s,
            rounds=min(_ROUNDS, iterations),
            most_rounds=_MOST_ROUNDS if duration_s else 0,
        ),
        pauses=Pauses(idle_ms, rate_hz),
        percentiles=percentiles_of(percentiles),
        trace=trace,
        advice=True,
        command=command,
    )

    def opened(given: Engine | str | Path) -> Engine:
        engine = Engine.open(given, device=device)
        if device is None and not isinstance(given, Engine):
            engine = engine.on_threads()
        return ensure_shapes(engine.in_child(), shapes, dims=dims, say=say)

    def with_delays(engine: Engine) -> Engine:
        if not measure or not can_run(engine.manifest.compiled.backend):
            return engine
        return ensure_measured(engine, load_mode=load_mode, progress=progress, say=say)

    ours = opened(engine)
    manifest = ours.manifest
    _check(ours, is_mapped=mapped, is_limited=memory_limit)
    other = None if against is None else opened(against)
    if other is not None:
        names = [str(each.folder) for each in (ours, other)]
        check_comparable(names, [manifest, other.manifest])
    arrays = sample_of(ours) if inputs is None else check_inputs(manifest, inputs)
    is_compared = compare or tolerance is not None
    with working_folder("swapnet-") as folder:
        given = None if model is None else Path(model)
        source = original_model(manifest, given) if is_compared or mapped else None
        if parsed.of != "auto":
            nbytes = admitted_bytes(parsed, manifest)
            make_plan(manifest, assumed_profile(manifest), nbytes, plan_options)
        ours = with_delays(ours)
        others: dict[str, Other] = {}
        if mapped and source is not None:
            whole = save_optimised(source, folder, operators=operators_of(manifest.compiled))
            others["mapped"] = Other(whole, "mapped")
        if other is not None:
            others["against"] = Other(with_delays(other).folder)
        progress("fixed cost", 0, 1)
        findings = run_bench(
            setup(
                engine=ours,
                inputs=arrays,
                one_operator=one_operator_engine(folder),
                unswapped=source if is_compared else None,
                others=others,
                explain=lambda: random_reasons(open_source(source)) if source else (),
            ),
            progress,
        )
    if on_findings is not None:
        on_findings(findings)
    return findings.report


def _check(engine: Engine, *, is_mapped: bool, is_limited: bool) -> None:
    manifest = engine.manifest
    if is_mapped and engine.device.pace is not None:
        raise InputError(
            "--mapped and --storage do not go together",
            why="the kernel reads for memory-mapped ONNX Runtime, which --storage can't slow down",
            hint="leave one of them out",
        )
    if is_limited and manifest.runs_on_gpu:
        raise InputError(
            f"--memory-limit is not for {manifest.compiled.backend}",
            why="the kernel limits memory of the host, where CUDA needs an unknown part",
            hint="leave it out: SwapNet's allocators measure and limit memory of the GPU",
        )
