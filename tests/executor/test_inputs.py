from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swapnet.errors import BudgetError, InputError
from swapnet.executor.inputs import check_inputs, index_limits, planned_sample
from swapnet.manifest import Manifest
from tests.helpers.engines import BuildToy


@pytest.fixture
def manifest(engine: BuildToy) -> Manifest:
    """``x`` of float32, batch x length x 64, planned for 3x7x64; ``mask`` of int64."""
    return engine("dynamic").manifest


def inputs(**changes: Any) -> dict[str, Any]:
    given = {"x": np.zeros((2, 5, 64), np.float32), "mask": np.ones((2, 5), np.int64)}
    return {name: value for name, value in (given | changes).items() if value is not None}


def test_arrays_become_contiguous(manifest: Manifest) -> None:
    transposed = np.zeros((64, 5, 2), np.float32).T
    checked = check_inputs(manifest, inputs(x=transposed))
    assert checked["x"].flags.c_contiguous
    assert list(checked) == ["x", "mask"]


def test_arrays_are_copied_only_where_that_is_asked_for(manifest: Manifest) -> None:
    given = inputs()
    same, copied = check_inputs(manifest, given), check_inputs(manifest, given, copy=True)
    for name, array in given.items():
        assert same[name] is array
        assert not np.shares_memory(copied[name], array)
        assert np.array_equal(copied[name], array)


def test_lists_are_taken(manifest: Manifest) -> None:
    assert check_inputs(manifest, inputs(mask=[[1, 2, 3]] * 3))["mask"].shape == (3, 3)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"y": 1}, ["unknown input 'y'", "the model takes 'x', 'mask'"]),
        ({"mask": None}, ["input 'mask' is missing"]),
        ({"x": np.zeros((2, 5, 64))}, ["'x' has the wrong element type", "it is float64"]),
        ({"mask": np.ones((2, 5), np.int32)}, ["the model takes int64"]),
        ({"x": np.zeros((2, 5, 65), np.float32)}, ["wrong shape", "2x5x65", "batchxlengthx64"]),
        ({"x": np.zeros((2, 64), np.float32)}, ["wrong shape", "2x64"]),
        ({"x": np.float32(1)}, ["wrong shape", "a scalar"]),
        ({"x": "picture.png"}, ["wrong element type"]),
    ],
)
def test_refuses_what_the_model_does_not_take(
    manifest: Manifest, changes: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(manifest, inputs(**changes))
    assert all(message in str(caught.value) for message in messages)


def test_refuses_what_was_not_planned_for(manifest: Manifest) -> None:
    with pytest.raises(BudgetError, match="planned for 3x7x64") as caught:
        check_inputs(manifest, inputs(x=np.zeros((3, 8, 64), np.float32)))
    assert "--shapes x:3x8x64" in caught.value.hint


def test_samples_are_valid(engine: BuildToy) -> None:
    manifest = engine("lookups").manifest
    assert index_limits(manifest)["ids"] == 4096
    sample = planned_sample(manifest, seed=3)
    assert check_inputs(manifest, sample).keys() == {"ids"}
    assert sample["ids"].shape == (4, 3)
    assert 100 < int(sample["ids"].max()) < 4096
