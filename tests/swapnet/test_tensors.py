from __future__ import annotations

from shlex import split

import numpy as np
import pytest
from onnx import TensorProto, helper

from swapnet.errors import InputError
from swapnet.shapes import as_option
from swapnet.tensors import (
    ELEMENT_BYTES,
    ONNX_TYPES,
    concrete_nbytes,
    numpy_dtype,
    parse_dims,
    parse_shapes,
)


@pytest.mark.parametrize("name", ONNX_TYPES)
def test_types_agree_with_onnx(name: str) -> None:
    assert ELEMENT_BYTES[name] == numpy_dtype(name).itemsize
    if name != "bfloat16":
        dtype = helper.tensor_dtype_to_np_dtype(ONNX_TYPES[name])
        assert numpy_dtype(name) == dtype == np.dtype(name)


def test_bfloat16_is_its_bits() -> None:
    assert ONNX_TYPES["bfloat16"] == TensorProto.BFLOAT16
    assert numpy_dtype("bfloat16") == np.uint16


def test_counts_bytes_of_known_shapes() -> None:
    assert concrete_nbytes("float32", (2, 3)) == 24
    assert concrete_nbytes("int64", ()) == 8
    assert concrete_nbytes("uint8", (0, 5)) == 0
    assert concrete_nbytes("float32", ("batch", 3)) is None


def test_parses_shapes_as_trtexec_writes_them() -> None:
    assert parse_shapes("images:1x3x640x640,mask:8") == {"images": (1, 3, 640, 640), "mask": (8,)}
    assert parse_shapes("scope:0:2x2") == {"scope:0": (2, 2)}
    assert parse_shapes("x:1,y:2,") == {"x": (1,), "y": (2,)}


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("past:1x8x0x64,x:1", {"past": (1, 8, 0, 64), "x": (1,)}),
        ("s:", {"s": ()}),
        ("s:,x:2,t:", {"s": (), "x": (2,), "t": ()}),
        ("a,b:2x512,c:3", {"a,b": (2, 512), "c": (3,)}),
        ('"a,b":2x512,c:3', {"a,b": (2, 512), "c": (3,)}),
        ('c:3,"a:1,b":2', {"c": (3,), "a:1,b": (2,)}),
        ("x=y:1", {"x=y": (1,)}),
        ("'a,b:0':2x512,c:3", {"a,b:0": (2, 512), "c": (3,)}),
        ("s:scalar,scalar:2", {"s": (), "scalar": (2,)}),
        ("past.*:1x8", {"past.*": (1, 8)}),
    ],
)
def test_parses_empty_dimensions_scalars_and_names_with_commas(
    text: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    assert parse_shapes(text) == shapes
    assert parse_shapes(*split(as_option(shapes))) == shapes


@pytest.mark.parametrize(
    "text", ["1x3", ":1x3", "x:1x", "x:01", "x:1x,y:2", "x:1x2:,y", "x:-1", "x:ax2", "x:1,2", ""]
)
def test_refuses_what_is_no_shape(text: str) -> None:
    with pytest.raises(InputError, match="is not a shape"):
        parse_shapes(text)


def test_two_shapes_of_one_input_are_refused() -> None:
    with pytest.raises(InputError, match="'x' has two shapes") as caught:
        parse_shapes("x:1x2,y:1,x:3x4")
    assert caught.value.why == "they are 1x2 and 3x4"


@pytest.mark.parametrize(
    ("text", "dims"),
    [
        ("batch=1,past=511", {"batch": 1, "past": 511}),
        ("past=0,", {"past": 0}),
        ('"a,b"=2, seq = 3', {"a,b": 2, "seq": 3}),
        ("past + seq=9", {"past + seq": 9}),
        ("a=1,a=1", {"a": 1}),
    ],
)
def test_sizes_of_symbols_are_read(text: str, dims: dict[str, int]) -> None:
    assert parse_dims(text) == dims


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch", "'batch' is not the size of a symbol"),
        ("batch=-1", "not the size"),
        ("batch=1x3", "not the size"),
        ("batch=1000000000", "0 to 999999999"),
        ("", "'' is not the size"),
        ("=4", "not the size"),
        ("a=1,a=2", "'a' has two sizes"),
    ],
)
def test_wrong_sizes_of_symbols_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_dims(text)
