"""``swapnet try``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import msgspec

from swapnet.arrays import Array, save_npz
from swapnet.budget import Budget
from swapnet.cli.console import print_text, progress, say, write_json
from swapnet.cli.engine import engine_or_model, open_engine, planned_for, with_delays
from swapnet.cli.options import PATH, custom_ops_option, shapes_option
from swapnet.cli.precision import RealInputs, data_options
from swapnet.errors import SwapnetError
from swapnet.executor.bench.bench import Setup, bench
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.bench.report import Report
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Worker
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import Usage, demand, smallest_striping, usage
from swapnet.executor.samples import sample_of
from swapnet.files import check_writable, working_folder
from swapnet.process.cgroup import is_available
from swapnet.units import format_size, rounded_up

__all__ = ["command"]

_BUDGET = "weights:25%"
_LARGEST_DIFFERENCE = 1e-3
"""Over the largest output: above it a promise is broken."""

_EXPLAINED_DIFFERENCE = 1e-5
"""Above it the reason is looked for."""


class _Run(msgspec.Struct, frozen=True):
    """The model at one budget.

    Attributes
    ----------
    budget, budget_bytes
        The budget as it was asked for, and its bytes.
    report
        Measurements; None where it did not run.
    broken
        The promise that is broken; empty where all hold.
    reason
        Reason for a difference from the unswapped model; empty where there is hardly one.
    """

    budget: str
    budget_bytes: int
    report: Report | None = None
    broken: str = ""
    reason: str = ""


class _Trial(msgspec.Struct, frozen=True):
    """Keys and units of the schema ``swapnet-try/1``."""

    model: str
    file_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    demand_bytes: int
    weights_bytes: int
    smallest_budget_bytes: int
    smallest_budget_reason: str
    beside_weights: Usage
    runs: tuple[_Run, ...]
    line: str
    schema: str = "swapnet-try/1"


@click.command("try")
@click.argument("model", metavar="MODEL.onnx", type=PATH)
@data_options()
@shapes_option
@custom_ops_option
@click.option("--json", "json_target", metavar="FILE", help="Write the findings; - for stdout.")
def command(
    model: Path,
    data: RealInputs,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
    json_target: str | None,
) -> int:
    """Try MODEL.onnx as it is: plan, build, swap, compare, and say in one line how that went.

    It runs at the smallest budget and at weights:25%, under the kernel's limit where this process
    may set one. The exit status is 1 where a promise is broken: more memory than the budget, no
    answer, or outputs that differ by more than 1e-3 though nothing in the model is random.
    """
    from swapnet.builder.importing.source import open_source

    check_writable(json_target)
    source = open_source(model)
    file_bytes = max(model.stat().st_size, source.weights_bytes)
    del source
    samples = data.of(model, shapes)
    with engine_or_model(model, shapes, dims, samples) as folder:
        engine = with_delays(open_engine(folder, {}), "auto", measure=True, name=model.name)
        manifest = engine.with_needs().manifest
        smallest, reason = smallest_budget(manifest)
        if line := planned_for(manifest, manifest.planned_shapes if data else shapes, dims):
            say(f"{model.name}: {line}")
        inputs = sample_of(engine)
        with working_folder("swapnet-try-") as work:
            runs = tuple(_runs(engine, model, inputs, smallest, work))
    needed = demand(manifest)
    line = _line(model.name, file_bytes, smallest, runs)
    trial = _Trial(
        model=model.name,
        file_bytes=file_bytes,
        shapes=manifest.planned_shapes,
        demand_bytes=needed.total_bytes,
        weights_bytes=needed.weights_bytes,
        smallest_budget_bytes=smallest,
        smallest_budget_reason=reason,
        beside_weights=usage(manifest, smallest_striping(manifest)),
        runs=runs,
        line=line,
    )
    if json_target:
        write_json(trial, json_target)
    if json_target != "-":
        print_text(line)
    return int(any(run.broken for run in runs))


def _runs(
    engine: Engine, model: Path, inputs: dict[str, Array], smallest: int, work: Path
) -> Iterator[_Run]:
    """The model at the smallest budget, and at `_BUDGET` where that is larger."""
    from swapnet.builder.one_operator import one_operator_engine
    from swapnet.builder.rewriting.optimise import operators_of, save_optimised

    save_npz(work / "inputs.npz", inputs)
    with progress(model.name, lines=False) as told:
        told("run unswapped", 0, 1)
        repeated = _outputs("unswapped", model, engine, work, count=2)
        one_operator = one_operator_engine(work)
    drawn = largest_difference(*repeated)[1]
    budgets = {
        "smallest": smallest,
        _BUDGET: Budget.parse(_BUDGET).resolve(demand(engine.manifest)),
    }
    fixed_bytes: dict[str, int] = {}
    for name, nbytes in budgets.items():
        if name == _BUDGET and nbytes <= smallest:
            return
        say(f"{model.name}: compare with the unswapped model at {name}, {rounded_up(nbytes)} …")
        setup = Setup(
            engine=engine,
            budget=Budget.parse(nbytes),
            inputs=inputs,
            one_operator=one_operator,
            unswapped=model,
            memory_limit=is_available(),
            fixed_bytes=fixed_bytes,
            schedule=Schedule(rounds=3, iterations=9, warm_up_ms=0, duration_s=0),
        )
        try:
            with progress(model.name, lines=False) as told:
                findings = bench(setup, told)
        except SwapnetError as error:
            why = f" ({error.why})" if error.why else ""
            yield _Run(name, nbytes, broken=f"{error.what}{why}")
            continue
        report, broken, reason = findings.report, "", ""
        difference = report.max_rel_error or 0.0
        fixed_bytes = {"swapped": report.fixed_bytes}
        if drawn > _EXPLAINED_DIFFERENCE:
            reason = f"random values: ONNX Runtime's own differ by {drawn:.0e} from run to run"
        elif difference > _EXPLAINED_DIFFERENCE:
            whole = save_optimised(model, work, operators=operators_of(engine.manifest.compiled))
            (same,) = _outputs("mapped", whole, engine, work)
            rest = largest_difference(findings.outputs, same)[1]
            reason = f"by {rest:.0e} from ONNX Runtime without packed weights"
            if difference > _LARGEST_DIFFERENCE:
                broken = f"outputs differ by {difference:.0e} of the largest; {reason}"
        if report.peak_bytes > nbytes:
            broken = f"{report.peak_bytes} bytes were taken for a budget of {nbytes}"
        yield _Run(name, nbytes, report, broken, reason)


def _outputs(
    role: str, path: Path, engine: Engine, work: Path, count: int = 1
) -> list[dict[str, Array]]:
    """Outputs of ONNX Runtime on ``inputs.npz``, of one inference after the other."""
    asked = Request(role, str(path), str(work / "inputs.npz"), engine.device.threads)
    outputs = []
    with Worker(asked) as worker:
        for _ in range(count):
            worker.run(1)
            outputs.append(worker.outputs(work))
    return outputs


def _line(name: str, file_bytes: int, smallest: int, runs: tuple[_Run, ...]) -> str:
    reports = [run.report for run in runs if run.report is not None]
    parts = [
        f"{name} {format_size(file_bytes)}: smallest budget {rounded_up(smallest)} "
        f"({smallest / file_bytes:.1f} times the file){_measured(runs[0])}",
        *(f"{run.budget} is {rounded_up(run.budget_bytes)}{_measured(run)}" for run in runs[1:]),
    ]
    if len(runs) == 1:
        parts.append(f"{_BUDGET} is below it")
    if reports:
        difference = max(report.max_rel_error or 0.0 for report in reports)
        reason = next((f" ({run.reason})" for run in runs if run.reason and not run.broken), "")
        equal = f"equal within {difference:.0e}" if difference else "equal"
        parts.append(f"{equal}{reason}")
        if "limit" not in reports[0].memory_accounting:
            parts.append(f"measured without a limit ({reports[0].memory_accounting})")
    verdict = "a promise is broken" if any(run.broken for run in runs) else "ok"
    return f"{'; '.join(parts)}: {verdict}"


def _measured(run: _Run) -> str:
    said = []
    if run.report is not None:
        said.append(f", peak {format_size(run.report.peak_bytes)}")
        said.append(f", {run.report.ratio_to_unswapped:.2f} times unswapped")
    if run.broken:
        said.append(f", but {run.broken}")
    return "".join(said)
