"""mypy finds no use of TensorRT in the code that the bindings of a version do not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.contract.checking import Checker, Complaint, package_files, sources
from tests.contract.mutants import added_arguments, asked, misspelled, unnoticed
from tests.helpers.bindings import RTX, VERSIONS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("contract")]

Checkers = Mapping[str, Checker]

ONLY_RTX: Mapping[str, str] = {
    "Module.ComputeCapability": "job.targets is empty for tensorrt",
    "IBuilderConfig.num_compute_capabilities": "job.targets is empty for tensorrt",
    "IBuilderConfig.set_compute_capability": "job.targets is empty for tensorrt",
    "Module.EngineValidity": "after get_engine_validity, which is asked for",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "of the one that has it",
    "Runtime.defer_weights_loading": "set where TensorRTBackend._defers, which asks for it",
    "ICudaEngine.load_weights_async": "of an engine that stays although it embeds its weights",
    "ICudaEngine.unload_weights": "of an engine that stays although it embeds its weights",
    "ICudaEngine.weights_loaded": "of an engine that stays although it embeds its weights",
}
"""What only TensorRT-RTX has, and why the code uses it nevertheless."""

_MISSING = re.compile(r'"?(\w+)"? has no attribute "(\w+)"')

_MEMBER = re.compile(r"^ +(?:def |class )?(\w+)[:(]", re.MULTILINE)

_MISUSES = {
    "trt.BulderFlag.REFIT": 'no attribute "BulderFlag"',
    "trt.BuilderFlag.FP16": 'no attribute "FP16"',  # version 11 has none
    "flags = trt.BuilderFlag; flags.FP17": 'no attribute "FP17"',
    "config.set_timing_cache(None)": "Missing positional argument",
    "config.set_timing_cache(None, ignore=True)": 'Unexpected keyword argument "ignore"',
    "config.set_flag(trt.MemoryPoolType.WORKSPACE)": 'expected "BuilderFlag"',
    "builder.build_serialized_network(config, builder.create_network())": "No overload variant",
    "engine.create_execution_context(1, 2)": "No overload variant",
    "trt.Builder()": 'Missing positional argument "logger"',
    "trt.IGpuAllocator.__init__()": 'Missing positional argument "self"',
    "trt.ICudaEngine()": "Missing positional argument",
    "config.num_optimization_profiles = 1": "is read-only",
    "builder.gpu_allocator.allocate": "_WriteOnly",
    "engine.load_weights(b'')": 'no attribute "load_weights"',
    "engine.unload_weights()": 'no attribute "unload_weights"',  # TensorRT-RTX has it
    "[layer.nam for layer in builder.create_network()]": 'no attribute "nam"',
    "engine = builder.create_network()": "Incompatible types in assignment",
}
"""What must not be written in a function that is given parts of a library, and what is said."""

_TOY_HEAD = """\
from __future__ import annotations
from typing import TYPE_CHECKING, Any
if TYPE_CHECKING:
    import tensorrt
"""

_TOY = """
def use(
    trt: tensorrt.Module,
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    engine: tensorrt.ICudaEngine,
    error: tensorrt.ParserError,
    name: str,
) -> Any:
    """


@pytest.fixture(scope="module")
def complaints(checkers: Checkers) -> dict[str, set[Complaint]]:
    """About the code, by version."""
    return {version: checker.complaints() for version, checker in checkers.items()}


@pytest.fixture(scope="module")
def names(checkers: Checkers) -> set[str]:
    """Of all members that classes of any version have."""
    return {name for checker in checkers.values() for name in _MEMBER.findall(checker.stubs)}


@pytest.fixture(scope="module")
def misuses(checkers: Checkers) -> dict[str, list[str]]:
    """What is said of each, of any version."""
    functions = [_TOY.replace("use", f"use_{n}") + body for n, body in enumerate(_MISUSES)]
    lines = (_TOY_HEAD + "".join(functions)).splitlines()
    said: dict[str, list[str]] = {body: [] for body in _MISUSES}
    for checker in checkers.values():
        for complaint in checker.complaints_about("\n".join(lines)):
            said[lines[complaint.line - 1].strip()].append(complaint.text)
    return said


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_are_those_that_were_asked_for(checkers: Checkers, version: str) -> None:
    exact = checkers[version].exact_version
    assert exact == version if version != RTX else tuple(map(int, exact.split(".")[:2])) >= (1, 7)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_code_fits(complaints: dict[str, set[Complaint]], version: str) -> None:
    missing = {_missing(complaint): complaint for complaint in complaints[version]}
    assert [text for title, text in missing.items() if title not in ONLY_RTX] == []
    assert missing.keys() == (set() if version == RTX else ONLY_RTX.keys())


def test_what_is_asked_for_is_in_a_version(
    checkers: Checkers, complaints: dict[str, set[Complaint]]
) -> None:
    ours = [[m for m in together if "self._scratch" not in m.text] for together in asked(_users())]
    assert sum(map(len, ours)) > 5
    for together in ours:
        had = {m for v in VERSIONS for m in unnoticed(together, checkers[v], complaints[v])}
        assert {*together} == had


def test_nothing_loads_the_libraries_by_itself() -> None:
    loading = [
        f"{path}:{node.lineno}"
        for path in package_files()
        for node in _executed(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "tensorrt" in _roots(node)
    ]
    assert not loading


def test_a_misspelled_attribute_is_noticed(
    checkers: Checkers, complaints: dict[str, set[Complaint]], names: set[str]
) -> None:
    for together in misspelled(_users(), names):
        left = unnoticed(together, checkers[RTX], complaints[RTX])
        assert not (left and unnoticed(left, checkers[VERSIONS[0]], complaints[VERSIONS[0]]))


def test_too_many_arguments_are_noticed(
    checkers: Checkers, complaints: dict[str, set[Complaint]], names: set[str]
) -> None:
    for together in added_arguments(_users(), names):
        left = unnoticed(together, checkers[RTX], complaints[RTX])
        assert not (left and unnoticed(left, checkers[VERSIONS[0]], complaints[VERSIONS[0]]))


@pytest.mark.parametrize("body", _MISUSES)
def test_misuse_is_noticed(misuses: dict[str, list[str]], body: str) -> None:
    assert any(_MISUSES[body] in said for said in misuses[body])


@pytest.mark.parametrize("version", VERSIONS)
def test_proper_use_is_not_complained_about(checkers: Checkers, version: str) -> None:
    body = """
    config.set_timing_cache(config.create_timing_cache(b''), ignore_mismatch=False)
    if hasattr(engine, 'unload_weights'):
        engine.unload_weights()
    getattr(trt.BuilderFlag, 'FP16', None)
    [error.desc() for _ in range(3)]
    engine.create_execution_context(trt.ExecutionContextAllocationStrategy.STATIC)
    shape = tuple(engine.get_tensor_shape(name))
    builder.create_optimization_profile().set_shape(name, shape, [2], shape)
    return bytes(builder.build_serialized_network(builder.create_network(), config))
    """
    assert checkers[version].complaints_about(_TOY_HEAD + _TOY + body) == set()


def _users() -> list[Path]:
    """Files that use what they load."""
    return [path for path in sources() if "cli" not in path.parts]


def _missing(complaint: Complaint) -> str:
    """The member that is missing, as in ``Builder.create_network``; empty for other complaints."""
    match = _MISSING.match(complaint.text)
    return f"{match[1]}.{match[2]}" if match else ""


def _executed(node: ast.AST) -> list[ast.AST]:
    """A node and those inside, but for what only mypy reads."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return []
    inner = [found for child in ast.iter_child_nodes(node) for found in _executed(child)]
    return [node, *inner]


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Packages that a statement imports; the two libraries as one."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    roots = {(name or "").partition(".")[0] for name in names}
    return {"tensorrt" if root.startswith("tensorrt") else root for root in roots}
