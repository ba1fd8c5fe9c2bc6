"""What a user installs: the wheel in an empty environment, outside of the repository.

``python -m tests.evidence.wheel`` builds the wheel into ``dist/``, installs it, and builds, plans,
runs and benches a small model with it. The exit status is that of the first command that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST_BYTES = 1_000_000
"""A wheel holds code and a few sentences, so it stays below."""

MODEL = """
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
weights = [np.random.default_rng(i).standard_normal((512, 512), np.float32) for i in range(8)]
nodes = [helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(8)]
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512])
tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
graph = helper.make_graph(nodes, "chain", [value("v0")], [value("v8")], tensors)
opsets = [helper.make_opsetid("", 17)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "chain.onnx")
"""

COMMANDS = (
    ("build", "chain.onnx", "-o", "chain"),
    ("plan", "chain"),
    ("run", "chain", "--budget", "weights:50%"),
    ("bench", "chain", "--budget", "weights:50%", "--compare", "--duration", "1"),
    ("verify", "chain"),
    ("doctor",),
)


def build_wheel(folder: Path, *, isolated: bool = True) -> Path:
    """Build the wheel; its path.

    Parameters
    ----------
    folder
        Where it is written to.
    isolated
        Whether pip installs the build system first, which needs the package index.
    """
    options = [] if isolated else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True)
    return max(folder.glob("swapnet_trt-*.whl"), key=lambda path: path.stat().st_mtime)


def main() -> int:
    """Build, install and try; the exit status."""
    wheel = build_wheel(ROOT / "dist")
    nbytes = wheel.stat().st_size
    print(f"{wheel.relative_to(ROOT)}: {nbytes} bytes")  # noqa: T201
    if nbytes > MOST_BYTES:
        print(f"a wheel has at most {MOST_BYTES} bytes")  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        venv.create(place / "venv", with_pip=True)
        python = place / "venv" / "bin" / "python"
        commands = [
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel],
            [python, "-c", MODEL],
            *([python.with_name("swapnet"), *command] for command in COMMANDS),
        ]
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for command in commands:
            words = list(map(str, command))
            status = subprocess.run(words, cwd=place, env=alone, check=False).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
