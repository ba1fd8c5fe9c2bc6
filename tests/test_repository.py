"""The repository keeps its word: links, layout, versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import swapnet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named <= targets


def test_what_is_installed_does_not_import_tests() -> None:
    folders = ("swapnet", "builder", "executor", "calibration", "models")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    importing = re.compile(r"^\s*(from|import) tests\b|\"tests\.", re.M)
    assert files
    assert not [path for path in files if importing.search(path.read_text())]


def test_the_version_is_one() -> None:
    assert f'version = "{swapnet.__version__}"' in (ROOT / "pyproject.toml").read_text()
