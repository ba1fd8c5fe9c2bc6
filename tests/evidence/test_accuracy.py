"""``make accuracy``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import models
from swapnet.errors import InputError
from swapnet.models import ZooFiles
from tests.evidence import accuracy
from tests.evidence.accuracy import command
from tests.evidence.conftest import Call
from tests.evidence.evaluation import Inputs, Recipe
from tests.helpers.zoo import TOYS

BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZooFiles:
    """A model of the zoo that is none, and its inputs."""
    path = tmp_path / "toy.onnx"
    onnx.save(TOYS["images"].make(), path)
    files = ZooFiles(name="toy", onnx=path, example=path, data=path, licence="", sha256="")
    monkeypatch.setattr(models, "find", lambda _: files)
    monkeypatch.setattr(models, "get", lambda _: files)

    def inputs(seed: int) -> Inputs:
        def feeds() -> Iterator[dict[str, Any]]:
            random = np.random.default_rng(seed)
            for _ in range(4):
                yield {"image": random.standard_normal((1, 3, 8, 8)).astype(np.float32)}

        return Inputs(feeds)

    monkeypatch.setattr(accuracy, "evaluation", lambda _: inputs(1))
    monkeypatch.setattr(accuracy, "calibration_inputs", lambda _: inputs(2))
    return files


@pytest.mark.slow
@pytest.mark.usefixtures("zoo")
def test_the_zoo_is_compared_and_its_page_written(call: Call, tmp_path: Path) -> None:
    page, target = tmp_path / "accuracy.md", tmp_path / "found.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    shown = call(
        *(command, "toy", "--precision", "fp16,int8", "--threads", 1),
        *("--page", page, "--json", target),
    )
    assert shown.status == 0, shown.err
    reports = json.loads(target.read_text())
    assert list(reports) == [f"toy {p} {f}" for p in ("fp16", "int8") for f in ("engine", "file")]
    loss = {key: report["outputs"][0]["snr_db"] for key, report in reports.items()}
    assert 50 < loss["toy fp16 file"] < 90
    assert 15 < loss["toy int8 file"] < 50
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| model |")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("| toy | int8 |") == 4


@pytest.mark.slow
@pytest.mark.usefixtures("zoo")
def test_recipes_leave_operators_in_float(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (command, "toy", "--precision", "int8", "--threads", 1)
    page = tmp_path / "accuracy.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    chosen = Recipe(exclude=("nothing",), reason="a test")
    monkeypatch.setattr(accuracy, "recipe", lambda _: chosen)
    refused = call(*arguments, "--page", page)
    assert refused.is_user_error()
    assert "there is no operator 'nothing' to exclude" in refused.err
    chosen = Recipe(reason="none of them")
    assert call(*arguments, "--page", page).status == 0
    assert "| toy | minmax |  |  | none of them |" in page.read_text()
    chosen = Recipe("percentile", 99.9, reason="another")
    assert call(*arguments, "--page", page).status == 0
    assert "| toy | percentile 99.9 |  |  | another |" in page.read_text()


@pytest.mark.usefixtures("zoo")
def test_recipes_say_how_int8_takes_ranges(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[object, ...]] = []

    def calibrate(*_: object, precision: str, method: str, percentile: float, **__: object) -> None:
        taken.append((precision, method, percentile))
        raise InputError("enough", why="this is a test", hint="go on")

    chosen = Recipe("percentile", 99.9)
    monkeypatch.setattr(accuracy, "recipe", lambda _: chosen)
    monkeypatch.setattr(accuracy, "calibrate_model", calibrate)
    for precision in ("int8", "fp16"):
        assert call(command, "toy", "--precision", precision).is_user_error("enough")
    assert taken == [("int8", "percentile", 99.9), ("fp16", "minmax", 99.99)]


@pytest.mark.usefixtures("zoo")
def test_a_page_without_a_place(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(accuracy, "_reports", lambda *_: pytest.fail("work was done"))
    shown = call(command, "toy", "--page", page)
    assert shown.status == 2
    assert "no place for the table" in shown.err


def test_an_unknown_precision(call: Call) -> None:
    shown = call(command, "--precision", "fp8")
    assert shown.status == 2
    assert "'fp8' is none of fp16, int8" in shown.err
