"""Each example runs as a user runs it, on small models."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw

import swapnet
from swapnet.errors import EngineError
from swapnet.models import ppocr
from tests.helpers.zoo import Net

FOLDER = Path(__file__).parents[2] / "examples"
ENGINES = FOLDER.parent / "engines"
EXAMPLES = sorted(FOLDER.glob("*.py"))

Run = Callable[..., str]

pytestmark = pytest.mark.xdist_group("examples")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example with arguments of its command line; gives what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def save_model(path: Path, seed: int = 0) -> None:
    """Four convolutions over a small image."""
    net = Net(seed)
    value, channels = net.input("image", [1, 3, 16, 16]), 3
    for _ in range(4):
        value = net("Conv", value, net.weight(128, channels, 3, 3), pads=[1] * 4)
        value, channels = net("Relu", value), 128
    net.output(net("GlobalAveragePool", value))
    onnx.save_model(net.model(), path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "model.onnx"
    save_model(path)
    return path


@pytest.fixture(scope="module")
def built(model: Path) -> Path:
    folder = model.parent / "engine"
    swapnet.build(model, folder)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("jobs")
def test_one_model_is_built_and_compared(run: Run, model: Path, tmp_path: Path) -> None:
    printed = run("one_model", model, tmp_path / "engine")
    found = re.search(r"differs by (\S+) of its largest value", printed)
    assert found is not None
    assert float(found[1]) < 1e-5
    assert swapnet.Engine.open(tmp_path / "engine").manifest.inputs[0].name == "image"


@pytest.mark.slow
def test_a_camera_loop_counts_frames_and_late_answers(run: Run, built: Path) -> None:
    fast = run("camera", built, "--rate", 40, "--seconds", 0.2, "--deadline-ms", 60_000)
    assert re.search(r"^[1-8] of 8 frames answered, 0 of them late$", fast, re.M)
    late = run("camera", built, "--rate", 40, "--seconds", 0.2, "--deadline-ms", 0)
    (answered, counted), *_ = re.findall(r"(\d+) of 8 frames answered, (\d+) of them late", late)
    assert answered == counted


def test_several_models_share_a_budget(run: Run, built: Path) -> None:
    printed = run("several_models", built, built, "--budget", "64MiB", "--requests", 2)
    assert re.findall(r"^(\d): engine: .* MiB for weights", printed, re.M) == ["0", "1"]


def test_a_budget_changes_while_requests_run(run: Run, built: Path) -> None:
    budgets = ("100%", "weights:50%", "1KiB", "weights:0%")
    whole, half, refused, least = run("changing_budget", built, *budgets, "--seconds", 0).split(
        "\n", 4
    )[:4]
    assert "reads 0.0 MiB in every inference" in whole
    assert "reads 0.0 MiB" not in half
    assert refused.startswith("1KiB: refused, at least")
    assert least.startswith("weights:0%")


def stand_ins(folder: Path) -> tuple[object, ...]:
    """Arguments of the OCR example for two small networks, and a page of three dark lines."""
    finder = Net()
    dark = finder("Neg", finder.input("x", [1, 3, 96, 192]))
    channels = finder.constant(np.full((1, 3, 1, 1), 4, np.float32))
    finder.output(finder("Sigmoid", finder("Conv", dark, channels)))
    reader = Net()
    value = reader("AveragePool", reader.input("x", [1, 3, 48, 64]), kernel_shape=[48, 16])
    value = reader("Squeeze", value, reader.constant(np.array([2], np.int64)))
    value = reader("Transpose", value, perm=[0, 2, 1])
    reader.output(reader("Softmax", reader.dense(value, 3, 4)))
    for name, net in {"finder": finder, "reader": reader}.items():
        onnx.save_model(net.model(), folder / f"{name}.onnx")
        swapnet.build(folder / f"{name}.onnx", folder / name)
    page = Image.new("RGB", (192, 96), "white")
    for top in (10, 40, 70):
        ImageDraw.Draw(page).rectangle((20, top, 160, top + 8), "black")
    page.save(folder / "page.png")
    return folder / "finder", folder / "reader", "--image", folder / "page.png"


@pytest.mark.slow
def test_pages_are_read_line_by_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the zoo's networks where `make engines` has built them, else by small ones."""
    try:
        printed = run("ocr", *(ENGINES / f"ppocrv4_{part}" for part in ("det", "rec")))
    except EngineError:
        monkeypatch.setattr(ppocr, "characters", lambda: ("", "a", "b", "c"))
        printed = run("ocr", *stand_ins(tmp_path))
        assert len(re.findall(r"^ *\d+%  [abc]*$", printed, re.M)) == 3
    else:
        assert re.search(r"^ *9\d%  Region-based segmentation$", printed, re.M)


def test_polygraphy_compares_an_engine_with_the_model(
    run: Run, model: Path, built: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("compare_polygraphy", model, built)
    assert ended.value.code == 0
    save_model(tmp_path / "other.onnx", seed=1)
    with pytest.raises(SystemExit) as ended:
        run("compare_polygraphy", tmp_path / "other.onnx", built)
    assert ended.value.code == 1


@pytest.mark.usefixtures("drawing")
@pytest.mark.slow
def test_the_curve_is_drawn(run: Run, built: Path, tmp_path: Path) -> None:
    printed = run("curve", built, tmp_path / "curve.png", "--points", 3, "--inferences", 1)
    assert len(printed.splitlines()) == 3
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    code = path.read_text()
    assert len(code.splitlines()) < 60
    assert f"python examples/{path.name} " in (ast.get_docstring(ast.parse(code)) or "")


def test_all_examples_are_listed() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]
