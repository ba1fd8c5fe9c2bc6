"""``swapnet models run``: the first answer early, the long ones last."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from swapnet import models
from swapnet.arrays import save_npz
from swapnet.cli.zoo import current_engine
from swapnet.errors import InputError
from swapnet.manifest import MANIFEST, load_manifest, save_manifest
from swapnet.models import ZooFiles, zoo
from swapnet.progress import Progress
from tests.cli.conftest import Call
from tests.evidence.conftest import a_report
from tests.helpers.engines import BuildToy, Engine

READS = """
import collections, json, sys
opened = collections.Counter()
def look(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
        opened[str(arguments[0])[len(sys.argv[1]) + 1:]] += 1
sys.addaudithook(look)
from swapnet.cli import cli
cli.main(["run", sys.argv[1], "--budget", "weights:50%"], standalone_mode=False, obj=True)
print(json.dumps(opened))
"""


@pytest.fixture
def measured(engine: BuildToy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Files that would be measured; nothing is."""
    toy = engine("images")
    asked: list[str] = []
    save_npz(tmp_path / "example.npz", toy.feeds())

    def get(name: str, **_: object) -> ZooFiles:
        example = tmp_path / "example.npz"
        return ZooFiles(name, toy.model, example, example, "none", "0" * 64)

    def bench(setup: Any, progress: Progress) -> Any:
        progress("measure", 0, 1)
        asked.append(setup.unswapped.name)
        return type("Found", (), {"report": a_report(), "outputs": {}})

    monkeypatch.setattr(models, "get", get)
    known = tuple(replace(model, read=lambda *_: "an answer") for model in zoo._MODELS)
    monkeypatch.setattr(zoo, "_MODELS", known)
    monkeypatch.setattr("swapnet.cli.models.current_engine", lambda *_: toy.folder)
    monkeypatch.setattr("swapnet.cli.models.bench", bench)
    return asked


def test_the_smallest_model_comes_first(call: Call, measured: list[str]) -> None:
    shown = call("models", "run", "vgg19", "ppocrv4_det", "minilm")
    assert shown.status == 0
    rows = [line.split()[0] for line in shown.out.splitlines() if "e-" in line]
    assert rows == ["ppocrv4_det", "minilm", "vgg19"]
    assert len(measured) == 3
    assert shown.out.count("  an answer") == 3
    assert "[2/3] minilm: comparing" in shown.err


@pytest.mark.usefixtures("measured")
def test_a_row_is_printed_before_the_next_model_is_made(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = models.get

    def get(name: str, **_: object) -> ZooFiles:
        if name == "vgg19":
            raise KeyboardInterrupt
        return real(name)

    monkeypatch.setattr(models, "get", get)
    shown = call("models", "run", "vgg19", "ppocrv4_det")
    assert shown.status == 130
    assert "ppocrv4_det" in shown.out
    assert "an answer" in shown.out


@pytest.fixture
def placed(engine: BuildToy, tmp_path: Path) -> tuple[Engine, ZooFiles, Path]:
    """A toy as a model of the zoo, and its engine in the folder of engines."""
    toy = engine("images")
    folder = tmp_path / "engines" / "toy"
    shutil.copytree(toy.folder, folder)
    sha256 = toy.manifest.source.sha256
    model = tmp_path / "zoo" / "toy-r2" / f"{toy.manifest.source.name}.onnx"
    return toy, ZooFiles("toy", model, model, model, "none", sha256), folder


def change(folder: Path, **changes: Any) -> None:
    save_manifest(folder, structs.replace(load_manifest(folder), **changes))


@pytest.mark.parametrize("other", ["file", "precision", "shapes", "damaged"])
def test_an_engine_of_the_user_is_not_overwritten(
    placed: tuple[Engine, ZooFiles, Path], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    toy, files, folder = placed
    monkeypatch.setattr("swapnet.cli.zoo.build_engine", lambda *_, **__: pytest.fail("built"))
    inputs = toy.feeds()
    if other == "file":
        files = replace(files, sha256="0" * 64)
    elif other == "precision":
        change(folder, precision="int8")
    elif other == "shapes":
        inputs = {name: np.repeat(array, 2, axis=0) for name, array in inputs.items()}
    else:
        (folder / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match="is in the way"):
        current_engine(folder.parent, files, inputs, "onnxruntime")


@pytest.mark.parametrize("state", ["current", "older builder", "earlier file", "missing"])
def test_an_engine_of_the_same_file_and_options_is_used_or_built_again(
    placed: tuple[Engine, ZooFiles, Path], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    toy, files, folder = placed
    built: list[Path] = []
    monkeypatch.setattr("swapnet.cli.zoo.build_engine", lambda _, to, **__: built.append(to))
    source, compiled = toy.manifest.source, toy.manifest.compiled
    if state == "older builder":
        change(folder, compiled=structs.replace(compiled, builder="0.0.1"))
    elif state == "earlier file":
        path = files.onnx.parent.parent / "toy-r1" / files.onnx.name
        change(folder, source=structs.replace(source, sha256="0" * 64, path=str(path)))
    elif state == "missing":
        shutil.rmtree(folder)
    assert current_engine(folder.parent, files, toy.feeds(), "onnxruntime") == folder
    assert built == ([] if state == "current" else [folder])


@pytest.mark.slow
def test_a_run_reads_each_file_of_the_engine_once(engine: BuildToy) -> None:
    folder = str(engine("images").folder)
    child = subprocess.run(
        [sys.executable, "-c", READS, folder], capture_output=True, text=True, check=True
    )
    opened = json.loads(child.stdout.splitlines()[-1])
    assert opened.pop("weights.bin") >= 1
    assert opened.pop("manifest.json") == 1
    assert set(opened.values()) == {1}
