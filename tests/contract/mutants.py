"""The code with mistakes in how it uses the libraries: mypy must notice each of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tests.contract.checking import Checker, Complaint

__all__ = ["Mutation", "added_arguments", "asked", "misspelled", "unnoticed"]

Found = tuple[int | None, int | None, int | None, str] | None
"""Line and columns of what to replace, and by which text."""

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Mutation(NamedTuple):
    """Text that takes the place of that between two columns of a line, in bytes."""

    file: Path
    line: int
    start: int
    end: int
    text: str

    @property
    def place(self) -> tuple[str, int]:
        """File and line."""
        return str(self.file), self.line


def misspelled(files: Sequence[Path], names: set[str]) -> list[list[Mutation]]:
    """Attributes of some names: those that are read or called, and those of others that are set.

    Bases of classes stay as they are.
    """

    def at(node: ast.AST) -> Found:
        match node:
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                return None
            case ast.Attribute() if node.attr in names:
                return node.end_lineno, node.end_col_offset, node.end_col_offset, "_"
        return None

    return _rounds(files, at)


def added_arguments(files: Sequence[Path], names: set[str]) -> list[list[Mutation]]:
    """Nine arguments too many for each function of some names."""

    def at(node: ast.AST) -> Found:
        match node:
            case ast.Call(func=ast.Attribute() as function) if function.attr in names:
                first = (function.end_col_offset or 0) + 1
                return function.end_lineno, first, first, "None, " * 9
        return None

    return _rounds(files, at)


def asked(files: Sequence[Path]) -> list[list[Mutation]]:
    """``callable(thing.name)`` in place of ``hasattr(thing, "name")``."""

    def at(node: ast.AST) -> Found:
        match node:
            case ast.Call(func=ast.Name(id="hasattr"), args=[thing, ast.Constant(value=str(name))]):
                asking = f"callable({ast.unparse(thing)}.{name})"
                return node.lineno, node.col_offset, node.end_col_offset, asking
        return None

    return _rounds(files, at)


def unnoticed(
    mutations: Sequence[Mutation], checker: Checker, before: set[Complaint]
) -> list[Mutation]:
    """Those about whose line nothing is said that was not said ``before``."""
    texts: dict[Path, str] = {}
    for mutation in mutations:
        texts[mutation.file] = _applied(texts.get(mutation.file), mutation)
    said = {(new.file, new.line) for new in checker.complaints(texts) - before}
    return [mutation for mutation in mutations if mutation.place not in said]


def _rounds(files: Sequence[Path], at: Callable[[ast.AST], Found]) -> list[list[Mutation]]:
    """At most one in each function at a time: after a mistake, mypy knows less in the same one."""
    lists = [
        [
            Mutation(file, line or 0, start or 0, end or 0, text)
            for node in nodes
            for line, start, end, text in filter(None, [at(node)])
        ]
        for file in files
        for nodes in _by_function(ast.parse(file.read_text())).values()
    ]
    return [[*filter(None, together)] for together in zip_longest(*lists)]


def _by_function(tree: ast.Module) -> Mapping[ast.AST, Sequence[ast.AST]]:
    """Nodes by the innermost function that they are in."""
    owners: dict[ast.AST, list[ast.AST]] = {tree: []}

    def visit(node: ast.AST, owner: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.ClassDef) and child in node.bases:
                continue
            inner = child if isinstance(child, _FUNCTION) else owner
            owners.setdefault(inner, []).append(child)
            visit(child, inner)

    visit(tree, tree)
    return owners


def _applied(text: str | None, mutation: Mutation) -> str:
    lines = (mutation.file.read_text() if text is None else text).splitlines(keepends=True)
    line = lines[mutation.line - 1].encode()
    before, after = line[: mutation.start], line[mutation.end :]
    lines[mutation.line - 1] = (before + mutation.text.encode() + after).decode()
    return "".join(lines)
