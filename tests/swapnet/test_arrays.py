"""Named arrays in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swapnet.arrays import Array, load_npz, save_npz
from swapnet.errors import InputError


def test_any_name_comes_back(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "file": np.arange(3),
        "a/b:0": np.ones((2, 2), np.float16),
        "": np.array(1.5),
    }
    save_npz(tmp_path / "x.npz", arrays)
    found = load_npz(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="can't be read"):
        load_npz(tmp_path / "x.npz")
