"""``swapnet plan``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli.console import print_table, write_json
from swapnet.cli.engine import delays, engine_device, engine_or_model, measured_engine
from swapnet.cli.options import (
    calibrate_option,
    gpu_memory_option,
    load_mode_option,
    shapes_option,
    threads_option,
)
from swapnet.errors import InputError
from swapnet.files import check_writable
from swapnet.units import format_size

if TYPE_CHECKING:
    from swapnet.budget import Budget
    from swapnet.executor.planning.comparison import Comparison
    from swapnet.executor.planning.curve import Point
    from swapnet.executor.planning.plan import Plan
    from swapnet.manifest import Manifest
    from swapnet.profile import Profile

__all__ = ["command"]

_SHARES = (17, 25, 43, 66, 100)


@click.command("plan")
@click.argument("engine", metavar="DIR|MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    metavar="SIZE",
    help="64MiB, 25% of the demand, or weights:25%. [default: several, from the smallest]",
)
@click.option("--json", "json_target", metavar="FILE", help="As JSON; - for stdout.")
@click.option("--curve", "with_curve", is_flag=True, help="Latency over budget, 24 points.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="The curve as a picture."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Another engine of the model: which of the two is faster at which budget.",
)
@shapes_option
@click.option("--max-block", metavar="SIZE", help="Largest block, for a model; as on build.")
@click.option("--portable", is_flag=True, help="No hardware layout, for a model; as on build.")
@calibrate_option
@threads_option
@load_mode_option
@gpu_memory_option
def command(
    engine: Path,
    budget: str | None,
    json_target: str | None,
    with_curve: bool,
    plot: Path | None,
    against: Path | None,
    shapes: dict[str, tuple[int, ...]],
    max_block: str | None,
    portable: bool,
    calibrate: bool,
    threads: int | None,
    load_mode: str,
    gpu_memory: str,
) -> None:
    """Will it fit, and what will it cost?

    A model is built into a temporary folder that is removed afterwards. Two engines are compared
    by measured delays of both, or by assumed ones.
    """
    from swapnet.budget import Budget
    from swapnet.executor.bench.plot import Panel, check_drawable, save_plot
    from swapnet.executor.planning.comparison import check_comparable, compare
    from swapnet.executor.planning.curve import curve
    from swapnet.executor.planning.planner import make_plan
    from swapnet.profile import assumed_profile, with_needs

    if against and (budget or with_curve):
        raise InputError(
            f"--{'budget' if budget else 'curve'} is not for --against",
            why="two engines are compared at all budgets of both",
            hint="leave one of them out",
        )
    parsed = Budget.parse(budget) if budget else None
    for target in (json_target, plot):
        if target and target != "-":
            check_writable(Path(target))
    if plot:
        check_drawable(plot)
    with engine_or_model(engine, shapes, max_block=max_block, portable=portable) as folder:
        manifest = measured_engine(folder, shapes)
        names, manifests = (str(engine), str(against)), [manifest]
        if against:
            manifests.append(measured_engine(against, shapes))
            check_comparable(names, manifests)
        budgets = _budgets(manifest, parsed)
        profiles = [
            delays(
                place,
                engine_device(place, threads, gpu_memory),
                load_mode,
                shapes,
                calibrate=calibrate,
                name=name,
            )
            for place, name in zip([folder, *filter(None, [against])], names, strict=False)
        ]
        if against and any(profile.is_assumed for profile in profiles):
            profiles = [assumed_profile(manifest) for manifest in manifests]
        manifests = [with_needs(m, p.needs) for m, p in zip(manifests, profiles, strict=True)]
        manifest, profile = manifests[0], profiles[0]
        plans = [make_plan(manifest, profile, nbytes) for nbytes in budgets]
        comparison = compare(manifests, profiles) if against else None
        points = curve(manifest, profile) if with_curve or (plot and not against) else ()
    if plot:
        title = f"{manifest.source.name}\n{profile.device}"
        panel = Panel(title, points)
        if comparison:
            first, second = comparison.curves
            panel = Panel(title, first, against={names[1]: second}, label=names[0])
        save_plot([panel], plot)
    if json_target:
        records = _records(manifest, profile, plans, points)
        if comparison:
            records.append(_comparison_record(names, profiles, comparison))
        write_json(records, json_target)
    if json_target != "-":
        if comparison:
            _print_comparison(manifest, names, profiles, comparison)
        else:
            _print(manifest, profile, plans, points if with_curve else ())


def _budgets(manifest: Manifest, budget: Budget | None) -> list[int]:
    """The budget that was asked for, or several; checked before anything is measured."""
    from swapnet.budget import Budget
    from swapnet.executor.planning.planner import make_plan, smallest_budget
    from swapnet.executor.planning.usage import demand
    from swapnet.profile import assumed_profile

    needed = demand(manifest)
    smallest, _ = smallest_budget(manifest)
    if budget is None:
        shares = [Budget(share / 100, "weights").resolve(needed) for share in _SHARES]
        return sorted({smallest, *(max(share, smallest) for share in shares)})
    nbytes = budget.resolve(needed)
    if nbytes < smallest:
        make_plan(manifest, assumed_profile(manifest), nbytes)
    return [nbytes]


def _print(
    manifest: Manifest, profile: Profile, plans: Sequence[Plan], points: Sequence[Point]
) -> None:
    from swapnet.executor.planning.planner import smallest_budget
    from swapnet.executor.planning.usage import demand
    from swapnet.shapes import as_option

    needed = demand(manifest)
    smallest, reason = smallest_budget(manifest)
    print_table(
        f"{manifest.source.name} at {as_option(manifest.planned_shapes)}: demand "
        f"{format_size(needed.total_bytes)}, of it weights {format_size(needed.weights_bytes)}",
        ["budget", "resident", "ring", "streamed", "beside weights", "steps", "predicted ms"],
        [
            (
                format_size(plan.budget_bytes),
                format_size(plan.resident_bytes + plan.shared_bytes),
                format_size(plan.ring_bytes),
                format_size(plan.streamed_bytes),
                format_size(plan.usage.total_bytes),
                str(len(plan.steps)),
                f"{plan.predicted_ms:.1f}",
            )
            for plan in plans
        ],
    )
    if points:
        print_table(
            "Latency over budget",
            ["budget", "resident", "streamed", "predicted ms", "bound ms"],
            [
                (
                    format_size(point.budget_bytes),
                    format_size(point.resident_bytes),
                    format_size(point.streamed_bytes),
                    f"{point.predicted_ms:.1f}",
                    f"{point.bound_ms:.1f}",
                )
                for point in points
            ],
        )
    click.echo(f"Delays are those of: {profile.device}.")
    click.echo(f"The smallest budget is {smallest} bytes ({format_size(smallest)}): {reason}.")


def _print_comparison(
    manifest: Manifest,
    names: Sequence[str],
    profiles: Sequence[Profile],
    comparison: Comparison,
) -> None:
    from swapnet.executor.planning.comparison import verdict
    from swapnet.shapes import as_option

    print_table(
        f"{manifest.source.name} at {as_option(manifest.planned_shapes)}: predicted ms",
        ["budget", *names],
        [
            (
                format_size(budget_bytes),
                *(
                    "does not fit" if latency_ms is None else f"{latency_ms:.1f}"
                    for latency_ms in comparison.latencies_ms(budget_bytes)
                ),
            )
            for budget_bytes in comparison.budgets
        ],
    )
    click.echo(f"{verdict(names, comparison.leads)}.")
    devices = dict.fromkeys(profile.device for profile in profiles)
    click.echo(f"Delays are those of: {' and '.join(devices)}.")


def _comparison_record(
    names: Sequence[str], profiles: Sequence[Profile], comparison: Comparison
) -> dict[str, Any]:
    """Engines are told by their position in ``engines``; null where none leads or one can't run."""
    from swapnet.executor.planning.comparison import verdict

    return {
        "schema": "swapnet-comparison/1",
        "engines": names,
        "delays": [profile.device for profile in profiles],
        "points": [
            {"budget_bytes": nbytes, "predicted_ms": comparison.latencies_ms(nbytes)}
            for nbytes in comparison.budgets
        ],
        "leads": comparison.leads,
        "verdict": verdict(names, comparison.leads),
    }


def _records(
    manifest: Manifest, profile: Profile, plans: Sequence[Plan], points: Sequence[Point]
) -> list[dict[str, Any]]:
    """One record for each plan, then one for the curve."""
    from swapnet.executor.planning.planner import smallest_budget
    from swapnet.executor.planning.usage import demand

    smallest, reason = smallest_budget(manifest)
    model = {
        "model": manifest.source.name,
        "shapes": manifest.planned_shapes,
        "demand_bytes": demand(manifest).total_bytes,
        "weights_bytes": demand(manifest).weights_bytes,
        "smallest_budget_bytes": smallest,
        "smallest_budget_reason": reason,
        "delays": profile.device,
    }
    records = [{"schema": "swapnet-plan/1", **model, **_record(plan)} for plan in plans]
    if points:
        records.append({"schema": "swapnet-curve/1", **model, "points": points})
    return records


def _record(plan: Plan) -> dict[str, Any]:
    return {
        "budget_bytes": plan.budget_bytes,
        "planned_bytes": plan.planned_bytes,
        "resident_bytes": plan.resident_bytes + plan.shared_bytes,
        "ring_bytes": plan.ring_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "activation_bytes": plan.usage.activation_bytes,
        "io_bytes": plan.usage.io_bytes,
        "staging_bytes": plan.usage.staging_bytes,
        "skeleton_bytes": plan.usage.skeleton_bytes,
        "predicted_ms": plan.predicted_ms,
        "resident_blocks": [i for i, place in enumerate(plan.places) if place.resident],
        "steps": [(step.first, step.last) for step in plan.steps],
    }
