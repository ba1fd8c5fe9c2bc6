"""mypy over the code that uses the libraries, with the stubs of one version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.helpers.bindings import ask

__all__ = ["ROOT", "Checker", "Complaint", "package_files", "sources"]

ROOT = Path(__file__).resolve().parents[2]

_PACKAGES = ("swapnet", "builder", "executor", "calibration", "models")

_PATIENCE_S = 300

_CONFIGURATION = """
[mypy]
strict = True
explicit_package_bases = True
follow_imports = silent
ignore_missing_imports = True
warn_unused_ignores = False
[mypy-tensorrt]
follow_imports = normal
ignore_errors = True
"""
"""Comments that ignore what is said where nothing is known of the libraries are not needed here."""

_COMPLAINT = re.compile(r"(.+?):(\d+): error: (.+)")

_BASE = re.compile(r'Name "trt\.\w+" is not defined')
"""mypy takes no class as a base that it finds in a parameter: callbacks are called instead."""

_DESCRIBE = "from tests.contract.stubs import stub\nanswer = [trt.__version__, stub(trt)]"


class Complaint(NamedTuple):
    """Of mypy: file, line and text."""

    file: str
    line: int
    text: str


class Checker:
    """For one version.

    Parameters
    ----------
    version
        One of `VERSIONS`.
    folder
        Where stubs and what mypy remembers go.

    Attributes
    ----------
    exact_version, stubs
        As the bindings say.
    """

    def __init__(self, version: str, folder: Path) -> None:
        self._folder = folder
        self._written_times = 0
        self.exact_version, self.stubs = ask(version, _DESCRIBE)
        package = folder / "stubs" / "tensorrt"
        package.mkdir(parents=True)
        (package / "__init__.pyi").write_text(self.stubs)
        (folder / "mypy.ini").write_text(_CONFIGURATION)

    def complaints(self, changed: Mapping[Path, str] | None = None) -> set[Complaint]:
        """About the code.

        Parameters
        ----------
        changed
            Text that takes the place of files.
        """
        shadows: list[str] = []
        for number, (path, text) in enumerate((changed or {}).items()):
            shadow = self._written(f"shadow_{number}.py", text)
            shadows += ["--shadow-file", str(path), str(shadow)]
        return self._run(*shadows, *map(str, sources()))

    def complaints_about(self, text: str) -> set[Complaint]:
        """About a file that is none of the code."""
        return self._run(str(self._written("toy.py", text)))

    def _written(self, name: str, text: str) -> Path:
        """A file of a size of its own: mypy knows changes within a second by that alone."""
        self._written_times += 1
        path = self._folder / name
        path.write_text(text + "\n" + "#" * self._written_times)
        return path

    def _run(self, *arguments: str) -> set[Complaint]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mypy", *arguments),
                *("--config-file", str(self._folder / "mypy.ini")),
                *("--cache-dir", str(self._folder / "cache")),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(self._folder / "stubs")},
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found = (_COMPLAINT.fullmatch(line) for line in done.stdout.splitlines())
        return {
            Complaint(match[1], int(match[2]), match[3])
            for match in found
            if match and not _BASE.match(match[3])
        }


def package_files() -> list[Path]:
    """All of the code."""
    files = [path for package in _PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if path.resolve() == path]


def sources() -> list[Path]:
    """Files that have to do with the libraries, as part of the package."""
    found = (path.relative_to(ROOT) for path in package_files() if _loads(path.read_text()))
    return [path if path.parts[0] == "swapnet" else "swapnet" / path for path in found]


def _loads(text: str) -> bool:
    return "import tensorrt\n" in text or "load_tensorrt" in text
