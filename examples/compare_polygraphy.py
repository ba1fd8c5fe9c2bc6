"""Polygraphy: compare a swapped engine with ONNX Runtime on the original model.

    python examples/compare_polygraphy.py path/to/model.onnx engines/mine --budget weights:25%

Polygraphy makes the inputs, runs both, and compares all outputs.
"""

from __future__ import annotations

import argparse
import sys

from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator

import swapnet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="ONNX file that the engine was built from")
    parser.add_argument("engine", help="engine directory")
    parser.add_argument("--budget", default="weights:25%")
    arguments = parser.parse_args()

    runners = [
        OnnxrtRunner(SessionFromOnnx(arguments.model)),
        swapnet.SwapRunner(arguments.engine, arguments.budget),
    ]
    compared = Comparator.compare_accuracy(Comparator.run(runners))  # within 1e-5
    print("PASSED" if compared else "FAILED")
    sys.exit(0 if compared else 1)


if __name__ == "__main__":
    main()
