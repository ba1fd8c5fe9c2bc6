"""The bindings call our callbacks, from C++, with the arguments that these expect."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.contract.checking import ROOT, sources
from tests.contract.probes import PROBES
from tests.helpers.bindings import RTX, VERSIONS, ask

pytestmark = pytest.mark.slow

_TAKEN = [["allocate", 4096, 256], ["deallocate", 0x7000]]

_EXPECTED: dict[str, dict[str, Any]] = {
    "IGpuAllocator": {
        "calls": [*_TAKEN, *_TAKEN, ["allocate", 8192, 512]],
        "got": [0x7000, True, 0x7000, True],
        "refused": 0,
        "grown": 0,
    },
    "IStreamReaderV2": {
        "read": [[True, 8, [*range(first, first + 8)]] for first in (10, 20, 92)],
        "before": False,
    },
    "IProgressMonitor": {
        "told": [[2, 3], [3, 3]],
        "go_on": [True, True, False],
        "raised": "KeyboardInterrupt",
    },
    "ILogger": {
        "lines": [
            [kind, f"said as {kind}"] for kind in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")
        ]
    },
}

_SWAPPED = [
    ("IGpuAllocator", "executor/backends/tensorrt.py", "_allocator", "allocate"),
    ("IStreamReaderV2", "executor/backends/tensorrt.py", "_plan_reader", "read"),
    ("IStreamReaderV2", "executor/backends/tensorrt.py", "_plan_reader", "seek"),
    (
        "IProgressMonitor",
        "builder/compilers/tensorrt/engine.py",
        "make_monitor",
        "phase_start",
    ),
    (
        "IProgressMonitor",
        "builder/compilers/tensorrt/engine.py",
        "make_monitor",
        "step_complete",
    ),
    ("ILogger", "swapnet/tensorrt.py", "logger", "log"),
]


@pytest.mark.parametrize("base", PROBES)
@pytest.mark.parametrize("version", VERSIONS)
def test_callbacks_are_told_what_they_expect(version: str, base: str) -> None:
    assert _answers(version)["callbacks"][base] == _expected(version, base)


def test_every_callback_is_probed() -> None:
    bases = {
        base.attr
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Attribute) and ast.unparse(base.value) == "trt"
    }
    assert bases == PROBES.keys()


@pytest.mark.parametrize(("base", "file", "function", "method"), _SWAPPED)
def test_swapped_arguments_are_noticed(base: str, file: str, function: str, method: str) -> None:
    version = VERSIONS[-2]
    sources = _as_it_is_and_swapped((ROOT / file).read_text(), function, method)
    as_it_is, swapped = _ask(version, f"[attempt(trt, {base!r}, s) for s in {sources!r}]")
    assert as_it_is == _expected(version, base)
    assert swapped != _expected(version, base)


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != RTX])
def test_a_library_that_makes_no_builder_is_an_error_of_ours(version: str) -> None:
    assert _answers(version)["builder"] == "BackendUnavailableError"


@pytest.mark.parametrize("version", VERSIONS)
def test_hardware_compatibilities_are_known(version: str) -> None:
    assert _answers(version)["levels"] == {
        "none": "NONE",
        "ampere+": "AMPERE_PLUS",
        "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    }


@cache
def _answers(version: str) -> Any:
    """Of all probes."""
    return _ask(version, "everything(trt)")


def _ask(version: str, expression: str) -> Any:
    return ask(version, f"from tests.contract.probes import *\nanswer = {expression}")


def _expected(version: str, base: str) -> dict[str, Any]:
    """RTX binds fewer ways to ask for memory."""
    expected = _EXPECTED[base]
    if version == RTX and base == "IGpuAllocator":
        expected = {**expected, "calls": expected["calls"][2:], "got": expected["got"][2:]}
    return expected


def _as_it_is_and_swapped(source: str, function: str, method: str) -> tuple[str, str]:
    """A function, and one in which the first two arguments of a method have changed places."""
    (outer,) = (node for node in _functions(ast.parse(source)) if node.name == function)
    (inner,) = (node for node in _functions(outer) if node.name == method)
    as_it_is, arguments = ast.unparse(outer), inner.args.args
    arguments[1], arguments[2] = arguments[2], arguments[1]
    return as_it_is, ast.unparse(outer)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
