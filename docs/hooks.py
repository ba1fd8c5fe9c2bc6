"""Pages of the site that are made from other files: examples, the changelog, commands, names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import swapnet
from swapnet.cli import cli

_ROOT = Path(__file__).parent.parent
_MOVED = {
    r"\]\(\.\./CHANGELOG\.md": "](changelog.md",
    r"\]\(\.\./examples/README\.md": "](examples/index.md",
    r"\]\(\.\./examples/(\w+)\.py": r"](examples/\1.md",
}
"""Links out of ``docs/``, and the pages that they lead to on the site."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for each example, and the changelog."""
    pages = {"changelog.md": (_ROOT / "CHANGELOG.md").read_text()}
    listed = (_ROOT / "examples" / "README.md").read_text()
    pages["examples/index.md"] = re.sub(r"\]\((\w+)\.py\)", r"](\1.md)", listed)
    for path in sorted((_ROOT / "examples").glob("*.py")):
        pages[f"examples/{path.stem}.md"] = example_page(path.read_text())
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their targets are on the site; add commands and public names."""
    del config, files
    for link, moved in _MOVED.items():
        markdown = re.sub(link, moved, markdown)
    if page.file.src_uri == "commands.md":
        markdown += "".join(commands(cli, "swapnet"))
    if page.file.src_uri == "reference.md":
        markdown += "".join(reference(swapnet.__all__))
    return markdown


def example_page(code: str) -> str:
    """An example as a page: the first words of its docstring are the heading."""
    (docstring, *_) = ast.parse(code).body
    text = ast.get_docstring(ast.parse(code)) or ""
    rest = "\n".join(code.splitlines()[docstring.end_lineno :]).strip()
    heading, _, _ = text.partition(":")
    return f"# {heading}\n\n{text}\n\n```python\n{rest}\n```\n"


def commands(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[str]:
    """The help of a command, and then of those inside it, each with a heading."""
    context = command.make_context(name, [], parent, resilient_parsing=True, terminal_width=94)
    path = context.command_path
    level = "#" * (path.count(" ") + 2)
    yield f"\n{level} {path}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inside in command.list_commands(context):
            found = command.get_command(context, inside)
            if found is not None and not found.hidden:
                yield from commands(found, inside, context)


def reference(names: list[str]) -> Iterator[str]:
    """Directives of mkdocstrings for public names: functions, classes, errors."""
    public = [name for name in names if not name.startswith("_")]
    errors = [name for name in public if name.endswith("Error")]
    groups = {
        "Functions": [name for name in public if name[0].islower()],
        "Classes": [name for name in public if name[0].isupper() and name not in errors],
        "Errors": errors,
    }
    for title, members in groups.items():
        yield f"\n## {title}\n"
        yield from (f"\n::: swapnet.{name}\n" for name in sorted(members, key=str.lower))
