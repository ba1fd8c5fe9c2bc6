"""Every attribute, argument and enumeration of TensorRT that the code uses is in the bindings."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import pytest

from swapnet.tensorrt import TENSORRT
from tests.contract.names import DYNAMIC, NAMES, ONLY
from tests.contract.surface import Surface
from tests.contract.uses import ROOT, Collected, Use, collect, package_files, position
from tests.contract.violations import declared_backend, unknown_anywhere, violations
from tests.helpers.bindings import RTX, VERSIONS, backend_of

pytestmark = pytest.mark.slow

Surfaces = Mapping[str, Surface]
Complain = Callable[[str], list[str]]

_HEAD = """
def use(trt: Any, builder: Any, config: Any, engine: Any, error: Any, backend: str, name: str):
    """


@pytest.fixture
def complain(surfaces: Surfaces) -> Complain:
    """Says what is wrong with a function body."""

    def complaints(body: str) -> list[str]:
        tree = ast.parse(_HEAD + "\n    ".join(body.splitlines()))
        found = collect(tree, "toy.py", [*surfaces.values()])
        wrong = [w for surface in surfaces.values() for w in violations(found.uses, surface)]
        return found.problems + wrong + unknown_anywhere(found.uses, [*surfaces.values()])

    return complaints


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_are_those_that_were_asked_for(surfaces: Surfaces, version: str) -> None:
    exact = surfaces[version].exact_version
    assert exact == version if version != RTX else tuple(map(int, exact.split(".")[:2])) >= (1, 7)


def test_all_that_is_tensorrts_has_a_class(collected: Collected) -> None:
    assert not collected.problems


def test_names_are_needed(collected: Collected) -> None:
    assert collected.names == NAMES.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_code_fits(surfaces: Surfaces, collected: Collected, version: str) -> None:
    assert not violations(collected.uses, surfaces[version])


def test_what_is_asked_for_can_be_there(surfaces: Surfaces, collected: Collected) -> None:
    assert not unknown_anywhere(collected.uses, [*surfaces.values()])


def test_computed_members_are_used(collected: Collected) -> None:
    assert {use.owner for use in collected.uses if use.kind == "dynamic"} == DYNAMIC.keys()


@pytest.mark.parametrize(
    ("backend", "title"), [(backend, title) for backend in TENSORRT for title in ONLY[backend]]
)
def test_only_one_library_has_what_is_declared_so(
    surfaces: Surfaces, collected: Collected, backend: str, title: str
) -> None:
    owner, _, name = title.rpartition(".")
    having = {v for v, surface in surfaces.items() if surface.find(owner, name) is not None}
    assert having == {version for version in VERSIONS if backend_of(version) == backend}
    assert any(title in (use.title, use.owner) for use in collected.uses)


def test_nothing_loads_the_libraries_by_itself() -> None:
    loading = [
        f"{path}:{node.lineno}"
        for path in package_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "tensorrt" in _roots(node)
    ]
    assert not loading


def test_a_misspelled_attribute_is_noticed(surfaces: Surfaces, collected: Collected) -> None:
    known = [u for u in collected.uses if u.kind in ("read", "write") and not u.guarded]
    assert len(known) > 20
    for use in known:
        assert _mutated(use, surfaces, _misspell), use


def test_a_misspelled_method_is_noticed(surfaces: Surfaces, collected: Collected) -> None:
    known = [u for u in collected.uses if u.kind == "call" and u.name != "__init__"]
    assert len(known) > 20
    for use in known:
        assert _mutated(use, surfaces, _misspell), use


def test_too_many_arguments_are_noticed(surfaces: Surfaces, collected: Collected) -> None:
    called = [use for use in collected.uses if use.kind == "call"]
    assert len(called) > 30
    for use in called:
        assert _mutated(use, surfaces, _add_arguments), use


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("trt.BulderFlag.REFIT", "there is no BulderFlag"),
        ("trt.BuilderFlag.FP16", "11.4.0.106: there is no BuilderFlag.FP16"),
        ("flags = trt.BuilderFlag\nflags.FP17", "there is no BuilderFlag.FP17"),
        ("config.set_timing_cache(None)", "does not take (…)"),
        ("config.set_timing_cache(None, ignore=True)", "does not take (…, ignore)"),
        ("config.set_flag(trt.MemoryPoolType.WORKSPACE)", "does not take (MemoryPoolType)"),
        (
            "builder.build_serialized_network(config, builder.create_network())",
            "does not take (IBuilderConfig, INetworkDefinition)",
        ),
        ("engine.create_execution_context(1, 2)", "does not take (…, …)"),
        ("trt.Builder()", "Builder.__init__ does not take ()"),
        ("trt.IGpuAllocator.__init__()", "IGpuAllocator.__init__ does not take ()"),
        ("config.num_optimization_profiles = 1", "can't be written"),
        ("builder.gpu_allocator", "can't be read"),
        ("engine.load_weights(b'')", "there is no ICudaEngine.load_weights"),
        ("if backend == 'tensorrt-rtx':\n    engine.device_memory_size", "ICudaEngine.device"),
        ("if backend == 'tensorrt-rtx':\n    return\nengine.load_weights(b'')", "11.4.0.106"),
        ("hasattr(config, 'max_aux_strems')", "max_aux_strems is in no version"),
        ("getattr(trt.DataType, name)", "computed members of DataType"),
        ("config.set_flag(*name)", "can't be counted"),
        ("for layer in builder.create_network():\n    layer.name", "give it a name"),
        ("def inner(runtime: Any): pass", "runtime may be TensorRT's"),
        ("class Flag(trt.IProgressMonitor):\n    def phase_end(self): pass", "phase_end"),
        ("engine = builder.create_network()", "INetworkDefinition by value"),
        ("self.network = builder.create_network()", ".network may be TensorRT's"),
    ],
)
def test_misuse_is_noticed(complain: Complain, body: str, complaint: str) -> None:
    assert any(complaint in said for said in complain(body))


@pytest.mark.parametrize(
    "body",
    [
        "config.set_timing_cache(config.create_timing_cache(b''), ignore_mismatch=False)",
        "if hasattr(engine, 'load_weights'):\n    engine.load_weights(b'')",
        "if backend == 'tensorrt-rtx':\n    engine.load_weights(b'')",
        "if backend != 'tensorrt-rtx':\n    return\nengine.load_weights(b'')",
        "getattr(trt.BuilderFlag, 'FP16', None)",
        "load_tensorrt('tensorrt-rtx').CudaGraphStrategy",
        "[error.desc() for _ in range(3)]",
        "engine.create_execution_context(trt.ExecutionContextAllocationStrategy.STATIC)",
    ],
)
def test_proper_use_is_not_complained_about(complain: Complain, body: str) -> None:
    assert complain(body) == []


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Packages that a statement imports; the two libraries as one."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    roots = {(name or "").partition(".")[0] for name in names}
    return {"tensorrt" if root.startswith("tensorrt") else root for root in roots}


def _mutated(use: Use, surfaces: Surfaces, change: Callable[[ast.AST], None]) -> list[str]:
    """What is wrong with the file of a use after a change to its expression."""
    tree = ast.parse((ROOT / use.file).read_text())
    kind = ast.Call if use.kind == "call" else ast.Attribute
    (node,) = (n for n in ast.walk(tree) if isinstance(n, kind) and position(n) == use.position)
    change(node)
    uses = collect(tree, use.file, [*surfaces.values()]).uses
    only = declared_backend(use)
    concerned = [s for s in surfaces.values() if s.backend in use.backends & {only or s.backend}]
    return [
        wrong
        for surface in concerned
        for wrong in violations(uses, surface)
        if wrong.startswith(use.place)
    ]


def _misspell(node: ast.AST) -> None:
    attribute = node.func if isinstance(node, ast.Call) else node
    assert isinstance(attribute, ast.Attribute)
    attribute.attr += "_"


def _add_arguments(node: ast.AST) -> None:
    assert isinstance(node, ast.Call)
    node.args += [ast.copy_location(ast.Constant(None), node)] * 9
