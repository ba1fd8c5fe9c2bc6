"""How far predictions are off: ``python -m tests.evidence.predictions ENGINE…``, quiet machine.

An executor at each budget and one with everything in memory take turns in one process. Latency is
compared with the prediction by the stored delays, and with that by the same delays stretched to the
latency in memory and the bandwidth of each round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.calibration import ensure_measured
from swapnet.errors import SwapnetError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.onnxruntime import own_process
from swapnet.executor.bench.summary import scaled
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.timeline import predict
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.samples import sample_of
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import WEIGHTS
from tests.evidence.command import run

__all__ = ["Found", "found_at", "summary"]

BUDGETS = ("smallest", "weights:10%", "weights:25%", "weights:50%")

_FLOW_S = 0.04


@dataclass(frozen=True)
class Found:
    """Medians of the rounds in ms; ``bound_ms`` is that of the bytes or of the whole in memory."""

    title: str
    measured_ms: float
    stored_ms: float
    paired_ms: float
    waited_ms: float
    predicted_wait_ms: float
    bound_ms: float

    @property
    def error(self) -> float:
        """Measured over predicted by the delays of the round, less 1."""
        return self.measured_ms / self.paired_ms - 1

    def __str__(self) -> str:
        return (
            f"{self.title:32} {self.measured_ms:7.2f}  stored {self.stored_ms:7.2f}"
            f" {self.measured_ms / self.stored_ms - 1:+5.0%}  paired {self.paired_ms:7.2f}"
            f" {self.error:+5.0%}  waits {self.waited_ms:6.2f} of {self.predicted_wait_ms:6.2f}"
            f"  {self.measured_ms / self.bound_ms:4.2f} of the bound"
        )


def found_at(engine: Engine, budget: str, rounds: int, count: int) -> Found:
    """Measure an engine at a budget; ``count`` inferences of each side in each round."""
    inputs, profile = sample_of(engine), engine.measured
    size = smallest_budget(engine.manifest)[0] if budget == "smallest" else budget
    extents = [block.extent for block in engine.manifest.blocks if block.extent.nbytes]
    turns: list[tuple[float, ...]] = []
    with (
        closing(WeightFile(engine.folder / WEIGHTS)) as file,
        SwapExecutor(engine, Budget.parse(size)) as swapped,
        SwapExecutor(engine, "100%") as whole,
    ):
        storage = profile.storage
        reader = BackgroundReader(
            file, extents, readers=storage.readers, read_bytes=storage.request_bytes
        )
        plan = swapped.plan
        for _ in range(rounds + 1):
            idle_ms, _ = _several(whole, inputs, count)
            bytes_per_s = reader.flow(_FLOW_S)
            ms, waited_ms = _several(swapped, inputs, count)
            hour = predict(plan.steps, plan.reads, scaled(profile, idle_ms, bytes_per_s))
            reading_ms = plan.streamed_bytes / (bytes_per_s or storage.bytes_per_s) * 1e3
            waits_ms = sum(hour.stalls_ms)
            turns.append((ms, hour.steady_ms, waited_ms, waits_ms, max(idle_ms, reading_ms)))
    measured, paired, waited, waits, bound = (median(part) for part in zip(*turns[1:], strict=True))
    title = f"{engine.manifest.source.name} {budget}"
    return Found(title, measured, plan.predicted_ms, paired, waited, waits, bound)


def _several(executor: SwapExecutor, inputs: Mapping[str, Any], count: int) -> tuple[float, float]:
    """Median latency and median wait for bytes, in ms, after a first inference."""
    executor(inputs)
    taken: list[tuple[float, float]] = []
    for _ in range(count):
        executor(inputs)
        last = executor.stats.last
        assert last is not None
        taken.append((last.latency_ms, last.stall_ms))
    latency_ms, stall_ms = (median(part) for part in zip(*taken, strict=True))
    return latency_ms, stall_ms


def summary(found: Sequence[Found]) -> Iterator[str]:
    """Median and 90th percentile of the errors, without their signs."""
    for name, errors in (
        ("stored", [abs(each.measured_ms / each.stored_ms - 1) for each in found]),
        ("paired", [abs(each.error) for each in found]),
    ):
        late = quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]
        yield f"off the {name} prediction: {median(errors):.1%} in the median, {late:.1%} at p90"


@click.command()
@click.argument("engines", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--budget", "budgets", multiple=True, default=BUDGETS, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--count", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
def command(
    engines: Sequence[Path], budgets: Sequence[str], rounds: int, count: int, threads: int
) -> None:
    """Print measured and predicted latency of ENGINES at each budget, and how far they differ."""
    device: Device = own_process(threads)
    found: list[Found] = []
    for folder in engines:
        engine = ensure_measured(folder, device=device)
        for budget in budgets:
            try:
                found.append(found_at(engine, budget, rounds, count))
            except SwapnetError as error:
                click.echo(f"{folder.name} {budget}: {error.what}")
                continue
            click.echo(str(found[-1]))
    for line in summary(found):
        click.echo(line)


if __name__ == "__main__":
    run(command)
