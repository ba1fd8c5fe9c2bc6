"""What importing and executing loads, seen from a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swapnet
from tests.helpers.engines import BuildToy

ROOT = Path(swapnet.__file__).parent
EXECUTE = """
import json, sys, numpy as np, swapnet.executor
with swapnet.executor.SwapExecutor({folder!r}, {budget}) as executor:
    outputs = executor({{"x": np.ones((2, 64), np.float32)}})
print(json.dumps([len(outputs), sorted(sys.modules)]))
"""


def test_executing_imports_no_builder(engine: BuildToy) -> None:
    toy = engine("used-twice")
    script = EXECUTE.format(folder=str(toy.folder), budget=toy.smallest)
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    count, modules = json.loads(child.stdout)
    assert count == 1
    assert "onnxruntime" in modules
    unwanted = {"onnx", "polygraphy", "click", "rich", "google.protobuf", "swapnet.builder"}
    assert not unwanted.intersection(modules)
    assert not {"builder", "executor", "calibration", "models"}.intersection(modules)


def test_one_module_knows_pycuda() -> None:
    root = ROOT.resolve().parent
    folders = ("builder", "executor", "calibration", "models", "swapnet")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    found = [
        path.relative_to(root)
        for path in files
        if re.search(r"^\s*(import|from) pycuda", path.read_text(), re.MULTILINE)
    ]
    assert set(found) == {Path("executor/gpu/cuda.py")}


@pytest.mark.parametrize("name", ["builder", "executor", "calibration", "models"])
def test_links_lead_to_their_folders(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT.resolve().parent / name


@pytest.mark.parametrize("name", swapnet.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(swapnet, name) is not None
    assert name in dir(swapnet)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = swapnet.nothing
