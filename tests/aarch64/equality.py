"""Swapped outputs of models of the zoo against ONNX Runtime on the same file: check.sh's part.

``python -m tests.aarch64.equality FOLDER…``, each with ``NAME.onnx`` and ``example.npz``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnxruntime

import swapnet
from swapnet.arrays import load_npz
from swapnet.executor.bench.difference import largest_difference

BUDGET = "weights:25%"
LIMIT = 1e-4
"""Over the largest magnitude of an output, as `make prove` allows against the original file."""


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


def main() -> int:
    """Compare all models; 1 if one differs by more than `LIMIT`."""
    failed = False
    for argument in sys.argv[1:]:
        found = difference(Path(argument))
        verdict = "equal" if found <= LIMIT else f"DIFFERS by more than {LIMIT}"
        print(f"largest difference {found:.1e} of the largest output: {verdict}", flush=True)  # noqa: T201
        failed |= not found <= LIMIT
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
