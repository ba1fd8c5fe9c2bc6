"""Element types by name, what a model takes, and shapes as the user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError

if TYPE_CHECKING:
    import onnx

__all__ = [
    "ELEMENT_BYTES",
    "ONNX_TYPES",
    "Array",
    "ModelInput",
    "as_dims",
    "concrete_nbytes",
    "external_tensor",
    "numpy_dtype",
    "parse_dims",
    "parse_shapes",
]

Array = npt.NDArray[np.generic]

_SIZE = "(?:0|[1-9][0-9]{0,8})"
_NAMED_SHAPE = re.compile(
    rf""",*(?:(?P<mark>["'])(?P<quoted>.+?)(?P=mark)|(?P<plain>.+?)):"""
    rf"(?P<dims>(?:{_SIZE}(?:x{_SIZE})*|scalar)?)(?:,+|$)"
)
_NAMED_SIZE = re.compile(
    rf',*(?:"(?P<quoted>[^"]+)"|(?P<plain>[^,]+?)) *= *(?P<size>{_SIZE})(?:,+|$)'
)
_HOLDS_A_SHAPE = re.compile(":.*,")
"""In a name: the part before the comma was meant to be a shape."""

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


class ModelInput(Protocol):
    """An input of a model; a string is a symbolic dimension."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int | str, ...]: ...


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The NumPy type that holds ``name``; bfloat16 travels as its bits, in uint16."""
    return np.dtype("uint16" if name == "bfloat16" else name)


def concrete_nbytes(dtype: str, shape: Sequence[int | str]) -> int | None:
    """Bytes of a tensor, or None while a dimension is symbolic."""
    dims = [dim for dim in shape if isinstance(dim, int)]
    return ELEMENT_BYTES[dtype] * prod(dims) if len(dims) == len(shape) else None


def as_dims(shape: Sequence[int | str]) -> str:
    """A shape for people: ``1x3x224x224``."""
    return "x".join(map(str, shape)) or "a scalar"


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Input shapes written as trtexec writes them: ``images:1x3x640x640,mask:1x128``.

    A scalar has no dimensions, ``scale:`` or ``scale:scalar``. A name may have colons or commas,
    and stand in single or double quotes; one with a comma after a colon must. A ``*`` stands for
    any part of a name where the shapes are used.

    Raises
    ------
    InputError
        The text is empty, a part is not ``name:DxDxD``, or a name is there twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    start = 0
    while start < len(text) or not text:
        found = _NAMED_SHAPE.match(text, start)
        if found is None or _HOLDS_A_SHAPE.search(found["plain"] or ""):
            raise InputError(
                f"{text[start:].partition(',')[0]!r} is not a shape",
                why="a shape is a name, a colon and dimensions joined by x; a scalar has none",
                hint="write it like images:1x3x640x640",
            )
        name, dims = found["quoted"] or found["plain"], found["dims"].removeprefix("scalar")
        if name in shapes:
            raise InputError(
                f"{name!r} has two shapes",
                why=f"they are {'x'.join(map(str, shapes[name])) or 'a scalar'} "
                f"and {dims or 'a scalar'}",
                hint="give one shape for each input",
            )
        shapes[name] = tuple(map(int, dims.split("x"))) if dims else ()
        start = found.end()
    return shapes


def parse_dims(text: str) -> dict[str, int]:
    """Sizes of symbols: ``batch=1,past=511``; a name with a comma is written in double quotes.

    Raises
    ------
    InputError
        The text is empty, a part is not ``name=SIZE``, or a name is there twice.
    """
    sizes: dict[str, int] = {}
    start = 0
    while start < len(text) or not text:
        found = _NAMED_SIZE.match(text, start)
        if found is None:
            raise InputError(
                f"{text[start:].partition(',')[0]!r} is not the size of a symbol",
                why="it is a name, an equals sign and a number from 0 to 999999999",
                hint="write it like batch=1,past=511",
            )
        name, size = (found["quoted"] or found["plain"]).strip(), int(found["size"])
        if sizes.setdefault(name, size) != size:
            raise InputError(
                f"{name!r} has two sizes",
                why=f"they are {sizes[name]} and {size}",
                hint="give one size for each symbol",
            )
        start = found.end()
    return sizes


def external_tensor(
    name: str, dtype: str, shape: Sequence[int], location: str, offset: int, nbytes: int
) -> onnx.TensorProto:
    """A tensor of ONNX with its bytes in the file ``location``, beside the model."""
    from onnx import TensorProto

    tensor = TensorProto(
        name=name,
        data_type=ONNX_TYPES[dtype],
        dims=shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, "offset": offset, "length": nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
