"""``swapnet measure``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.calibration import measure
from swapnet.cli.console import print_table, print_text, progress, say
from swapnet.cli.engine import open_engine
from swapnet.cli.options import (
    custom_ops_option,
    engine_argument,
    gpu_memory_option,
    load_mode_option,
    shapes_option,
    threads_option,
)
from swapnet.cli.precision import RealInputs, data_options
from swapnet.units import format_size

__all__ = ["command"]


@click.command("measure")
@engine_argument
@data_options()
@shapes_option
@click.option(
    "--fresh", is_flag=True, help="Measure storage again even if it was measured within a day."
)
@click.option(
    "--requests", "show_requests", is_flag=True, help="Show storage speed by request size."
)
@threads_option
@load_mode_option
@gpu_memory_option
@custom_ops_option
def command(
    engine: Path,
    data: RealInputs,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
    fresh: bool,
    show_requests: bool,
    threads: int | None,
    load_mode: str,
    gpu_memory: str,
) -> None:
    """Measure block times and storage, and write DIR/profile.json."""
    samples = data.of(engine, shapes, is_engine=True)
    opened = open_engine(engine, shapes, dims, threads, gpu_memory, data=samples)
    with progress(engine.name) as report:
        profile = measure(
            opened, load_mode=load_mode, fresh=fresh, progress=report, say=say
        ).measured
    storage = profile.storage
    if show_requests:
        print_table(
            "Storage by size and number of requests",
            ["computing", "size", "in flight", "MB/s", "ms each", "compute speed"],
            [
                (
                    "yes" if request.busy else "no",
                    format_size(request.nbytes),
                    str(request.readers),
                    f"{request.bytes_per_s / 1e6:.0f}",
                    f"{request.latency_ms:.2f}",
                    f"{request.compute_speed:.2f}",
                )
                for request in storage.requests
            ],
        )
    print_text(
        f"{engine}: {sum(b.idle_ms for b in profile.blocks):.1f} ms in {len(profile.blocks)} "
        f"blocks, {profile.step_ms:.3f} ms per call, "
        f"{sum(b.busy_ms for b in profile.blocks):.1f} ms while reading; "
        f"storage {storage.bytes_per_s / 1e6:.0f} MB/s idle, "
        f"{storage.busy_bytes_per_s / 1e6:.0f} MB/s while computing, "
        f"requests of {format_size(storage.request_bytes)}, {storage.readers} in flight"
    )
