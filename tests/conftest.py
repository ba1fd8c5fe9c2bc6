"""Toys, each built once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from swapnet.builder.compilers import onnxruntime
from swapnet.calibration.delays import measure as delays_measure
from swapnet.calibration.delays.worker import Job
from swapnet.executor import shapes as other_shapes
from swapnet.executor.device import Device
from swapnet.manifest import load_manifest
from swapnet.profile import Profile, assumed_profile
from tests.helpers import measuring
from tests.helpers.engines import BuildToy, Engine, build_toy
from tests.helpers.gpu import compiled_as_onnx, feeds, gpu_engine, trt
from tests.helpers.zoo import TOYS

__all__ = ["compiled_as_onnx", "feeds", "gpu_engine", "trt"]


@pytest.fixture(scope="session", autouse=True)
def _measured_in_forks() -> Iterator[None]:
    """See `tests.helpers.measuring`."""
    with pytest.MonkeyPatch.context() as patched:
        for user in (onnxruntime, other_shapes):
            patched.setattr(user, "measure", measuring.measure)
        yield
    measuring.stop()


@pytest.fixture(scope="session")
def drawing() -> None:
    """Skips what draws where Matplotlib, an optional extra, is not installed."""
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")


@pytest.fixture(scope="session")
def reporting() -> None:
    """Skips what makes pages where Bokeh, an optional extra, is not installed."""
    pytest.importorskip("bokeh", reason="Bokeh is not installed")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> BuildToy:
    """Builds a toy by name the first time that it is asked for; tests must not change it."""

    @cache
    def built(name: str) -> Engine:
        return build_toy(name, tmp_path_factory.mktemp(name))

    return built


@pytest.fixture
def copy(toy: Engine, tmp_path: Path) -> Path:
    """The folder of a test's toy, to be changed."""
    return Path(shutil.copytree(toy.folder, tmp_path / "engine"))


_COUSINS = (
    *("-portable", "-12", "-21", "half-sliced", "bfloat16-sliced", "integers-sliced"),
    *("tied-matmul", "tied-matmul-sliced", "gru-sliced", "rnn-sliced", "gru-last-sliced"),
    *("quantised-sliced", "grouped-sliced", "transformer-sliced", "lstm-sliced", "bfloat16"),
    *("listed-as-inputs", "external-unaligned", "computed-indices", "sequence", "integers"),
    *("opset-7", "nested", "scan", "weightless", "microsoft", "many", "recurrent"),
)
"""Ends of the names of toys that differ little from another one."""


def _marks(name: str) -> list[pytest.MarkDecorator]:
    """Where tests run in several processes, all of a toy in one, which builds it once."""
    marks = [pytest.mark.xdist_group(name)]
    return [*marks, pytest.mark.slow] if name.endswith(_COUSINS) else marks


@pytest.fixture(params=[pytest.param(name, marks=_marks(name)) for name in TOYS])
def small_zoo(request: pytest.FixtureRequest, engine: BuildToy) -> Engine:
    """Each toy in turn."""
    built = engine(request.param)
    if request.param.startswith("packing") and not built.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    return built


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What would be measured; nothing is."""
    asked: list[Job] = []

    def measured(job: Job, _: object) -> Profile:
        asked.append(job)
        manifest = load_manifest(Path(job.folder), job.shapes)
        return msgspec.structs.replace(
            assumed_profile(manifest), device=Device(job.threads).fingerprint
        )

    monkeypatch.setattr(delays_measure, "measure_in_child", measured)
    return asked
