"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swapnet.errors import StorageError

__all__ = ["cache_folder", "check_writable", "make_folder", "replacing", "writing"]

_ELSEWHERE = "choose another place, or free some space"


def cache_folder() -> Path:
    """``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    chosen = os.environ.get("SWAPNET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "swapnet"


@contextmanager
def writing(target: Path | str, hint: str = _ELSEWHERE) -> Iterator[None]:
    """Refusals of the system as our own error.

    Parameters
    ----------
    target
        The file or folder that is written, as messages call it.
    hint
        Advice to the user.

    Raises
    ------
    StorageError
        The block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{target} can't be written", why=error.strerror or str(error), hint=hint
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    temporary: Path | None = None
    try:
        with writing(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            temporary.chmod(0o644)
            yield temporary
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it.

    Raises
    ------
    StorageError
        The system refuses.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(*targets: Path | str | None) -> None:
    """Refuse files that can't be written, before the work is done.

    Parameters
    ----------
    targets
        Files; None and ``-`` (standard output) need no check.

    Raises
    ------
    StorageError
        A file's folder is missing or refuses.
    """
    for path in (Path(target) for target in targets if target and target != "-"):
        if not os.access(path.parent, os.W_OK):
            raise StorageError(
                f"{path} can't be written",
                why="its folder can't be written to"
                if path.parent.exists()
                else "its folder is missing",
                hint="choose another place",
            )
