"""Operators of a library that the user names, in this process and in children of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from swapnet import custom_ops
from swapnet.builder import build
from swapnet.builder.compilers import onnxruntime
from swapnet.builder.importing.sessions import quiet_options
from swapnet.cli import cli
from swapnet.custom_ops import use_custom_ops
from swapnet.errors import BackendError, InputError, ModelError
from swapnet.executor import SwapExecutor
from swapnet.executor.probing import activations
from swapnet.process import child
from tests.helpers.zoo import Net

DOMAIN = "ai.onnx.contrib"


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, None]:
    """Those in use: none, and after the test those before it again."""
    used: dict[str, None] = {}
    monkeypatch.setattr(custom_ops, "_LIBRARIES", used)
    return used


@pytest.fixture(scope="module")
def library() -> Path:
    """Its ``NegPos`` gives the negative and the positive part of its input."""
    reason = "onnxruntime-extensions is not installed"
    extensions = pytest.importorskip("onnxruntime_extensions", reason=reason)
    return Path(extensions.get_library_path())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net()
    value = net.dense(net.input("x", (4, 64)), 64, 64)
    parts = net.several("NegPos", value, outputs=2)
    net.nodes[-1].domain = DOMAIN
    net.output(net("Add", *(net.dense(part, 64, 64) for part in parts)))
    proto = net.model()
    proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    path = tmp_path / "parts.onnx"
    onnx.save_model(proto, path)
    return path


def test_a_file_that_is_missing_is_refused_when_it_is_named(libraries: dict[str, None]) -> None:
    with pytest.raises(InputError, match=r"missing\.so is no library of custom operators"):
        use_custom_ops("missing.so")
    assert not libraries


def test_a_file_of_another_kind_is_refused_by_the_first_session(tmp_path: Path) -> None:
    other = tmp_path / "text.so"
    other.write_text("no library")
    use_custom_ops(other)
    with pytest.raises(InputError, match=r"custom operators can't be loaded from .*text\.so"):
        quiet_options()


def test_a_child_is_given_the_libraries_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.so").touch()
    (tmp_path / "two.so").touch()
    monkeypatch.chdir(tmp_path)
    use_custom_ops("one.so", Path("two.so"), tmp_path / "one.so")
    popen, commands = subprocess.Popen, list[list[str]]()

    def start(command: list[str], **options: object) -> object:
        commands.append(command)
        return popen([sys.executable, "-c", ""], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", start)
    child.Child("swapnet.some.module", "a process").close()
    assert commands[0][2:] == ["swapnet.some.module", *map(str, tmp_path.glob("*.so"))]


def test_a_model_says_which_operator_and_option_it_needs(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        build(model, tmp_path / "engine", backend="onnxruntime")
    assert f"{DOMAIN}:NegPos" in caught.value.hint
    assert "--custom-ops LIB.so" in caught.value.hint


@pytest.fixture
def folder(model: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Built and measured in a real child."""
    monkeypatch.setattr(onnxruntime, "measure", activations.measure)
    use_custom_ops(library)
    build(model, tmp_path / "engine", backend="onnxruntime", max_block="16KiB")
    return tmp_path / "engine"


@pytest.mark.slow
def test_an_engine_is_built_and_executed_with_the_library_only(
    folder: Path, model: Path, library: Path, libraries: dict[str, None]
) -> None:
    import onnxruntime as ort

    x = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    with SwapExecutor(folder, "weights:50%") as executor:
        assert len(executor.manifest.blocks) == 3
        (found,) = executor({"x": x}).values()
    options = quiet_options()
    (expected,) = ort.InferenceSession(model, options).run(None, {"x": x})
    assert np.allclose(found.astype(np.float32), expected, rtol=1e-5, atol=1e-6)
    assert str(library).encode() not in (folder / "manifest.json").read_bytes()
    libraries.clear()
    with pytest.raises(BackendError) as caught:
        SwapExecutor(folder, "100%")
    assert f"the operator NegPos of the domain {DOMAIN}" in caught.value.why
    assert "--custom-ops LIB.so" in caught.value.hint
    line = ["run", str(folder), "--budget", "100%", "--custom-ops", str(library)]
    ran = CliRunner().invoke(cli, line)
    assert ran.exit_code == 0, ran.output
