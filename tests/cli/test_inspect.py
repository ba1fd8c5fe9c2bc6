"""``swapnet inspect``: what an engine was built in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import onnxruntime
import pytest

from swapnet.manifest import Precision, load_manifest, save_manifest
from tests.cli.conftest import Call
from tests.helpers.engines import BuildToy


@pytest.fixture
def folder(engine: BuildToy, tmp_path: Path) -> Path:
    """A copy of an engine in fp32."""
    return Path(shutil.copytree(engine("images").folder, tmp_path / "images"))


@pytest.mark.parametrize(
    ("precision", "weight_only", "said"),
    [
        ("fp32", False, "images for onnxruntime"),
        ("int8", False, "images in int8 for onnxruntime"),
        ("int8", True, "images in int8 (weights only) for onnxruntime"),
        ("fp16", True, "images in fp16 (weights only) for onnxruntime"),
    ],
)
def test_the_precision_follows_the_name(
    call: Call, folder: Path, precision: Precision, weight_only: bool, said: str
) -> None:
    manifest = load_manifest(folder)
    changed = msgspec.structs.replace(manifest, precision=precision, weight_only=weight_only)
    save_manifest(folder, changed)
    shown = " ".join(call("inspect", folder).out.split())
    assert said in shown
    written = json.loads(call("inspect", folder, "--json", "-").out)
    assert written.get("precision", "fp32") == precision
    assert written.get("weight_only", False) == weight_only


def test_a_block_is_written_as_a_model(call: Call, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "block.onnx"
    written = call("inspect", folder, "--extract-block", 0, "-o", target)
    assert written.status == 0
    assert f"{target}: " in written.err
    assert onnxruntime.InferenceSession(target).get_inputs()
    assert call("inspect", folder, "--extract-block", 99).is_user_error("block 99")
