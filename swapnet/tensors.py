"""Element types by name, and input shapes as the user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError

__all__ = ["ELEMENT_BYTES", "ONNX_TYPES", "Array", "concrete_nbytes", "numpy_dtype", "parse_shapes"]

Array = npt.NDArray[np.generic]

_DIMENSION = re.compile(r"[1-9][0-9]{0,8}")

ONNX_TYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
"""``TensorProto.DataType`` of each element type that can be swapped or cross a cut."""

ELEMENT_BYTES: Mapping[str, int] = {
    name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in ONNX_TYPES
}


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The NumPy type that holds ``name``; bfloat16 travels as its bits, in uint16."""
    return np.dtype("uint16" if name == "bfloat16" else name)


def concrete_nbytes(dtype: str, shape: Sequence[int | str]) -> int | None:
    """Bytes of a tensor, or None while a dimension is symbolic."""
    dims = [dim for dim in shape if isinstance(dim, int)]
    return ELEMENT_BYTES[dtype] * prod(dims) if len(dims) == len(shape) else None


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Input shapes written as trtexec writes them: ``images:1x3x640x640,mask:1x128``.

    Raises
    ------
    InputError
        A part is not ``name:DxDxD`` with positive dimensions, or a name is there twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in filter(None, text.split(",")):
        name, colon, dims = part.rpartition(":")
        sizes = dims.split("x")
        if not colon or not name or not all(_DIMENSION.fullmatch(size) for size in sizes):
            raise InputError(
                f"{part!r} is not a shape",
                why="a shape is a name, a colon and dimensions above 0 joined by x",
                hint="write it like images:1x3x640x640",
            )
        if name in shapes:
            raise InputError(
                f"{name!r} has two shapes",
                why=f"they are {'x'.join(map(str, shapes[name]))} and {dims}",
                hint="give one shape for each input",
            )
        shapes[name] = tuple(map(int, sizes))
    return shapes
