"""Imports go one way, from the command line down to the kernel, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("builder", "executor", "calibration", "models")

BELOW = {
    "kernel": set[str](),
    "models": {"kernel", "builder"},
    "executor": {"kernel"},
    "builder": {"kernel", "executor"},
    "calibration": {"kernel", "executor", "builder"},
    "above": {"kernel", "models", "executor", "builder", "calibration"},
}
"""What each part of the house may import beside itself."""

FLOORS = (
    ("device", "pace"),
    ("planning",),
    ("swapping",),
    ("gpu",),
    ("backends",),
    ("state",),
    ("conversations",),
    ("engine", "inputs", "sharing"),
    ("samples", "repacking"),
    ("execution", "probing.activations"),
    ("events", "stats"),
    ("shapes",),
    ("executor",),
    ("probing", "runtime", "generation"),
    ("metrics", "report"),
    ("bench",),
    ("scenario",),
)
"""Inside of executor, from the ground up."""

STAGES = (
    ("importing",),
    ("rewriting",),
    ("precision", "cutting"),
    ("compilers",),
    ("writing", "options"),
    ("stages", "needs"),
    ("child",),
    ("build",),
    ("one_operator", "block_model"),
    ("repack",),
)
"""Inside of builder, in the order of a build."""


@cache
def modules() -> dict[str, Path]:
    """Files of the product by the name that they are imported by."""
    found = {}
    for folder in ("swapnet", *FOLDERS):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if folder == "swapnet" else ("swapnet", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str) -> Iterator[str]:
    """Modules of the product that a module imports, at any place in it."""
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules() else node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    """What each module imports of the product."""
    known = modules()
    return {name: frozenset(m for m in imports(name) if m in known) - {name} for name in known}


def room(name: str) -> str:
    """The part of the house that a module stands in."""
    parts = name.split(".")
    if parts[1:] and parts[1] in FOLDERS:
        return parts[1]
    return "above" if name == "swapnet" or parts[1] in ("cli", "testing", "__main__") else "kernel"


def level(name: str, folder: str, order: tuple[tuple[str, ...], ...]) -> int:
    """How high a module stands inside a folder; the folder's own names stand above all."""
    parts = name.split(".")
    if len(parts) < 3:
        return len(order)
    alone = ".".join(parts[2:])
    place = alone if any(alone in names for names in order) else parts[2]
    heights = [height for height, names in enumerate(order) if place in names]
    assert heights, f"{folder}/{parts[2]} stands on no floor: add it to the order in this test"
    return heights[0]


def test_folders_import_what_stands_below() -> None:
    wrong = [
        f"{name} -> {other}"
        for name, used in graph().items()
        for other in used
        if room(other) not in BELOW[room(name)] | {room(name)}
    ]
    assert not wrong


@pytest.mark.parametrize(("folder", "order"), [("executor", FLOORS), ("builder", STAGES)])
def test_floors_import_what_lies_below(folder: str, order: tuple[tuple[str, ...], ...]) -> None:
    inside = {name: used for name, used in graph().items() if room(name) == folder}
    wrong = [
        f"{name} -> {other}"
        for name, used in inside.items()
        for other in used
        if other in inside and level(other, folder, order) > level(name, folder, order)
    ]
    assert not wrong


def test_no_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def users(names: set[str], *, among: Callable[[ast.AST], Iterator[str]]) -> set[str]:
    """Modules of the product in which one of these names occurs."""
    return {
        name
        for name, path in modules().items()
        if names
        & {found for node in ast.walk(ast.parse(path.read_text())) for found in among(node)}
    }


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.module or "").partition(".")[0], *(alias.name for alias in node.names))


def kernel_files(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (root for root in ("/proc", "/sys") if node.value.startswith(root))


def test_only_process_starts_processes() -> None:
    """`models.fetch` calls pip, which is not a process of ours."""
    starting = users({"subprocess", "multiprocessing"}, among=imported)
    others = {name for name in starting if not name.startswith("swapnet.process.")}
    assert others == {"swapnet.models.fetch"}


def test_only_machine_reads_files_of_the_kernel() -> None:
    assert users({"/proc", "/sys"}, among=kernel_files) == {"swapnet.machine"}


def test_only_the_engine_and_the_builder_load_manifests_and_delays() -> None:
    loading = users({"load_manifest", "load_profile", "at_shapes"}, among=imported)
    others = {name for name in loading if not name.startswith("swapnet.builder.")}
    assert others == {"swapnet.executor.engine"}
