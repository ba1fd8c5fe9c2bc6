"""The pages as a site: every page is reached, and nothing is asked of another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swapnet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. With --quiet, broken links and pages outside of the navigation would pass."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page_and_asks_no_other_host(site: Path) -> None:
    pages = {page.relative_to(site).as_posix(): page.read_text() for page in site.rglob("*.html")}
    sources = [
        *(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").glob("*.md")),
        *(path.relative_to(ROOT) for path in (ROOT / "examples").glob("*.py")),
    ]
    assert not {path.with_suffix(".html").as_posix() for path in sources} - pages.keys()
    for name, html in pages.items():
        assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//[^>]*", html), (
            name
        )
        assert not re.findall(r"<link[^>]*\shref=\"?(?:https?:)?//[^>]*", html), name
    public = {name for name in swapnet.__all__ if not name.startswith("_")}
    assert not {name for name in public if f'id="swapnet.{name}"' not in pages["reference.html"]}
    assert "swapnet scenario run" in re.sub(r"<[^>]*>", "", pages["commands.html"])
