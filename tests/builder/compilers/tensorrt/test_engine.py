"""One block compiled: what the library refuses, and what it is told; on a strict fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swapnet.builder.compilers.tensorrt import engine
from swapnet.builder.compilers.tensorrt.engine import compile_engine
from swapnet.builder.compilers.tensorrt.job import Job, Profile
from swapnet.errors import BackendUnavailableError, ModelError
from swapnet.progress import silent
from tests.helpers.fake_builder import FakeTensorRT, installed

TITLE = "block 3 (Conv … Relu)"


@pytest.fixture
def fake() -> Iterator[FakeTensorRT]:
    with installed(FakeTensorRT()) as fake:
        yield fake


def job(folder: Path, **changes: Any) -> Job:
    defaults: dict[str, Any] = {
        "backend": "tensorrt",
        "title": TITLE,
        "model": "block.onnx",
        "engine": str(folder / "engine.plan"),
        "external": False,
        "profiles": {},
        "workspace_bytes": 1 << 20,
    }
    return Job(**(defaults | changes))


def refusal(folder: Path, **changes: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        compile_engine(job(folder, **changes), silent)
    assert TITLE in caught.value.what
    assert "tensorrt" in caught.value.what
    assert "\n" not in caught.value.why
    assert not list(folder.iterdir())
    return caught.value


def test_a_plan_is_written(fake: FakeTensorRT, tmp_path: Path) -> None:
    assert compile_engine(job(tmp_path), silent) == 4096
    assert (tmp_path / "engine.plan").read_bytes() == b"a plan"
    assert fake.parsed == ["block.onnx"]
    (config,) = fake.configs
    assert config.max_aux_streams == 0
    assert config.pools == {0: 1 << 20}
    assert config.flags == []


def test_a_library_that_says_nothing_of_activations(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.activation_line = ""
    assert compile_engine(job(tmp_path), silent) is None


@pytest.mark.parametrize(("major", "flags"), [(10, 2), (11, 0)])
def test_networks_are_strongly_typed(tmp_path: Path, major: int, flags: int) -> None:
    with installed(FakeTensorRT(major)) as fake:
        compile_engine(job(tmp_path, tactic_bytes=5, workspace_bytes=None), silent)
    assert fake.network_flags == [flags]
    assert fake.configs[0].pools == ({4: 8} if major > 10 else {})


def test_options_reach_the_builder(fake: FakeTensorRT, tmp_path: Path) -> None:
    compile_engine(
        job(
            tmp_path,
            hardware_compatibility="ampere+",
            version_compatible=True,
            builder_optimization_level=5,
            profiles={"x": Profile((1, 3), (4, 3), (4, 3))},
        ),
        silent,
    )
    (config,) = fake.configs
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert config.flags == [13]
    assert config.builder_optimization_level == 5
    assert config.profiles[0].shapes == {"x": ((1, 3), (4, 3), (4, 3))}


@pytest.mark.usefixtures("fake")
def test_a_level_that_this_version_lacks(tmp_path: Path) -> None:
    error = refusal(tmp_path, hardware_compatibility="same-compute-capability")
    assert "SAME_COMPUTE_CAPABILITY" in error.why
    assert "NONE, AMPERE_PLUS" in error.why
    with installed(FakeTensorRT(11)) as newer:
        compile_engine(job(tmp_path, hardware_compatibility="same-compute-capability"), silent)
    assert newer.configs[0].hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY"


def test_no_gpu(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.refuses = frozenset({"builder"})
    with pytest.raises(BackendUnavailableError, match="can't build here") as caught:
        compile_engine(job(tmp_path), silent)
    assert "error: 35" in caught.value.why
    assert "tensorrt-rtx" in caught.value.hint


def test_the_parser_names_node_and_operator(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.refuses = frozenset({"parse"})
    fake.parser_errors = [
        (4, "conv_1", "Conv", "kernel\nis odd"),
        (1, "", "", "false"),
        (-1, "", "", "no outputs"),
        (4, "conv_1", "Conv", "kernel\nis odd"),
    ]
    error = refusal(tmp_path)
    assert error.why == (
        "node 'conv_1' (Conv): kernel is odd; node number 1: the parser does not know it; "
        "no outputs"
    )
    assert "--backend onnxruntime" in error.hint
    assert "--weights auto" in refusal(tmp_path, external=True).hint


@pytest.mark.parametrize(
    ("refused", "word"),
    [
        ("network", "network"),
        ("config", "configuration"),
        ("profile", "profile"),
        ("build", "mul_1 in one of its tactics"),
        ("parse", "no reason"),
    ],
)
def test_nothing_returned_is_an_error(
    fake: FakeTensorRT, tmp_path: Path, refused: str, word: str
) -> None:
    fake.refuses = frozenset({refused})
    assert word in refusal(tmp_path, profiles={"x": Profile((1,), (2,), (2,))}).why


def test_shapes_that_contradict_each_other(fake: FakeTensorRT, tmp_path: Path) -> None:
    error = refusal(tmp_path, profiles={"x": Profile((3,), (2,), (2,))})
    assert "'x'" in error.why
    assert "not consistent" in error.why
    assert not fake.configs[0].profiles


def test_want_of_workspace_has_a_hint_of_its_own(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.workspace_bytes = 2 << 20
    assert "--workspace" in refusal(tmp_path).hint
    assert compile_engine(job(tmp_path, workspace_bytes=None), silent) == 4096


def test_reasons_are_not_endless(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.refuses = frozenset({"parse"})
    fake.parser_errors = [(0, "n", "Conv", "why " * 1000)]
    assert len(refusal(tmp_path).why) < 700


@pytest.mark.usefixtures("fake")
def test_steps_of_long_builds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    compile_engine(job(tmp_path), report)
    assert not told
    monkeypatch.setattr(engine, "_QUIET_S", 0)
    compile_engine(job(tmp_path), report)
    assert told == [(f"compile {TITLE}", 1, 2)]


@pytest.mark.usefixtures("fake")
def test_a_report_can_stop_the_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_QUIET_S", 0)
    with pytest.raises(KeyboardInterrupt):
        compile_engine(job(tmp_path), interrupt)
    assert not list(tmp_path.iterdir())


def test_times_are_kept(fake: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "timing" / "10.3.cache"
    compile_engine(job(tmp_path, timing_cache=str(cache)), silent)
    assert cache.read_bytes() == b"times"
    for odd in (b"damaged", b"of another GPU"):
        cache.write_bytes(odd)
        compile_engine(job(tmp_path, timing_cache=str(cache)), silent)
        assert cache.read_bytes() == b"times"
    fake.refuses = frozenset({"build"})
    cache.write_bytes(b"old times")
    with pytest.raises(ModelError):
        compile_engine(job(tmp_path, timing_cache=str(cache)), silent)
    assert cache.read_bytes() == b"old times"


@pytest.mark.usefixtures("fake")
def test_times_that_can_not_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    compile_engine(job(tmp_path, timing_cache=str(tmp_path / "file" / "x.cache")), silent)
    assert (tmp_path / "engine.plan").exists()
