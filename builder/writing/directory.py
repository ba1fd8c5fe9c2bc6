"""The engine directory on its way to disk: a temporary sibling, renamed when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from swapnet.errors import StorageError
from swapnet.files import abandoned, claimed, working_folder
from swapnet.manifest import CURVE, MANIFEST, TOKENIZER, WEIGHTS
from swapnet.profile import PROFILE
from swapnet.ranges import RANGES
from swapnet.shapes import SAMPLES, SHAPES

__all__ = ["build_folders", "filling", "staging_directory", "target_of"]

_ENGINE = {MANIFEST, WEIGHTS, "blocks", PROFILE, RANGES, SHAPES, SAMPLES, CURVE, TOKENIZER}
"""All that an engine directory holds, hidden files aside."""

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_REFUSALS = {*_FULL, errno.EROFS, errno.EACCES, errno.EPERM}
"""Answers of a disk that can't be written."""


@contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """A folder that becomes ``target`` when the block ends, and vanishes when it fails.

    Until the rename an engine that was at ``target`` stays as it was. Leftovers of killed builds to
    the same place are removed.

    Raises
    ------
    StorageError
        ``target`` is something else than an engine directory, the disk refuses, or the block ends
        with an OSError of another kind.
    """
    with ExitStack() as opened:
        try:
            _put_back(target)
            _check_free(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = opened.enter_context(working_folder(f".{target.name}.", target.parent))
        except OSError as error:
            raise _refused(target, error) from error
        try:
            staging.chmod(0o755)
            with filling(target):
                yield staging
            _replace(staging, target)
        except OSError as error:
            raise _refused(target, error) from error


@contextmanager
def build_folders(folder: Path) -> Iterator[tuple[Path, Path]]:
    """`staging_directory`, and a folder beside it for files on their way; raises the same.

    A link stays, and the folder that it leads to is replaced.
    """
    target = target_of(folder)
    with (
        staging_directory(target) as staging,
        working_folder(f".{target.name}.work.", target.parent) as work,
    ):
        yield staging, work


def target_of(folder: Path) -> Path:
    """The folder that is replaced by a build."""
    # A circle of links is refused by `staging_directory`.
    return Path(os.path.realpath(folder)) if os.path.islink(folder) else folder


@contextmanager
def filling(target: Path) -> Iterator[None]:
    """Errors of the system while files of an engine are written, as our own.

    Raises
    ------
    StorageError
        The block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        if _is_refusal(error, target.parent / f".{target.name}."):
            raise _refused(target, error) from error
        raise StorageError(
            f"building {target} failed",
            why=str(error),
            hint="build it again; if it fails again, report it with this message",
        ) from error


def _put_back(target: Path) -> None:
    """Put an engine back that was moved away when a build was killed."""
    for retired in abandoned(_retired(target), target.parent):
        if not os.path.lexists(target) and (retired / target.name).exists():
            os.rename(retired / target.name, target)
        shutil.rmtree(retired, ignore_errors=True)


def _retired(target: Path) -> str:
    return f".{target.name}.old."


def _check_free(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        why = "it is a file"
    elif not (held := list(target.iterdir())):
        return
    elif not (target / MANIFEST).is_file():
        why = f"it is not empty and has no {MANIFEST}"
    elif others := sorted(path.name for path in held if not _of_engine(path)):
        why = f"it holds {others[0]}, which is no part of an engine"
    else:
        return
    raise StorageError(
        f"{target} is in the way", why=why, hint="choose another folder with -o, or remove this one"
    )


def _of_engine(path: Path) -> bool:
    return path.name in _ENGINE or (path.name.startswith(".") and path.is_file())


def _replace(staging: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(staging, target)
        return
    with claimed(_retired(target), target.parent) as retired:
        try:
            os.rename(target, retired / target.name)
            os.rename(staging, target)
        except BaseException:
            if not os.path.lexists(target):
                os.rename(retired / target.name, target)
            shutil.rmtree(retired, ignore_errors=True)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _is_refusal(error: OSError, prefix: Path) -> bool:
    """Whether a disk refuses what is written: files that start with ``prefix``, or unnamed ones."""
    if error.errno not in _REFUSALS:
        return False
    return error.filename is None or str(error.filename).startswith(str(prefix))


def _refused(target: Path, error: OSError) -> StorageError:
    why, hint = error.strerror or str(error), "choose another folder with -o"
    if error.errno in _FULL:
        hint = f"free some space or {hint}"
        with suppress(OSError):  # the working folder may be gone
            why += f"; {shutil.disk_usage(_existing(target)).free} bytes are free there"
    elif error.filename is not None:
        why += f": {error.filename}"
    return StorageError(f"{target} can't be written", why=why, hint=hint)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
