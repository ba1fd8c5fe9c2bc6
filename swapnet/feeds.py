"""Arrays that are fed to a model, checked against what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from swapnet.arrays import Array
from swapnet.errors import InputError
from swapnet.tensors import numpy_dtype

__all__ = ["Taken", "as_dims", "check_array", "check_feed", "check_names", "fits", "wrong_shape"]


class Taken(Protocol):
    """What a model takes as one of its inputs; a string is a symbolic dimension."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int | str, ...]: ...


def check_feed(given: Mapping[str, Any], inputs: Sequence[Taken], where: str) -> dict[str, Array]:
    """C-contiguous arrays without NaN for all inputs of a model, in their order.

    Infinite numbers are taken: masks hold them.

    Parameters
    ----------
    given
        Arrays by name, or what NumPy makes arrays of.
    inputs
        What the model takes.
    where
        For messages: what the arrays are of.

    Raises
    ------
    InputError
        A name, element type or shape is not what the model takes, or a number is NaN.
    """
    check_names(given, inputs, where)
    arrays = {taken.name: check_array(given[taken.name], taken, where) for taken in inputs}
    for taken in inputs:
        _check_numbers(arrays[taken.name], taken, where)
    return arrays


def check_names(given: Mapping[str, Any], inputs: Iterable[Taken], where: str = "") -> None:
    """Refuse what is no mapping, names that the model does not take, and fewer than it takes.

    Raises
    ------
    InputError
        ``given`` is no mapping, or an input is unknown or missing.
    """
    expected = {taken.name: taken for taken in inputs}
    kind = type(given).__name__
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs{_of(where)} are no dict",
            why=f"they are {kind}, the model takes {', '.join(map(repr, expected)) or 'nothing'}",
            hint="give a dict of an array for each input, by its name",
        )
    names = set(given)
    unknown = sorted(map(str, names - expected.keys()))
    missing = sorted(expected.keys() - names)
    if unknown or missing:
        raise InputError(
            f"unknown input {unknown[0]!r}{_of(where)}"
            if unknown
            else f"input {missing[0]!r}{_of(where)} is missing",
            why=f"the model takes {', '.join(map(repr, expected)) or 'nothing'}",
            hint="give each of them once",
        )


def check_array(value: Any, taken: Taken, where: str = "", *, copy: bool = False) -> Array:
    """A C-contiguous array of the type and shape that an input has.

    Parameters
    ----------
    value
        An array, or what NumPy makes an array of.
    taken
        What the model takes.
    where
        For messages: what the array is of.
    copy
        Return a new array always; else ``value`` itself where it is such an array.

    Raises
    ------
    InputError
        It is no array, or of another element type or shape.
    """
    what = f"input {taken.name!r}{_of(where)}"
    try:
        array = np.array(value, order="C") if copy else np.asarray(value, order="C")
    except Exception as error:  # an object of another library may raise anything
        raise InputError(
            f"{what} is no array", why=str(error), hint="give a NumPy array"
        ) from error
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


def wrong_shape(shape: Sequence[int], taken: Taken, where: str = "") -> InputError:
    """The error of an array that does not fit."""
    samples = "; an .npz of several samples has an axis of samples before these" if where else ""
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


def as_dims(shape: Sequence[int | str]) -> str:
    """A shape for people."""
    return "x".join(map(str, shape)) or "a scalar"


def _check_numbers(array: Array, taken: Taken, where: str) -> None:
    values: Any = array
    if taken.dtype == "bfloat16":
        values = (array.astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind != "f" or not (nans := int(np.isnan(values).sum())):
        return
    raise InputError(
        f"input {taken.name!r}{_of(where)} has NaN",
        why=f"{nans} of {values.size} values are NaN, which everything computed from them becomes",
        hint="leave the sample out, or correct what makes it",
    )


def _of(where: str) -> str:
    return f" of {where}" if where else ""
