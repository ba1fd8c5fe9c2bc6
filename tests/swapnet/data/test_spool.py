"""Samples are checked, and kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swapnet.arrays import load_npz
from swapnet.builder.importing.graph import Value
from swapnet.data.spool import resized, spool
from swapnet.errors import InputError

INPUTS = [Value("x", "float32", ("rows", 4)), Value("ids", "int64", ("rows",))]


def sample(rows: int) -> dict[str, Any]:
    return {"x": np.full((rows, 4), rows, np.float32), "ids": np.arange(rows)}


def test_samples_are_written_one_by_one(tmp_path: Path) -> None:
    def generated() -> Iterator[dict[str, Any]]:
        for count, rows in enumerate((2, 5, 3)):
            assert len(list(tmp_path.iterdir())) == count
            yield sample(rows)

    spooled = spool(generated(), INPUTS, tmp_path)
    assert spooled.shapes == {"x": (5, 4), "ids": (5,)}
    assert [len(load_npz(path)["x"]) for path in spooled.paths] == [2, 5, 3]


def test_a_sum_holds_the_largest_of_its_parts(tmp_path: Path) -> None:
    inputs = [Value("ids", "int64", ("seq",)), Value("past", "float32", ("past", 2))]
    inputs.append(Value("mask", "int64", ("past + seq",)))
    samples = (
        {
            "ids": np.ones(seq, np.int64),
            "past": np.ones((past, 2), np.float32),
            "mask": np.ones(past + seq, np.int64),
        }
        for seq, past in ((8, 0), (1, 10))
    )
    assert spool(samples, inputs, tmp_path).shapes == {"ids": (8,), "past": (10, 2), "mask": (18,)}


def test_infinite_values_are_taken(tmp_path: Path) -> None:
    masked = sample(1)
    masked["x"][0, 1] = -np.inf
    assert len(spool([masked], INPUTS, tmp_path).paths) == 1


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data has no samples"):
        spool([], INPUTS, tmp_path)


@pytest.mark.parametrize(
    ("change", "what", "why"),
    [
        ({"y": 1}, "unknown input 'y'", "the model takes 'x', 'ids'"),
        ({"ids": None}, "input 'ids' of sample 1 is missing", "the model takes 'x', 'ids'"),
        ({"x": np.zeros((1, 4))}, "'x' of sample 1 has the wrong element type", "float64"),
        ({"x": np.zeros((1, 5), np.float32)}, "'x' of sample 1 has the wrong shape", "rowsx4"),
        (
            {"x": np.array([[1, np.nan, 2, np.inf]], np.float32)},
            "'x' of sample 1 has NaN",
            "1 of its 4 values",
        ),
    ],
)
def test_bad_samples(tmp_path: Path, change: dict[str, Any], what: str, why: str) -> None:
    bad = {name: value for name, value in (sample(1) | change).items() if value is not None}
    with pytest.raises(InputError, match=what) as caught:
        spool([sample(2), bad], INPUTS, tmp_path)
    assert "sample 1" in caught.value.what
    assert why in caught.value.why


def test_arrays_are_repeated_or_cut_off() -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]])
    assert resized(array, (3, 2)).tolist() == [[1, 2], [4, 5], [1, 2]]
    assert resized(array, (1, 5)).tolist() == [[1, 2, 3, 1, 2]]
    assert resized(array[:0], (1, 2)).tolist() == [[0, 0]]
    assert resized(np.array(7), ()).tolist() == 7
