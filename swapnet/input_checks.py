"""Arrays for a model, checked against its inputs, and whole numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from swapnet.errors import InputError
from swapnet.shapes import names_of
from swapnet.tensors import Array, ModelInput, as_dims, numpy_dtype
from swapnet.token_rows import ROWS, with_rows

__all__ = [
    "as_array",
    "check_array",
    "check_feed",
    "check_names",
    "fits",
    "whole_number",
    "whole_numbers",
    "wrong_shape",
]


_HOST_DEVICES = (1, 3, 11, 13)
"""DLPack's types of memory that the host reads: its own, page-locked, and managed (dlpack.h)."""


def check_feed(
    given: Mapping[str, Any], inputs: Sequence[ModelInput], where: str
) -> dict[str, Array]:
    """C-contiguous arrays without NaN for all inputs of a model, in their order.

    Infinite numbers are taken: masks hold them.

    ``where`` says for messages where the arrays come from.

    Raises
    ------
    InputError
        A name, element type or shape does not fit the model, or a number is NaN.
    """
    check_names(given, inputs, where)
    given = with_rows(given, inputs)
    arrays = {taken.name: check_array(given[taken.name], taken, where) for taken in inputs}
    for taken in inputs:
        _check_numbers(arrays[taken.name], taken, where)
    return arrays


def whole_number(name: str, value: object, least: int = 1) -> int:
    """A parameter that counts or numbers something.

    Raises
    ------
    InputError
        It is of another type, or smaller than ``least``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise InputError(
            f"{name} can't be {value!r}", why=f"it must be a whole number, {least} or more"
        )
    return number


def whole_numbers(name: str, values: Iterable[object]) -> list[int]:
    """Whole numbers of a sequence, such as those of tokens.

    Raises
    ------
    InputError
        It is no sequence, or has something else.
    """
    try:
        return [operator.index(value) for value in values]  # type: ignore[arg-type]
    except TypeError as error:
        why = f"{values!r:.40} has none: {error}"
        raise InputError(f"{name} must be whole numbers", why=why, hint="give a list") from error


def check_names(given: Mapping[str, Any], inputs: Iterable[ModelInput], where: str = "") -> None:
    """Refuse inputs that are not a mapping, names that the model does not take, and missing ones.

    Raises
    ------
    InputError
        ``given`` is not a mapping, or an input is unknown or missing.
    """
    expected = {taken.name: taken for taken in inputs}
    kind = type(given).__name__
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs{_of(where)} are not a dict",
            why=f"they are {kind}, the model takes {names_of(expected)}",
            hint="give a dict of an array for each input, by its name",
        )
    names = set(given)
    unknown = sorted(map(str, names - expected.keys()))
    missing = sorted(expected.keys() - names - {ROWS})
    if unknown or missing:
        raise InputError(
            f"unknown input {unknown[0]!r}{_of(where)}"
            if unknown
            else f"input {missing[0]!r}{_of(where)} is missing",
            why=f"the model takes {names_of(expected)}",
            hint="give each of them once",
        )


def check_array(value: Any, taken: ModelInput, where: str = "", *, copy: bool = False) -> Array:
    """A C-contiguous array of the type and shape that an input has.

    Parameters
    ----------
    value
        An array, an object that exports DLPack, or a value that NumPy makes an array of.
    taken
        The input of the model.
    where
        Where the array comes from, for messages.
    copy
        Always return a new array; otherwise ``value`` itself where it is such an array.

    Raises
    ------
    InputError
        It is not an array, lies on a GPU, or has another element type or shape.
    """
    what = f"input {taken.name!r}{_of(where)}"
    given = as_array(value, what)
    array = np.array(given, order="C") if copy else np.asarray(given, order="C")
    dtype = numpy_dtype(taken.dtype)
    if array.dtype != dtype:
        raise InputError(
            f"{what} has the wrong element type",
            why=f"it is {array.dtype}, the model takes {taken.dtype}",
            hint=f"convert it: array.astype({str(dtype)!r})",
        )
    if not fits(array.shape, taken.shape):
        raise wrong_shape(array.shape, taken, where)
    return array


def as_array(value: Any, what: str) -> Array:
    """A NumPy array of a value: without a copy where it is one, or exports DLPack from host memory.

    Parameters
    ----------
    value
        An array of any library, or a value that NumPy makes an array of.
    what
        The value's name, for messages.

    Raises
    ------
    InputError
        It is not an array, or its memory is not the host's.
    """
    try:
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        kind, _ = value.__dlpack_device__()
        if kind in _HOST_DEVICES:
            return np.from_dlpack(value)
    except Exception as error:  # an object of another library may raise anything
        raise InputError(
            f"{what} is not an array", why=str(error), hint="give a NumPy array"
        ) from error
    raise InputError(
        f"{what} is not in host memory",
        why=f"it lies on a device of DLPack's type {int(kind)}",
        hint="copy it to the host: tensor.cpu() in PyTorch, cupy.asnumpy(array)",
    )


def wrong_shape(shape: Sequence[int], taken: ModelInput, where: str = "") -> InputError:
    """The error of an array that does not fit."""
    samples = "; an .npz of several samples has a leading axis of samples" if where else ""
    return InputError(
        f"input {taken.name!r}{_of(where)} has the wrong shape",
        why=f"it is {as_dims(shape)}, the model takes {as_dims(taken.shape)}",
        hint=f"reshape it{samples}",
    )


def fits(shape: Sequence[int], declared: Sequence[int | str]) -> bool:
    """Whether an array has a declared shape; a symbolic dimension takes any size."""
    return len(shape) == len(declared) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(declared, shape, strict=True)
    )


def _check_numbers(array: Array, taken: ModelInput, where: str) -> None:
    values: Any = array
    if taken.dtype == "bfloat16":
        values = (array.astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind != "f" or not (nans := int(np.isnan(values).sum())):
        return
    raise InputError(
        f"input {taken.name!r}{_of(where)} has NaN",
        why=f"{nans} of its {values.size} values are NaN, which spreads to the results",
        hint="leave the sample out, or correct it",
    )


def _of(where: str) -> str:
    return f" of {where}" if where else ""
