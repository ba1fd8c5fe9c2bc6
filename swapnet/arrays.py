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
    loaded = _load(path, "give an .npz with one array per input, as numpy.savez writes it")
    if isinstance(loaded, np.ndarray):
        raise InputError(
            f"{path} is one array without a name",
            why="inputs are given by name",
            hint="write it NAME=FILE.npy, or give an .npz",
        )
    names = Counter(name for name, _ in loaded)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InputError(
            f"{path} holds {twice!r} twice",
            why="inputs are given by name",
            hint="give an .npz with one array per input",
        )
    return dict(loaded)


def load_npy(path: Path) -> Array:
    """The array of an ``.npy``.

    Raises
    ------
    InputError
        The file can't be read, or is not an ``.npy``.
    """
    hint = "give a .npy file, as numpy.save writes it"
    array = _load(path, hint)
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays", why="it is an .npz", hint=hint)
    return array


def _load(path: Path, hint: str) -> Array | list[tuple[str, Array]]:
    try:
        with path.open("rb") as file:  # numpy.load leaves it open where it is damaged
            loaded: Any = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return [(name, loaded[name]) for name in loaded.files]
    except _DAMAGES as error:
        why = str(error)
        if "pickle" in why:  # NumPy says so of each file that is of another kind
            why = "it is not a file of NumPy, or holds Python objects"
        raise InputError(f"{path} can't be read", why=why, hint=hint) from error
