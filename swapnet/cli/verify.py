"""``swapnet verify``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.cli.options import engine_argument, load_mode_option
from swapnet.units import format_size

__all__ = ["command"]


@click.command("verify")
@engine_argument
@load_mode_option
def command(engine: Path, load_mode: str) -> None:
    """Compare all checksums of an engine and open it."""
    from swapnet.executor import SwapExecutor
    from swapnet.executor.plan import smallest_budget
    from swapnet.manifest import load_manifest

    smallest, _ = smallest_budget(load_manifest(engine))
    with SwapExecutor(engine, smallest, load_mode=load_mode, verify=True) as executor:
        manifest = executor.manifest
    click.echo(
        f"{engine}: {len(manifest.blocks)} blocks and {format_size(manifest.weights_nbytes)} of "
        "weights are as they were written"
    )
