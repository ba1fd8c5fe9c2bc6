"""``swapnet repack``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from swapnet.cli.console import print_text, progress
from swapnet.cli.options import engine_argument
from swapnet.units import format_size

__all__ = ["command"]


@click.command("repack")
@engine_argument
def command(engine: Path) -> None:
    """Pack the weights of an engine again for this processor, without the model."""
    from swapnet.builder.repack import repack

    started = time.perf_counter()
    with progress(engine.name) as report:
        manifest = repack(engine, report)
    windows = [window.nbytes for block in manifest.blocks for window in block.windows]
    print_text(
        f"{engine}: {len(windows)} windows of {format_size(sum(windows))} are packed for this "
        f"processor, in {time.perf_counter() - started:.1f} s"
    )
