"""``make prove``: equality and memory of the whole zoo, written to docs/results.md.

Every model runs 20 inferences at each budget under the kernel's limit of the runtime's fixed cost
plus the budget, with the page cache dropped first. Its outputs are compared with the same
optimised graph run whole, and with ONNX Runtime's defaults on the original file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from swapnet import models
from swapnet.arrays import Array, load_npz, save_npz
from swapnet.budget import Budget
from swapnet.builder.importing.source import open_source
from swapnet.builder.one_operator import one_operator_engine
from swapnet.builder.rewriting.optimise import WHOLE, operators_of, optimise
from swapnet.cli.zoo import current_engine
from swapnet.errors import SwapnetError
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.bench.fixed_cost import executor_cost
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.timing import Round
from swapnet.executor.bench.worker import Worker
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand, for_pool
from swapnet.manifest import Manifest, load_manifest
from swapnet.process.cgroup import MemoryGroup
from swapnet.profile import load_profile
from swapnet.units import format_size
from tests.evidence.pages import DOCS, conditions, table, write_page

INFERENCES = 20
BUDGETS = ("weights:43%", "weights:25%", "weights:17%", "smallest")
SLICED_LIMIT = 1e-6
ORIGINAL_LIMIT = 1e-4
RESULTS = DOCS / "results.md"


@dataclass(frozen=True)
class Row:
    """One model at one budget."""

    model: str
    budget: str
    budget_bytes: int
    peak_bytes: int
    streamed_bytes: int
    read_bytes: int
    sliced: bool
    to_whole: float
    to_original: float

    @property
    def title(self) -> str:
        return f"{self.model} at {self.budget}"

    def failures(self) -> Iterator[str]:
        if self.peak_bytes > self.budget_bytes:
            yield f"peak {self.peak_bytes} above {self.budget_bytes}"
        if self.read_bytes != self.streamed_bytes:
            yield f"{self.read_bytes} bytes read per inference, {self.streamed_bytes} streamed"
        if self.to_whole > (SLICED_LIMIT if self.sliced else 0.0):
            yield f"{self.to_whole:.2e} from the optimised graph run whole"
        if self.to_original > ORIGINAL_LIMIT:
            yield f"{self.to_original:.2e} from the original"


class Claim(Protocol):
    """A row of a page of proofs."""

    @property
    def title(self) -> str:
        """The case, for people."""

    def failures(self) -> Iterator[str]:
        """Whatever does not hold."""


C = TypeVar("C", bound=Claim)


def prove_all(
    prove: Callable[[str], Iterable[C]], results: Path, page: Callable[[Sequence[C]], list[str]]
) -> int:
    """Prove all models, or those that are named on the command line.

    Parameters
    ----------
    prove
        Proves one model.
    results
        Where the page is written, if all models were proved: none was killed or refused.
    page
        Makes its lines.

    Returns
    -------
    int
        Status to exit with: 1 if anything does not hold.
    """
    rows: list[C] = []
    broken = False
    for name in sys.argv[1:] or models.networks():
        try:
            for row in prove(name):
                rows.append(row)
                verdict = "; ".join(row.failures()) or "holds"
                print(f"{row.title}: {verdict}", flush=True)  # noqa: T201
        except SwapnetError as error:
            broken = True
            print(f"{name}: {error}", flush=True)  # noqa: T201
    if not (sys.argv[1:] or broken):
        write_page(results, page(rows))
    return int(broken or any(True for row in rows for _ in row.failures()))


def prove(name: str) -> Iterator[Row]:
    """One model at all budgets."""
    files = models.get(name)
    inputs = load_npz(files.example)
    engine = current_engine(Path("engines"), files, inputs, "onnxruntime")
    manifest = for_pool(load_manifest(engine), ThreadPool.GLOBAL)
    device = Device()
    with tempfile.TemporaryDirectory(prefix="swapnet-prove-") as temporary:
        folder = Path(temporary)
        save_npz(folder / "inputs.npz", inputs)
        runtime = executor_cost(one_operator_engine(folder), folder, device, drop_cache=True)
        fixed = runtime.measure(counted=True)
        original = _reference("unswapped", files.onnx, folder)
        operators = operators_of(manifest.compiled)
        shapes = manifest.planned_shapes
        optimise(open_source(files.onnx), folder, operators=operators, shapes=shapes)
        whole = _reference("mapped", folder / WHOLE, folder)
        profile = load_profile(engine, manifest, device.fingerprint)
        for text in BUDGETS:
            budget_bytes = budget_bytes_of(text, manifest)
            plan = make_plan(manifest, profile, budget_bytes)
            runtime.warm_up()
            survived = run_limited(engine, folder, budget_bytes, fixed, INFERENCES)
            yield Row(
                name,
                text,
                budget_bytes,
                survived.peak_bytes,
                plan.streamed_bytes,
                survived.round.read_bytes // INFERENCES,
                bool(manifest.sliced),
                largest_difference(survived.outputs, whole)[1],
                largest_difference(survived.outputs, original)[1],
            )


@dataclass(frozen=True)
class Survived:
    """What an engine did under the kernel's limit; ``peak_bytes`` are above the runtime's."""

    round: Round
    outputs: dict[str, Array]
    peak_bytes: int


def run_limited(
    engine: Path, folder: Path, budget_bytes: int, fixed_bytes: int, inferences: int
) -> Survived:
    """Run an engine on ``inputs.npz`` of a folder, under the limit of the runtime and a budget."""
    request = Request(
        "swapped", str(engine), str(folder / "inputs.npz"), Device().threads, budget_bytes
    )
    limit = fixed_bytes + budget_bytes
    with MemoryGroup(limit) as group, Worker(request, group, limit) as worker:
        counted = worker.run(inferences)
        peak_bytes = group.peak_bytes - fixed_bytes
        group.lift()
        return Survived(counted, worker.outputs(folder), peak_bytes)


def _reference(role: str, path: Path, folder: Path) -> dict[str, Array]:
    request = Request(role, str(path), str(folder / "inputs.npz"), Device().threads)
    with Worker(request) as worker:
        worker.run(1)
        return worker.outputs(folder)


def budget_bytes_of(text: str, manifest: Manifest) -> int:
    """Bytes of a budget as it is written, or of the smallest one that works."""
    smallest, _ = smallest_budget(manifest)
    if text == "smallest":
        return smallest
    return Budget.parse(text).resolve(demand(manifest))


def _page(rows: Sequence[Row]) -> list[str]:
    columns = ("model", "budget", "bytes:", "survived", "read per inference:", "sliced")
    cells = (
        (
            row.model,
            row.budget,
            format_size(row.budget_bytes),
            "yes",
            format_size(row.read_bytes),
            "yes" if row.sliced else "no",
            f"{row.to_whole:.1e}",
            f"{row.to_original:.1e}",
        )
        for row in rows
    )
    return [
        "# Equality and memory of the zoo",
        "",
        f"Written by `make prove`: {INFERENCES} inferences of each model at each budget under the",
        "kernel's memory limit of the runtime's fixed cost plus the budget, page cache dropped",
        "first. *Whole* is the largest difference from the same optimised graph run whole by ONNX",
        "Runtime (prepacking and optimisation off, same threads), *original* from ONNX Runtime's",
        "defaults on the original file, both over the output's largest magnitude. Models with",
        "sliced operators may differ from the whole by 1e-6, all others by nothing.",
        "",
        conditions(),
        "",
        *table([*columns, "whole:", "original:"], cells),
    ]


if __name__ == "__main__":
    sys.exit(prove_all(prove, RESULTS, _page))
