"""``swapnet plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swapnet.cli.console import print_table, write_json
from swapnet.cli.options import engine_argument
from swapnet.errors import InputError
from swapnet.units import format_size

__all__ = ["command"]

_SHARES = (17, 25, 43, 66, 100)


@click.command("plan")
@engine_argument
@click.option(
    "--budget",
    metavar="SIZE",
    help="64MiB, 25% of the demand, or weights:25%. [default: several, from the smallest]",
)
@click.option("--json", "json_target", metavar="FILE", help="As JSON; - for stdout.")
def command(engine: Path, budget: str | None, json_target: str | None) -> None:
    """Will the engine fit, and what will it cost? Nothing is executed."""
    from swapnet.budget import Budget
    from swapnet.executor.device import Device
    from swapnet.executor.memory import demand
    from swapnet.executor.plan import make_plan, smallest_budget
    from swapnet.manifest import load_manifest
    from swapnet.profile import load_profile

    if engine.suffix == ".onnx":
        raise InputError(
            f"{engine} is a model, not an engine",
            why="a plan is made of blocks",
            hint=f"first: swapnet build {engine}",
        )
    manifest = load_manifest(engine)
    profile = load_profile(engine, manifest, Device().fingerprint)
    needed = demand(manifest)
    smallest, reason = smallest_budget(manifest)
    if budget is None:
        budgets = [smallest]
        budgets += [Budget(s / 100, "weights").resolve(needed) for s in _SHARES]
        budgets = sorted({max(b, smallest) for b in budgets})
    else:
        budgets = [Budget.parse(budget).resolve(needed)]
    plans = [make_plan(manifest, profile, b) for b in budgets]
    if json_target:
        write_json([_record(plan) for plan in plans], json_target)
        return
    print_table(
        f"{manifest.source.name}: demand {format_size(needed.total_bytes)}, of it weights "
        f"{format_size(needed.weights_bytes)}; delays {profile.device}",
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
    click.echo(f"The smallest budget is {smallest} bytes ({format_size(smallest)}): {reason}.")


def _record(plan: Any) -> dict[str, Any]:
    return {
        "schema": "swapnet-plan/1",
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
