"""Named arrays in files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError

__all__ = ["Array", "load_npz", "save_npz"]

Array = npt.NDArray[np.generic]


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz``; unlike `numpy.savez` with any name, ``file`` included."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: Path) -> dict[str, Array]:
    """All arrays of an ``.npz``.

    Raises
    ------
    InputError
        The file can't be read, or is no ``.npz``.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} can't be read",
            why=str(error),
            hint="give an .npz with one array per input, as numpy.savez writes it",
        ) from error
