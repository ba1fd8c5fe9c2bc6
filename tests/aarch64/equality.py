"""Swapped outputs against ONNX Runtime's on the same file: check.sh's part.

``python -m tests.aarch64.equality FOLDER…``, each with ``NAME.onnx`` and ``example.npz``, or the
name of a hand-made model. ``packing`` has every operator that packs weights, ``packing-bits``
products of few bits at accuracy levels 0 and 4. These two are compared to the bit, unless operators
are sliced: on a Cortex-A72 products of 8 bits, which ONNX Runtime does not pack there, then differ.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnxruntime

import swapnet
from swapnet.arrays import load_npz
from swapnet.executor.bench.difference import largest_difference
from tests.helpers.engines import build_toy, poison
from tests.helpers.zoo import TOYS

BUDGET = "weights:25%"
LIMIT = 1e-4
"""Over the largest magnitude of an output, as `make prove` allows against the original file."""
SLICED_LIMIT = 2e-6
WHOLE = "4MiB"
"""A block that no operator of the hand-made models exceeds."""


def difference(folder: Path) -> float:
    """Build the model of a folder, run it swapped, and compare.

    Delays are those that the executor assumes: an emulator's are worth no measurement.

    Parameters
    ----------
    folder
        Of one model.

    Returns
    -------
    float
        Largest difference from ONNX Runtime's defaults, over the largest magnitude of its output.
    """
    (model,) = folder.glob("*.onnx")
    inputs = load_npz(folder / "example.npz")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    original = dict(zip(names, session.run(names, inputs), strict=True))
    with tempfile.TemporaryDirectory(prefix="swapnet-equality-") as name:
        engine = Path(name) / "engine"
        swapnet.build(model, engine, shapes={name: array.shape for name, array in inputs.items()})
        with swapnet.SwapExecutor(engine, BUDGET) as executor:
            swapped = executor(inputs)
            print(f"{model.stem}: {executor.plan.streamed_bytes} bytes streamed", end=", ")  # noqa: T201
    return largest_difference(swapped, original)[1]


def packed_difference(name: str, max_block: str) -> tuple[float, float]:
    """Build a hand-made model, run it swapped at two budgets, each place poisoned, and compare.

    Parameters
    ----------
    name
        One of `TOYS`.
    max_block
        Its largest block.

    Returns
    -------
    tuple
        As `difference`, but from the same optimised graph, whose weights are packed as well; and
        the largest that is allowed.
    """
    with tempfile.TemporaryDirectory(prefix="swapnet-equality-") as folder:
        toy = build_toy(name, Path(folder), replace(TOYS[name], max_block=max_block))
        feeds = toy.feeds()
        whole = toy.whole(feeds, Path(folder))
        found = 0.0
        for budget in (toy.smallest, "100%"):
            with swapnet.SwapExecutor(toy.folder, budget, before_read=poison) as executor:
                for _ in range(2):
                    found = max(found, largest_difference(executor(feeds), whole)[1])
        windows = sum(len(block.windows) for block in toy.manifest.blocks)
        sliced = len(toy.manifest.sliced)
        print(f"{name}: {windows} windows, {sliced} operators sliced", end=", ")  # noqa: T201
    return found, SLICED_LIMIT if sliced else 0.0


def _differences(argument: str) -> Iterator[tuple[float, float]]:
    if argument in TOYS:
        for max_block in (WHOLE, TOYS[argument].max_block):
            yield packed_difference(argument, max_block)
    else:
        yield difference(Path(argument)), LIMIT


def main() -> int:
    """Compare all models; 1 if one differs by more than is allowed."""
    failed = False
    for argument in sys.argv[1:]:
        for found, limit in _differences(argument):
            verdict = "equal" if found <= limit else f"DIFFERS by more than {limit}"
            print(f"largest difference {found:.1e} of the largest output: {verdict}", flush=True)  # noqa: T201
            failed |= not found <= limit
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
