"""Named arrays in files."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.errors import InputError
from swapnet.files import replacing
from swapnet.tensors import Array

__all__ = ["Array", "load_npy", "load_npz", "save_npz"]

_DAMAGES = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
"""Errors of reading a file that is damaged, encrypted or of another kind."""


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz`` at once; unlike `numpy.savez` with any name, ``file`` included.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: Path) -> dict[str, Array]:
    """All arrays of an ``.npz``.

    Raises
    ------
    InputError
        The file can't be read, is not an ``.npz``, or holds two arrays of one name.
    """
    archive = _load(path, "give an .npz with one array per input, as numpy.savez writes it")
    if isinstance(archive, np.ndarray):
        raise InputError(
            f"{path} is one array without a name",
            why="inputs are given by name",
            hint="write it NAME=FILE.npy, or give an .npz",
        )
    with archive:
        twice = next((name for name, count in Counter(archive.files).items() if count > 1), None)
        if twice is not None:
            raise InputError(
                f"{path} holds {twice!r} twice",
                why="inputs are given by name",
                hint="give an .npz with one array per input",
            )
        return {name: archive[name] for name in archive.files}


def load_npy(path: Path) -> Array:
    """The array of an ``.npy``.

    Raises
    ------
    InputError
        The file can't be read, or is not an ``.npy``.
    """
    hint = "give a .npy file, as numpy.save writes it"
    array: Any = _load(path, hint)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path} holds several arrays", why="it is an .npz", hint=hint)
    return array


def _load(path: Path, hint: str) -> Any:
    loaded: Any = None
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            for name in loaded.files:
                _ = loaded[name]
        return loaded
    except _DAMAGES as error:
        if loaded is not None:
            loaded.close()
        raise InputError(f"{path} can't be read", why=str(error), hint=hint) from error
