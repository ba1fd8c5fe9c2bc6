"""Bindings are the pinned ones, and what they break stays in a child."""

from __future__ import annotations

import ast
import platform
import shutil
import sys
from pathlib import Path

import pytest

from tests.contract.stubs import parsed
from tests.helpers import bindings
from tests.helpers.bindings import RTX, VERSIONS, ask, check_pin


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "tensorrt.whl"
    wheel.write_bytes(b"other")
    with pytest.raises(AssertionError, match=r"tensorrt\.whl is not the pinned file"):
        check_pin(wheel, "0" * 64)


def test_without_gcc_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    bindings._stub_libraries.cache_clear()
    with pytest.raises(pytest.skip.Exception, match=r"^gcc is missing$"):
        ask(VERSIONS[0], "answer = 0")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was asked yet, and gcc is here."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    bindings._bindings.cache_clear()
    bindings._stub_libraries.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_on_another_machine_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(pytest.skip.Exception, match=r"pinned for x86_64, this is aarch64$"):
        ask(VERSIONS[0], "answer = 0")


@pytest.mark.usefixtures("fresh")
def test_without_rtx_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(pytest.skip.Exception, match=r"^TensorRT-RTX is not installed$"):
        ask(RTX, "answer = 0")


@pytest.mark.slow
def test_a_crash_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="exit status -11"):
        ask(RTX, "import ctypes\nctypes.string_at(0)")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "f(self: m.A, *, sizes: Sequence[tuple[int, int]], kind: m.A.K = <K.ONE: (1, 2)>)"
            " -> dict[str, n::A]",
            "def f(self: tensorrt.A, *, sizes: Sequence[builtins.tuple[builtins.int, builtins.int]]"
            ", kind: tensorrt.A.K=...) -> builtins.dict[builtins.str, tensorrt.A]:",
        ),
        (
            "f(in: m::list<m::A>, like: m.Unknown = None, shape: m.A.Dims) -> None",
            "def f(in_: Any, like: Any, shape: Any) -> None:",
        ),
    ],
)
def test_signatures_are_understood(line: str, expected: str) -> None:
    assert ast.unparse(parsed(line, {"A", "A.K"})).startswith(expected)


@pytest.mark.slow
def test_stubs_have_every_member() -> None:
    script = """
import ast, inspect
from tests.contract.stubs import stub
(module,) = (c for c in ast.parse(stub(trt)).body if getattr(c, "name", "") == "Module")
names = {getattr(n, "name", None) or n.target.id for n in module.body}
answer = [n for n, value in vars(trt).items() if n[0] != "_" and not inspect.ismodule(value)]
answer = [*{*answer} - names]
"""
    assert [ask(version, script) for version in VERSIONS] == [[]] * len(VERSIONS)
