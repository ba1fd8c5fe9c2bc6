"""``swapnet verify``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.cli.console import print_text, progress
from swapnet.cli.options import engine_argument, load_mode_option
from swapnet.executor import SwapExecutor
from swapnet.executor.backends import can_run
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.executor.swapping.verify import check_weights
from swapnet.manifest import WEIGHTS
from swapnet.units import format_size

__all__ = ["command"]


@click.command("verify")
@engine_argument
@load_mode_option
def command(engine: Path, load_mode: str) -> None:
    """Compare all checksums of an engine, and open it where its backend runs."""
    from contextlib import closing

    opened = Engine.open(engine)
    manifest = opened.manifest
    with progress(engine.name, lines=False) as report:
        report("compare checksums", 0, 1)
        with closing(WeightFile(engine / WEIGHTS, LoadMode(load_mode))) as storage:
            check_weights(manifest, storage)
        skeletons = Skeletons(engine, manifest)
        for block in manifest.blocks:
            if block.file:
                skeletons.read(block.index)
        runs = not manifest.runs_on_gpu or can_run(manifest.compiled.backend)
        if runs:
            report("open", 0, 1)
            budget = "100%" if manifest.runs_on_gpu else smallest_budget(manifest)[0]
            SwapExecutor(opened, budget, load_mode=load_mode).close()
    print_text(
        f"{engine}: {len(manifest.blocks)} blocks and {format_size(manifest.weights_nbytes)} of "
        "weights are as they were written"
        + ("" if runs else f"; not opened, because {manifest.compiled.backend} can't run here")
    )
