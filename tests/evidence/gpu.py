"""Engines of one model on a GPU: unswapped and at several budgets, in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.device import Device
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.gpu.accelerator import Accelerator
from swapnet.executor.planning.plan import Plan
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import WEIGHTS, Extent
from swapnet.tensors import Array
from tests.evidence.pages import table

__all__ = ["GpuCase", "as_markdown", "measure_cases"]

_WARM_UP = 3


class GpuCase(msgspec.Struct, frozen=True, kw_only=True):
    """One engine at one budget; times are medians, ratios medians over pairs of turns.

    Attributes
    ----------
    model, backend, style, budget
        What was run; ``style`` is how weights are given to the engines.
    blocks
        Of the engine.
    budget_bytes, gpu_bytes
        Allowed, and taken of the GPU's memory, host memory not counted.
    streamed_bytes
        Read in every inference.
    unswapped_ms, swapped_ms
        The whole model as one engine, everything in memory, and ours.
    ratio_to_unswapped, ratio_to_bound
        The bound is the larger of the unswapped time and of the streamed bytes at the idle
        bandwidth of storage.
    bound_ms
        See above.
    overlap_fraction
        Share of the reading that was hidden behind execution, by events of the device.
    max_rel_error
        Largest difference from ONNX Runtime on the CPU, over the largest output.
    """

    model: str
    backend: str
    style: str
    budget: str
    blocks: int
    budget_bytes: int
    gpu_bytes: int
    streamed_bytes: int
    unswapped_ms: float
    swapped_ms: float
    ratio_to_unswapped: float
    bound_ms: float
    ratio_to_bound: float
    overlap_fraction: float
    max_rel_error: float


@dataclass(frozen=True)
class _Turn:
    unswapped_ms: float
    swapped_ms: float
    stall_ms: float
    reading_ms: float


def measure_cases(
    model: str,
    whole: Path,
    engines: Mapping[str, Path],
    budgets: Sequence[str],
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    gpu: Accelerator,
    gpu_memory: str = "auto",
    rounds: int = 5,
    iterations: int = 10,
) -> list[GpuCase]:
    """Measure one model.

    Parameters
    ----------
    model
        Its name.
    whole
        Engine of one block.
    engines
        Swapped ones by weight style.
    budgets
        Of the swapped ones.
    inputs, expected
        Arrays by name; outputs that ONNX Runtime gives.
    gpu, gpu_memory
        Where.
    rounds, iterations
        Rounds, and inferences of each side in one.

    Raises
    ------
    SwapnetError
        An engine does not open, fit or run.
    """
    cases: list[GpuCase] = []
    device = Device(gpu_memory=gpu_memory)
    with SwapExecutor(whole, "100%", gpu=gpu, device=device) as unswapped:
        for style, folder in engines.items():
            for budget in budgets:
                before = gpu.free_bytes()
                with ExitStack() as stack:
                    swapped = stack.enter_context(
                        SwapExecutor(folder, budget, gpu=gpu, device=device)
                    )
                    storage = stack.enter_context(closing(WeightFile(folder / WEIGHTS)))
                    reader = _reader(storage, swapped.plan)
                    outputs = swapped(inputs)
                    taken = before - gpu.free_bytes()
                    turns = _rounds(unswapped, swapped, reader, inputs, rounds, iterations)
                    cases.append(
                        _case(model, style, budget, swapped, turns, outputs, expected, taken)
                    )
    return cases


def _reader(storage: WeightFile, plan: Plan) -> BackgroundReader:
    extents = [Extent(read.file_offset, read.nbytes) for read in plan.reads]
    return BackgroundReader(
        storage, extents, readers=max(plan.readers, 1), read_bytes=plan.request_bytes
    )


def _rounds(
    unswapped: SwapExecutor,
    swapped: SwapExecutor,
    reader: BackgroundReader,
    inputs: Mapping[str, Array],
    rounds: int,
    iterations: int,
) -> list[_Turn]:
    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    def stalled() -> float:
        last = swapped.stats.last
        assert last is not None
        return last.stall_ms

    for executor in (unswapped, swapped):
        for _ in range(_WARM_UP):
            executor(inputs)
    turns: list[_Turn] = []
    for _ in range(rounds):
        alone = [timed(lambda: unswapped(inputs)) for _ in range(iterations)]
        reading = timed(reader.once) if reader.total_bytes else 0.0
        swapped(inputs)
        ours, stalls = [], []
        for _ in range(iterations):
            ours.append(timed(lambda: swapped(inputs)))
            stalls.append(stalled())
        turns.append(_Turn(median(alone), median(ours), median(stalls), reading))
    return turns


def _case(
    model: str,
    style: str,
    budget: str,
    swapped: SwapExecutor,
    turns: Sequence[_Turn],
    outputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    gpu_bytes: int,
) -> GpuCase:
    bounds = [max(turn.unswapped_ms, turn.reading_ms) for turn in turns]
    reading, stall = median(t.reading_ms for t in turns), median(t.stall_ms for t in turns)
    manifest, plan = swapped.manifest, swapped.plan
    return GpuCase(
        model=model,
        backend=f"{manifest.compiled.backend} {manifest.compiled.version}",
        style=style,
        budget=budget,
        blocks=len(manifest.blocks),
        budget_bytes=plan.budget_bytes,
        gpu_bytes=gpu_bytes,
        streamed_bytes=plan.streamed_bytes,
        unswapped_ms=median(turn.unswapped_ms for turn in turns),
        swapped_ms=median(turn.swapped_ms for turn in turns),
        ratio_to_unswapped=median(t.swapped_ms / t.unswapped_ms for t in turns),
        bound_ms=median(bounds),
        ratio_to_bound=median(t.swapped_ms / b for t, b in zip(turns, bounds, strict=True)),
        overlap_fraction=max(0.0, 1 - stall / reading) if reading else 1.0,
        max_rel_error=largest_difference(dict(outputs), dict(expected))[1],
    )


def as_markdown(cases: Sequence[GpuCase], device: str, command: str) -> str:
    """A table with where and how it was measured.

    Parameters
    ----------
    cases
        Its rows.
    device
        What the GPU says of itself.
    command
        That measured.
    """
    columns = (
        *("model", "backend", "weights", "budget", "blocks:", "budget MiB:", "GPU MiB:"),
        *("streamed MiB:", "unswapped ms:", "ms:", "ratio:", "to bound:", "overlap:"),
        "difference:",
    )
    rows = [
        (
            c.model,
            c.backend,
            c.style,
            c.budget,
            str(c.blocks),
            *(f"{n / 2**20:.0f}" for n in (c.budget_bytes, c.gpu_bytes, c.streamed_bytes)),
            *(f"{ms:.2f}" for ms in (c.unswapped_ms, c.swapped_ms)),
            *(f"{r:.2f}" for r in (c.ratio_to_unswapped, c.ratio_to_bound, c.overlap_fraction)),
            f"{c.max_rel_error:.1e}",
        )
        for c in cases
    ]
    head = f"`{command}` on {device}. Medians; ratios are medians over pairs of turns."
    return "\n".join([head, "", *table(columns, rows)])
