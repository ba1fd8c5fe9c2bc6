"""SwapNet as a Polygraphy backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator
from polygraphy.exception import PolygraphyException
from polygraphy.tools import main

from swapnet.calibration.accuracy.polygraphy_run import CommandRunner
from swapnet.calibration.accuracy.runner import SwapEngineFromOnnx, SwapRunner
from swapnet.errors import BudgetError
from tests.helpers.engines import BuildToy

ROOT = Path(__file__).parents[3]
POLYGRAPHY = "from polygraphy.tools import main; raise SystemExit(main())"


def test_polygraphy_runs_both_on_the_same_data(engine: BuildToy) -> None:
    toy = engine("images")
    results = Comparator.run(
        [OnnxrtRunner(SessionFromOnnx(str(toy.model))), SwapRunner(toy.folder, toy.smallest)]
    )
    (_, (reference,)), (name, (ours,)) = results
    assert name.startswith("swapnet-runner")
    assert set(ours) == {tensor.name for tensor in toy.manifest.outputs}
    for output in ours:
        np.testing.assert_allclose(ours[output], reference[output], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sizes_that_may_change_are_symbols(engine: BuildToy) -> None:
    toy = engine("dynamic")
    with SwapRunner(toy.folder, "100%") as runner:
        shape = runner.get_input_metadata()["x"].shape
        assert [type(size) for size in shape] == [str, str, int]
        assert tuple(shape.max) == (3, 7, 64)
        feeds = {name: array[:2, :5] for name, array in toy.feeds().items()}
        outputs = runner.infer(feeds)
    for name, expected in toy.original(feeds).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
def test_a_loader_builds_an_engine(engine: BuildToy, tmp_path: Path, kept: bool) -> None:
    toy = engine("dynamic")
    folder = tmp_path / "engine" if kept else None
    loader = SwapEngineFromOnnx(toy.model, folder, shapes={"x": (1, 2, 64)}, portable=True)
    opened = loader()
    assert opened.manifest.planned_shapes == {"x": (1, 2, 64), "mask": (1, 2)}
    assert opened.manifest.compiled.fingerprint == "portable"
    with SwapRunner(opened, "weights:0%") as runner:
        assert runner.infer({name: array[:1, :2] for name, array in toy.feeds().items()})
    del loader
    assert opened.folder.exists() == kept


def test_an_error_of_the_user_is_one_of_polygraphy_for_its_command(engine: BuildToy) -> None:
    runners = ((SwapRunner, BudgetError), (CommandRunner, PolygraphyException))
    for runner, error in runners:
        with (
            pytest.raises(error, match="does not fit in 1KiB"),
            runner(engine("images").folder, "1KiB"),
        ):
            pass


def entry_points() -> tuple[str, list[str]]:
    """Group and lines of the entry points for Polygraphy in ``pyproject.toml``."""
    project = (ROOT / "pyproject.toml").read_text()
    section = re.search(r'^\[project\.entry-points\."(.+)"\]\n((?:\w.*\n)+)', project, re.M)
    assert section is not None
    return section[1], section[2].replace('"', "").splitlines()


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Variables of a process in which the entry points of ``pyproject.toml`` are installed."""
    group, lines = entry_points()
    info = tmp_path / "site" / "swapnet_trt-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swapnet-trt\nVersion: 0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    return {**os.environ, "PYTHONPATH": f"{info.parent}{os.pathsep}{ROOT}"}


def polygraphy(installed: dict[str, str], *arguments: object) -> str:
    """Output of ``polygraphy run``, which ends well."""
    ended = subprocess.run(
        [sys.executable, "-c", POLYGRAPHY, "run", *map(str, arguments)],
        env=installed,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_command_of_polygraphy_compares_an_engine(
    engine: BuildToy, installed: dict[str, str]
) -> None:
    toy = engine("images")
    options = ("--swapnet-engine", toy.folder, "--swapnet-budget", "weights:50%")
    said = polygraphy(installed, toy.model, "--onnxrt", "--swapnet", *options)
    assert "swapnet-runner" in said
    assert "PASSED" in said


@pytest.mark.slow
def test_the_command_of_polygraphy_builds_at_the_shapes_that_it_is_given(
    engine: BuildToy, installed: dict[str, str]
) -> None:
    toy = engine("dynamic")
    shapes = ("--input-shapes", "x:[2,4,64]", "mask:[2,4]")
    said = polygraphy(installed, toy.model, "--onnxrt", "--swapnet", *shapes)
    assert "PASSED" in said


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning",  # Polygraphy leaves the script's file open
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_the_options_of_polygraphy_become_a_script(
    engine: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = engine("dynamic")
    (group, (line,)) = entry_points()
    name, value = line.split(" = ")
    plugin = metadata.EntryPoint(name, value, group)
    monkeypatch.setattr(metadata, "entry_points", lambda: metadata.EntryPoints([plugin]))

    def script(*options: str) -> str:
        path = tmp_path / "script.py"
        arguments = ["run", str(toy.model), "--swapnet", *options, "--gen-script", str(path)]
        monkeypatch.setattr(sys, "argv", ["polygraphy", *arguments])
        assert main() == 0
        return path.read_text()

    built = script("--input-shapes", "x:[2,4,64]", "mask:[2,4]")
    assert f"SwapEngineFromOnnx('{toy.model}', shapes={{'x': (2, 4, 64), 'mask': (2, 4)}})" in built
    assert "CommandRunner(build_swapnet, 'weights:0%')" in built
    opened = script("--swapnet-engine", "engines/mine", "--swapnet-budget", "64MiB")
    assert "CommandRunner('engines/mine', '64MiB')" in opened
