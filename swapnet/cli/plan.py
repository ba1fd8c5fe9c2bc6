"""``swapnet plan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.cli.console import print_table, print_text, progress, write_json
from swapnet.cli.engine import (
    about_weights,
    engine_or_model,
    is_model,
    open_engine,
    planned_for,
    tell_of_auto,
    tell_of_reading,
    with_delays,
)
from swapnet.cli.options import (
    PATH,
    conversations_option,
    custom_ops_option,
    gpu_memory_option,
    load_mode_option,
    measure_option,
    report_option,
    shapes_option,
    state_option,
    storage_option,
    threads_option,
)
from swapnet.cli.precision import RealInputs, data_options
from swapnet.errors import InputError
from swapnet.executor.device import ThreadPool
from swapnet.executor.engine import Engine
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.curve import Point, curve
from swapnet.executor.planning.floor import floor_ms
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand, packing
from swapnet.executor.report.page import save_page
from swapnet.executor.report.plan_page import plan_page
from swapnet.executor.report.trace import ways_to_save
from swapnet.executor.state import says_context
from swapnet.files import check_writable
from swapnet.manifest import Manifest
from swapnet.profile import Profile, assumed_profile
from swapnet.shapes import as_title
from swapnet.units import format_size, rounded_up

__all__ = ["command"]

_SHARES = (17, 25, 43, 66, 100)


@click.command("plan")
@click.argument("engine", metavar="DIR|MODEL.onnx", type=PATH)
@click.option(
    "--budget",
    metavar="SIZE",
    help="Memory of the model: 64MiB, 25% of its demand, weights:25%, or auto: the smallest that "
    "is predicted to lose at most 5% to storage and strips. [default: several, from the smallest]",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the plans; - for stdout.")
@click.option("--curve", "with_curve", is_flag=True, help="Show latency over budget, 24 points.")
@report_option
@data_options()
@shapes_option
@click.option(
    "--context",
    type=int,
    metavar="N",
    help="Plan for a decoder whose cache the executor keeps: most tokens in it.",
)
@conversations_option
@state_option
@click.option("--max-block", metavar="SIZE", help="Largest block of a model, as on build.")
@click.option("--portable", is_flag=True, help="Build a model for any processor.")
@measure_option
@threads_option
@storage_option
@load_mode_option
@gpu_memory_option
@custom_ops_option
def command(
    engine: Path,
    budget: str | None,
    json_target: str | None,
    with_curve: bool,
    report_target: str | None,
    data: RealInputs,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
    context: int | None,
    conversations: int,
    state: str,
    max_block: str | None,
    portable: bool,
    measure: bool,
    threads: int | None,
    storage_bytes_per_s: float | None,
    load_mode: str,
    gpu_memory: str,
) -> None:
    """Show whether a model fits a budget, and how long an inference takes.

    A model is built into a temporary folder of $SWAPNET_CACHE or ~/.cache/swapnet that is removed
    afterwards. Storage is measured there: set $SWAPNET_CACHE to a folder on the storage that the
    engine will lie on.
    """
    parsed = Budget.parse(budget) if budget else None
    if context is not None and (shapes or dims or data):
        raise InputError(
            "--context and input shapes are given",
            why="the shapes follow from the context",
            hint="leave --shapes, --dims and --data out",
        )
    if context is None and (conversations != 1 or state):
        raise InputError(
            f"{'--state' if state else '--conversations'} is of a cache",
            why="without --context the executor keeps none",
            hint="add --context N",
        )
    check_writable(json_target)
    samples = data.of(engine, shapes, is_engine=not is_model(engine))
    with engine_or_model(
        engine, shapes, dims, samples, max_block=max_block, portable=portable
    ) as folder:
        opened = open_engine(
            folder,
            shapes,
            dims,
            threads,
            gpu_memory,
            storage_bytes_per_s=storage_bytes_per_s,
            data=samples if folder == engine else None,
            context=context,
            conversations=conversations,
            state=state,
        )
        auto = parsed if parsed and parsed.of == "auto" else None
        with says_context(opened.cache, parsed or Budget(0, "auto"), opened.manifest):
            budgets = [] if auto else _budgets(opened.manifest, parsed)
        if parsed:
            tell_of_reading(parsed, opened, load_mode)
        opened = with_delays(opened, load_mode, measure=measure, name=str(engine)).with_needs()
        manifest, profile = opened.manifest, opened.delays
        with progress(engine.name, lines=False) as report:
            report("plan", 0, 1)
            if auto:
                budgets = [admitted_bytes(auto, manifest, profile=profile)]
                tell_of_auto(auto, budgets[0], opened)
            plans = [make_plan(manifest, profile, nbytes) for nbytes in budgets]
            points = curve(manifest, profile) if with_curve or report_target else ()
    if report_target:
        save_page(plan_page(manifest, profile, points), Path(report_target))
    in_python = _smallest_in_python(opened)
    cache_bytes = opened.cache.nbytes if opened.cache else 0
    if json_target:
        write_json(_records(manifest, profile, plans, points, in_python, cache_bytes), json_target)
    if json_target != "-":
        _print(manifest, profile, plans, points if with_curve else ())
        if in_python != smallest_budget(manifest)[0]:
            print_text(
                f"That is for commands; in Python at least {in_python} bytes "
                f"({rounded_up(in_python)}): sessions have threads of their own there, and freed "
                "memory stays in the heap."
            )
        if opened.cache:
            of = " of each" * (conversations > 1)
            print_text(f"In it, beside weights: {opened.cache}. Times are those of a token{of}.")
        if storage_bytes_per_s is not None:
            allowed, found = storage_bytes_per_s / 1e6, profile.storage.bytes_per_s / 1e6
            print_text(f"Storage reads {found:g} MB/s, --storage allows {allowed:g}.")
        known = (manifest.planned_shapes, {}) if folder == engine or data else (shapes, dims)
        if line := planned_for(manifest, *known):
            print_text(f"P{line[1:]}.")


def _budgets(manifest: Manifest, budget: Budget | None) -> list[int]:
    """The budget that was asked for, or several; checked before anything is measured."""
    needed = demand(manifest)
    smallest, _ = smallest_budget(manifest)
    if budget is None:
        shares = [Budget(share / 100, "weights").resolve(needed) for share in _SHARES]
        return sorted({smallest, *(max(share, smallest) for share in shares)})
    nbytes = budget.resolve(needed)
    if nbytes < smallest:
        make_plan(manifest, assumed_profile(manifest), nbytes)
    return [nbytes]


def _smallest_in_python(engine: Engine) -> int:
    """The smallest budget of a `SwapExecutor` in a process of the user's."""
    if engine.manifest.runs_on_gpu:
        return smallest_budget(engine.manifest)[0]
    theirs = replace(engine.device, pool=ThreadPool.SESSION)
    return smallest_budget(engine.on(theirs).manifest)[0]


def _print(
    manifest: Manifest, profile: Profile, plans: Sequence[Plan], points: Sequence[Point]
) -> None:
    needed = demand(manifest)
    smallest, reason = smallest_budget(manifest)
    at = f" at {as_title(manifest.planned_shapes)}" if manifest.inputs else ""
    print_table(
        f"{manifest.source.name}{at}: demand "
        f"{format_size(needed.total_bytes)}, {format_size(needed.weights_bytes)} of it weights",
        [
            *("budget", "resident", "ring", "streamed", "beside weights", "steps"),
            *("predicted ms", "floor ms", *(["chunk ms"] if profile.chunk else [])),
        ],
        [
            (
                rounded_up(plan.budget_bytes),
                format_size(plan.resident_bytes),
                format_size(plan.ring_bytes),
                format_size(plan.streamed_bytes),
                format_size(plan.usage.total_bytes),
                str(len(plan.steps)),
                f"{plan.predicted_ms:.1f}",
                f"{floor_ms(manifest, plan, profile):.1f}",
                *(f"{each:.0f}" for each in _chunk_ms(plan, profile)),
            )
            for plan in plans
        ],
    )
    if points:
        print_table(
            "Latency over budget",
            ["budget", "resident", "streamed", "predicted ms", "floor ms"],
            [
                (
                    rounded_up(point.budget_bytes),
                    format_size(point.resident_bytes),
                    format_size(point.streamed_bytes),
                    f"{point.predicted_ms:.1f}",
                    f"{point.bound_ms:.1f}",
                )
                for point in points
            ],
        )
    for plan in plans:
        if plan.striping is not None:
            saving = "; ".join(ways_to_save(plan.striping))
            print_text(f"At {rounded_up(plan.budget_bytes)}: {saving}.")
    print_text(f"Delays: {profile.device}.")
    print_text(f"The smallest budget is {smallest} bytes ({rounded_up(smallest)}): {reason}.")
    if (packed := packing(manifest)).read_bytes:
        read_ms = packed.read_bytes / profile.storage.bytes_per_s * 1e3
        most = max(packing(manifest, plan.joined).transient_bytes for plan in plans)
        print_text(
            f"Opening reads {format_size(packed.read_bytes)} for packed weights, at least "
            f"{read_ms:.0f} ms, and takes at most {format_size(most)} at a time, "
            "before weights take their memory."
        )
    for line in about_weights(manifest):
        print_text(line)


def _chunk_ms(plan: Plan, profile: Profile) -> list[float]:
    """Predicted time of a chunk of a decoder's prompt, if any was measured."""
    from swapnet.executor.planning.timeline import predict

    predicted = predict(plan.steps, plan.reads, profile.of_chunk).steady_ms
    return [predicted] if profile.chunk else []


def _records(
    manifest: Manifest,
    profile: Profile,
    plans: Sequence[Plan],
    points: Sequence[Point],
    in_python: int,
    cache_bytes: int,
) -> list[dict[str, Any]]:
    """One record for each plan, then one for the curve."""
    smallest, reason = smallest_budget(manifest)
    packed = packing(manifest)
    model = {
        "model": manifest.source.name,
        "shapes": manifest.planned_shapes,
        "symbols": manifest.symbols,
        "demand_bytes": demand(manifest).total_bytes,
        "weights_bytes": demand(manifest).weights_bytes,
        "smallest_budget_bytes": smallest,
        "smallest_budget_reason": reason,
        "smallest_budget_in_python_bytes": in_python,
        "cache_bytes": cache_bytes,
        "delays": profile.device,
        "storage_bytes_per_s": profile.storage.bytes_per_s,
        "packing_bytes": packed.read_bytes,
        "packing_ms": packed.read_bytes / profile.storage.bytes_per_s * 1e3,
    }
    records = [
        {
            "schema": "swapnet-plan/1",
            **model,
            **_record(plan),
            "transient_bytes": packing(manifest, plan.joined).transient_bytes,
            "floor_ms": floor_ms(manifest, plan, profile),
            "chunk_ms": next(iter(_chunk_ms(plan, profile)), None),
        }
        for plan in plans
    ]
    if points:
        records.append({"schema": "swapnet-plan-curve/1", **model, "points": points})
    return records


def _record(plan: Plan) -> dict[str, Any]:
    runs = () if plan.striping is None else plan.striping.runs
    return {
        "budget_bytes": plan.budget_bytes,
        "planned_bytes": plan.planned_bytes,
        "resident_bytes": plan.resident_bytes,
        "ring_bytes": plan.ring_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "activation_bytes": plan.usage.activation_bytes,
        "io_bytes": plan.usage.io_bytes,
        "staging_bytes": plan.usage.staging_bytes,
        "process_bytes": plan.usage.process_bytes,
        "predicted_ms": plan.predicted_ms,
        "resident_blocks": [i for i, place in enumerate(plan.places) if place.resident],
        "steps": [(step.first, step.last) for step in plan.steps],
        "strips": [(r.first, r.last, r.count) for r in runs],
    }
