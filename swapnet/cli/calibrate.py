"""``swapnet calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.cli.options import engine_argument, load_mode_option, threads_option
from swapnet.executor.device import Device, available_processors

__all__ = ["command"]


@click.command("calibrate")
@engine_argument
@threads_option
@load_mode_option
def command(engine: Path, threads: int | None, load_mode: str) -> None:
    """Measure block times and storage, and write DIR/profile.json."""
    from swapnet.calibration import calibrate

    profile = calibrate(
        engine, device=Device(threads or available_processors()), load_mode=load_mode
    )
    click.echo(
        f"{engine}: {sum(profile.block_ms):.1f} ms in {len(profile.block_ms)} blocks, "
        f"{profile.step_ms:.3f} ms per call, {profile.busy_slowdown:.2f} times slower while "
        f"reading; storage {profile.storage_bytes_per_s / 1e6:.0f} MB/s idle, "
        f"{profile.busy_storage_bytes_per_s / 1e6:.0f} MB/s while computing"
    )
