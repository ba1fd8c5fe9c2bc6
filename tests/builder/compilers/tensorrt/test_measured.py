from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from swapnet.builder import build
from swapnet.builder.compilers.tensorrt.measured import measure_styles
from swapnet.errors import BackendError, ModelError
from swapnet.manifest import Manifest, load_manifest
from tests.helpers.zoo import TOYS

TIMES = {"external": (1.0, 4.0), "embedded": (2.0, 3.0)}


def test_both_styles_are_built_and_run(tmp_path: Path) -> None:
    built: list[tuple[str, Path]] = []

    def make(style: str, folder: Path) -> Manifest:
        built.append((style, folder))
        return None  # type: ignore[return-value]

    measured = measure_styles(make, tmp_path, lambda folder: TIMES[folder.name])
    assert built == [(style, tmp_path / style) for style in TIMES]
    assert measured == {
        0: {"external": 1.0, "embedded": 2.0},
        1: {"external": 4.0, "embedded": 3.0},
    }


@pytest.mark.parametrize("failing", ["build", "run"])
def test_a_style_that_does_not_work_leaves_it_to_the_rule(tmp_path: Path, failing: str) -> None:
    def make(style: str, _: Path) -> Manifest:
        if failing == "build" and style == "external":
            raise ModelError("weights can't be inputs")
        return None  # type: ignore[return-value]

    def swaps(_: Path) -> tuple[float, ...]:
        raise BackendError("does not run")

    assert measure_styles(make, tmp_path, swaps) == {}


@pytest.mark.slow
def test_the_faster_style_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real builder, as if there were a GPU: blocks in turn faster in one and the other."""
    toy = TOYS["transformer"]
    toy.save(toy.make(), tmp_path / "toy.onnx")
    calls: list[Any] = []

    def swaps(folder: Path) -> tuple[float, ...]:
        blocks = load_manifest(folder).blocks
        calls.append(folder.name)
        fast = 0 if folder.name == "external" else 1
        return tuple(1.0 if block.index % 2 == fast else 2.0 for block in blocks)

    module = sys.modules[build.__module__]
    monkeypatch.setattr(module, "can_run", lambda _: True)
    monkeypatch.setattr(
        module, "measure_styles", lambda make, work: measure_styles(make, work, swaps)
    )
    manifest = build(
        tmp_path / "toy.onnx",
        tmp_path / "engine",
        backend="tensorrt-rtx",
        max_block=toy.max_block,
        shapes=toy.shapes,
    )
    styles = [b.weight_style for b in manifest.blocks if b.is_graph and b.extent.nbytes]
    assert len(styles) > 1
    assert calls == ["external", "embedded"]
    assert styles == [
        "embedded" if b.index % 2 else "external"
        for b in manifest.blocks
        if b.is_graph and b.extent.nbytes
    ]
    assert not list(tmp_path.glob(".engine*"))
