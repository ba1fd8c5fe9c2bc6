"""``make prove-precision``: the zoo in lower precision, written to docs/quantization-results.md.

Every model is built in float16, int8, and int8 weights, and run at each budget under the kernel's
limit of the runtime's fixed cost plus the budget, page cache dropped first. Its outputs there equal
those with everything in memory to the bit.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import swapnet
from swapnet import models
from swapnet.arrays import Array, load_npz, save_npz
from swapnet.builder.one_operator import one_operator_engine
from swapnet.calibration import calibrate_model
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.bench.fixed_cost import executor_cost
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.planning.usage import for_pool
from swapnet.manifest import Manifest, load_manifest
from swapnet.units import format_size
from tests.evidence.evaluation import calibration_inputs
from tests.evidence.pages import DOCS, conditions, table
from tests.evidence.prove import budget_bytes_of, prove_all, run_limited

INFERENCES = 3
SAMPLES = 4
BUDGETS = ("100%", "weights:25%", "smallest")
RESULTS = DOCS / "quantization-results.md"


@dataclass(frozen=True)
class Row:
    """One model in one precision; by budget, in `BUDGETS`' order."""

    model: str
    precision: str
    narrower: float
    budget_bytes: tuple[int, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    differences: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.model} in {self.precision}"

    def failures(self) -> Iterator[str]:
        for text, budget, peak, difference in zip(
            BUDGETS, self.budget_bytes, self.peak_bytes, self.differences, strict=True
        ):
            if peak > budget:
                yield f"{text}: peak {peak} above {budget}"
            if difference:
                yield f"{text}: {difference:.2e} from everything in memory"


def prove(name: str) -> Iterator[Row]:
    """One model in all precisions at all budgets."""
    with tempfile.TemporaryDirectory(prefix="swapnet-prove-") as folder:
        yield from _prove(name, Path(folder))


def _prove(name: str, folder: Path) -> Iterator[Row]:
    files = models.get(name)
    inputs = load_npz(files.example)
    shapes = {key: array.shape for key, array in inputs.items()}
    save_npz(folder / "inputs.npz", inputs)
    runtime = executor_cost(one_operator_engine(folder), folder, Device(), drop_cache=True)
    fixed_bytes = runtime.measure(counted=True)
    samples = list(islice(calibration_inputs(name), SAMPLES))
    ranges = calibrate_model(files.onnx, samples, shapes=shapes)
    float32 = _stored_bytes(swapnet.build(files.onnx, folder / "fp32", shapes=shapes))
    precisions: Mapping[str, Mapping[str, Any]] = {
        "fp16": {"precision": "fp16"},
        "int8": {"precision": "int8", "calibration": ranges},
        "int8 weights": {"precision": "int8", "weight_only": True},
    }
    for title, options in precisions.items():
        engine = folder / title.replace(" ", "-")
        built = swapnet.build(files.onnx, engine, shapes=shapes, **options)
        manifest = for_pool(load_manifest(engine), ThreadPool.GLOBAL)
        row = Row(name, title, float32 / _stored_bytes(built))
        whole: dict[str, Array] = {}
        for text in BUDGETS:
            smallest = budget_bytes_of("smallest", manifest)
            budget_bytes = max(budget_bytes_of(text, manifest), smallest)
            runtime.warm_up()
            survived = run_limited(engine, folder, budget_bytes, fixed_bytes, INFERENCES)
            outputs = survived.outputs
            whole = whole or outputs
            row = replace(
                row,
                budget_bytes=(*row.budget_bytes, budget_bytes),
                peak_bytes=(*row.peak_bytes, survived.peak_bytes),
                differences=(*row.differences, largest_difference(outputs, whole)[0]),
            )
        yield row


def _stored_bytes(manifest: Manifest) -> int:
    """Of weights that can be swapped, without what rounds extents up."""
    stored = [block.weights for block in manifest.blocks if block.is_graph]
    stored += [each.weights for each in manifest.shared]
    return sum(weight.nbytes for weights in stored for weight in weights)


def _page(rows: Sequence[Row]) -> list[str]:
    columns = ["model", "precision", "narrower:", *(f"{budget}:" for budget in BUDGETS), "equal"]
    cells = (
        (
            row.model,
            row.precision,
            f"{row.narrower:.2f}",
            *(
                f"{format_size(peak)} of {format_size(budget)}"
                for peak, budget in zip(row.peak_bytes, row.budget_bytes, strict=True)
            ),
            "no" if any(row.differences) else "yes",
        )
        for row in rows
    )
    return [
        "# The zoo in lower precision",
        "",
        f"Written by `make prove-precision`: {INFERENCES} inferences of each model at each budget",
        "under the kernel's memory limit of the runtime's fixed cost plus the budget, page cache",
        f"dropped first. Ranges are of {SAMPLES} samples. *Narrower*: bytes of the float32",
        "engine's weights that can be swapped over these. Outputs at every budget equal those with",
        "everything in memory to the bit. Budgets, at least the smallest that works, and the peaks",
        "above the runtime:",
        "",
        conditions(),
        "",
        *table(columns, cells),
    ]


if __name__ == "__main__":
    sys.exit(prove_all(prove, RESULTS, _page))
