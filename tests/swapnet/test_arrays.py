"""Named arrays in files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from swapnet.arrays import Array, load_npy, load_npz, save_npz
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


def _save(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, np.zeros(1000))


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    """In the entry of the only member, and in the directory of the archive."""
    written = bytearray(path.read_bytes())
    for start, shift in ((written.index(b"PK\x03\x04"), 0), (written.index(b"PK\x01\x02"), 2)):
        place = start + offset + shift
        written[place : place + len(content)] = content
    path.write_bytes(written)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no archive")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match="can't be read") as caught:
        load_npz(tmp_path / "x.npz")
    assert caught.value.why == "it is not a file of NumPy, or holds Python objects"
    with pytest.raises(InputError, match="is one array without a name"):
        load_npz(tmp_path / "x.npy")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("x.npy", "x"):
            with archive.open(name, "w") as member:
                np.lib.format.write_array(member, np.zeros(3))
    with pytest.raises(InputError, match="holds 'x' twice"):
        load_npz(tmp_path / "x.npz")


def test_one_array_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    save_npz(tmp_path / "x.npz", {"x": np.arange(3)})
    assert np.array_equal(load_npy(tmp_path / "x.npy"), np.arange(3))
    with pytest.raises(InputError, match="holds several arrays"):
        load_npy(tmp_path / "x.npz")


def test_damaged_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    _save(path, zipfile.ZIP_DEFLATED)
    written = bytearray(path.read_bytes())
    start = 30 + len("x.npy")
    written[start : start + 8] = b"\xff" * 8
    path.write_bytes(written)
    _is_refused_and_closed(path)


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        pytest.param(6, b"\x01\x00", id="encrypted"),
        pytest.param(8, b"\x63\x00", id="unknown compression"),
    ],
)
def test_what_python_can_not_unpack_is_refused(tmp_path: Path, offset: int, content: bytes) -> None:
    path = tmp_path / "x.npz"
    _save(path, zipfile.ZIP_STORED)
    _overwrite(path, offset, content)
    _is_refused_and_closed(path)


def _is_refused_and_closed(path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.npz can't be read") as caught:
        load_npz(path)
    assert "numpy.savez" in caught.value.hint
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if _target(fd) == str(path)]


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return ""
