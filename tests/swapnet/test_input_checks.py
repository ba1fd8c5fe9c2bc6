from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.input_checks import (
    check_array,
    check_feed,
    check_names,
    fits,
    whole_number,
    whole_numbers,
)
from swapnet.manifest import Tensor
from swapnet.tensors import as_dims

X = Tensor("x", "float32", ("rows", 4), 0)
IDS = Tensor("ids", "int64", (2,), 0)
GOOD = {"ids": np.arange(2), "x": np.ones((3, 4), np.float32)}


def test_arrays_come_in_the_order_of_the_model() -> None:
    found = check_feed(GOOD | {"x": np.ones((4, 3), np.float32).T}, [X, IDS], "sample 1")
    assert list(found) == ["x", "ids"]
    assert found["x"].flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.ones(1)}, ["unknown input 'y' of sample 1", "takes 'x', 'ids'"]),
        ({"x": np.ones((3, 4))}, ["'x' of sample 1 has the wrong element type", "float64"]),
        ({"x": np.ones((3, 5), np.float32)}, ["wrong shape", "3x5", "rowsx4"]),
        (
            {"x": np.full((1, 4), np.nan, np.float32)},
            ["has NaN", "4 of its 4 values are"],
        ),
        ({"x": [[1], [1, 2]]}, ["is not an array"]),
    ],
    ids=["unknown", "type", "shape", "nan", "ragged"],
)
def test_what_does_not_fit(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_feed(GOOD | change, [X, IDS], "sample 1")
    assert all(word in str(caught.value) for word in words)


def test_without_a_place_the_message_names_none() -> None:
    with pytest.raises(InputError, match=r"^input 'ids' is missing\n"):
        check_names({"x": 1}, [X, IDS])
    with pytest.raises(InputError, match=r"^input 'x' has the wrong shape\n") as caught:
        check_array(np.ones(4, np.float32), X)
    assert caught.value.hint == "reshape it"


@pytest.mark.parametrize("given", [None, [1], (), "x", np.ones(2), 3])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"^inputs of sample 1 are not a dict\n") as caught:
        check_feed(given, [X, IDS], "sample 1")
    assert caught.value.why == f"they are {type(given).__name__}, the model takes 'x', 'ids'"


def test_a_model_without_inputs_takes_nothing() -> None:
    check_names({}, [])
    with pytest.raises(InputError, match="the model takes nothing"):
        check_names({"x": 1}, [])


def test_shapes() -> None:
    assert fits((9, 4), X.shape)
    assert not fits((4,), X.shape)
    assert as_dims(()) == "a scalar"


def test_whole_numbers_are_taken_in_any_type() -> None:
    assert whole_number("context", np.int64(7)) == 7
    assert whole_number("rows", 0, least=0) == 0
    assert whole_numbers("the prompt", np.array([3, 5], np.uint8)) == [3, 5]


@pytest.mark.parametrize("value", ["2", 2.0, None, [2], np.ones(2, np.int64), 0])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^conversations can't be ") as caught:
        whole_number("conversations", value)
    assert caught.value.why == "it must be a whole number, 1 or more"


@pytest.mark.parametrize("values", [None, 3, "ab", [1.0], [[1]], np.ones((2, 2), np.int64)])
def test_what_is_no_sequence_of_whole_numbers_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"^the prompt must be whole numbers\n"):
        whole_numbers("the prompt", values)
