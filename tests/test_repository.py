"""The repository keeps its word: links, layout, versions, and what its pages say of the code."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

import swapnet
import swapnet.testing
from swapnet.cli import cli
from swapnet.cli.console import log_lines
from tests.helpers.zoo import Net

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api.md"
RUNNABLE = (API, ROOT / "docs" / "getting-started.md")
"""Pages with Python that runs in their order, in one folder."""

PAGES = [
    *(ROOT / "README.md", ROOT / "examples" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("swapnet", "builder", "executor", "calibration", "models")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_SPAN = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(
    r"(?<![\w./-])swapnet ([a-z][a-z-]*(?![\w./:-])(?: (?:\| )?[a-z][a-z-]*(?![\w./:-]))*)"
)
"""Words after the command's name, and ``|`` where several stand in a row."""

_LINE = re.compile(r"(?:\S*python -m )?swapnet (?!.*[|…])(.*)")
"""A whole command line, of one command."""

_SIGNATURE = re.compile(r"^swapnet\.([\w.]+)(\(.*?\))(?= ->|\n(?! )|\n?\Z)", re.M | re.S)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of one language; the empty name stands for command lines and signatures."""
    return [code for name, code in _FENCE.findall(page.read_text()) if name == language]


def code_of(page: Path) -> list[str]:
    """Lines of unnamed code blocks, and code inside of sentences."""
    spans = [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", page.read_text()))]
    return [*(line for block in blocks(page, "") for line in block.splitlines()), *spans]


def command_paths(words: str) -> Iterator[list[str]]:
    """Commands of one line: ``scenario run | list`` names two commands of ``scenario``."""
    first, *others = (part.split() for part in words.split("|"))
    yield first
    yield from ([*first[:-1], *other] for other in others)


def command_of(path: list[str]) -> click.Command | None:
    """The command that a path of names leads to; names after a command are arguments."""
    found: click.Command = cli
    for name in path:
        if not isinstance(found, click.Group):
            break
        context = click.Context(found)
        inside = found.get_command(context, name) if name in found.list_commands(context) else None
        if inside is None:
            return None
        found = inside
    return found


def object_of(dotted: str) -> Any:
    """A module or what it holds, by its dotted name.

    Raises
    ------
    ImportError, AttributeError
        There is no such thing.
    """
    parts = dotted.split(".")
    found = import_module(parts[0])
    for depth, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            import_module(".".join(parts[:depth]))
        found = getattr(found, part)
    return found


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@each_page
def test_files_and_folders_that_pages_name_exist(page: Path) -> None:
    named = {
        path
        for code in code_of(page)
        for path in re.findall(r"(?<![\w./-])[a-z_]+/[\w./-]*", code)
        if path.endswith(".py") or path.split("/")[0] in (*FOLDERS, "tests", "docs")
    }
    assert not [path for path in named if not (ROOT / path).exists()]


@each_page
def test_modules_that_pages_name_exist(page: Path) -> None:
    named = {
        dotted
        for code in (*code_of(page), *blocks(page, "python"))
        for dotted in re.findall(r"(?<![\w./-])(?:swapnet|tests)(?:\.[A-Za-z_]\w*)+", code)
    }
    for dotted in named:
        object_of(dotted)


@each_page
def test_commands_and_options_that_pages_name_exist(page: Path) -> None:
    wrong: list[object] = []
    for code in code_of(page):
        line = re.split(r"  | #", code)[0]
        for match in _COMMAND.finditer(line):
            commands = {tuple(path): command_of(path) for path in command_paths(match[1])}
            wrong += [path for path, command in commands.items() if command is None]
            known = {
                name
                for command in filter(None, commands.values())
                for option in command.params
                for name in (*option.opts, *option.secondary_opts, "--help")
            }
            given = re.findall(r"(?<=\s)--?[A-Za-z][\w-]*", line[match.end() :])
            wrong += [(match[1], name) for name in given if name not in known]
    assert not wrong


@each_page
def test_command_lines_that_pages_show_are_taken(page: Path) -> None:
    for line in "\n".join(blocks(page, "")).splitlines():
        if shown := _LINE.fullmatch(re.split(r"  | #", line)[0]):
            command: click.Command | None = cli
            words = shlex.split(shown[1])
            while isinstance(command, click.Group) and words:
                command = command.get_command(click.Context(command), words.pop(0))
            assert command is not None, line
            with log_lines():  # which forgets the level that -v asks for
                command.make_context("swapnet", words)


@each_page
def test_python_that_pages_show_compiles(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@each_page
def test_schemas_that_pages_name_are_those_of_the_code(page: Path) -> None:
    named = set(re.findall(r"swapnet-[a-z-]+/\d+", page.read_text()))
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    known = set(re.findall(r"swapnet-[a-z-]+/\d+", "".join(path.read_text() for path in files)))
    assert named <= known


@each_page
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for code in code_of(page) for name in re.findall(r"\bmake ([a-z0-9-]+)", code)}
    assert named <= targets


def test_the_page_of_the_python_interface_names_every_public_name() -> None:
    words = {word for code in code_of(API) for word in re.findall(r"\w+", code)}
    assert not set(swapnet.__all__) - words
    assert not set(swapnet.testing.__all__) - words


def test_signatures_on_the_page_of_the_python_interface_are_those_of_the_code() -> None:
    found = [pair for block in blocks(API, "") for pair in _SIGNATURE.findall(block)]
    assert {name for name, _ in found} >= {"build", "measure", "quantize", "SwapExecutor"}
    for name, written in found:
        function = ast.parse(f"def f{written}: ...").body[0]
        assert isinstance(function, ast.FunctionDef)
        arguments = function.args
        several, others = filter(None, [arguments.vararg]), filter(None, [arguments.kwarg])
        every = (*arguments.posonlyargs, *arguments.args, *several, *arguments.kwonlyargs, *others)
        names = [argument.arg for argument in every]
        parameters = [
            parameter
            for parameter in inspect.signature(object_of(f"swapnet.{name}")).parameters.values()
            if parameter.name != "self"
        ]
        assert names == [parameter.name for parameter in parameters], name
        defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
        known = [p.default for p in parameters if p.default is not inspect.Parameter.empty]
        for parameter, default in zip(known, map(ast.literal_eval, defaults), strict=True):
            assert default is ... or default == parameter, name


@pytest.mark.slow
def test_python_on_the_pages_that_promise_it_runs(tmp_path: Path) -> None:
    net = Net()
    value = net.input("image", [1, 3, 64, 64])
    channels = 3
    for _ in range(6):
        value = net("Conv", value, net.weight(128, channels, 3, 3), pads=[1] * 4)
        value, channels = net("Relu", value), 128
    net.output(net("GlobalAveragePool", value))
    onnx.save_model(net.model(), tmp_path / "model.onnx")
    script = tmp_path / "examples.py"
    script.write_text("\n".join(code for page in RUNNABLE for code in blocks(page, "python")))
    ended = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_what_is_installed_does_not_import_tests() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    importing = re.compile(r"^\s*(from|import) tests\b|\"tests\.", re.M)
    assert files
    assert not [path for path in files if importing.search(path.read_text())]


def test_the_version_is_one() -> None:
    assert f'version = "{swapnet.__version__}"' in (ROOT / "pyproject.toml").read_text()
