"""The engine directory on its way to disk: a temporary sibling, renamed when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swapnet.errors import StorageError
from swapnet.manifest import MANIFEST

__all__ = ["staging_directory"]


@contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """A folder that becomes ``target`` when the block ends, and vanishes when it fails.

    Until the rename an engine that was at ``target`` stays as it was.

    Raises
    ------
    StorageError
        ``target`` is something else than an engine directory, or the disk refuses.
    """
    if (
        target.exists()
        and not (target / MANIFEST).exists()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise StorageError(
            f"{target} is in the way",
            why=f"it exists, is not empty and has no {MANIFEST}",
            hint="choose another folder with -o, or remove this one",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _refused(target, error) from error
    try:
        staging.chmod(0o755)
        yield staging
        _replace(staging, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, retired / target.name)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(retired / target.name, target)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _refused(target: Path, error: OSError) -> StorageError:
    free = shutil.disk_usage(_existing(target)).free
    return StorageError(
        f"{target} can't be written",
        why=f"{error.strerror or error}; {free} bytes are free there",
        hint="free some space or choose another folder with -o",
    )


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
