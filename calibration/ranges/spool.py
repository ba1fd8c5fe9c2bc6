"""Representative inputs on their way to the process that runs them: one file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.arrays import save_npz
from swapnet.builder.graph import Value
from swapnet.errors import InputError
from swapnet.executor.backends.base import Array
from swapnet.tensors import numpy_dtype

__all__ = ["Spool", "spool"]


@dataclass(frozen=True)
class Spool:
    """What was written.

    Attributes
    ----------
    paths
        An ``.npz`` by sample.
    shapes
        By input, the largest size of each dimension.
    """

    paths: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]


def spool(samples: Iterable[Mapping[str, Any]], inputs: Sequence[Value], folder: Path) -> Spool:
    """Check samples one by one and write them, so that they are taken once and none is kept.

    Parameters
    ----------
    samples
        Arrays by input.
    inputs
        What the model takes.
    folder
        Where files are written.

    Raises
    ------
    InputError
        There are none, or one of them is not what the model takes or has NaN or infinite values.
    StorageError
        The folder can't be written.
    """
    paths: list[Path] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for number, sample in enumerate(samples):
        arrays = _checked(number, sample, inputs)
        for name, array in arrays.items():
            before = shapes.get(name, array.shape)
            shapes[name] = tuple(map(max, before, array.shape))
        paths.append(folder / f"sample-{number}.npz")
        save_npz(paths[-1], arrays)
    if not paths:
        raise InputError(
            "there is nothing to calibrate with",
            why="no sample was given, and at least 1 is needed",
            hint="give representative inputs, a hundred or more",
        )
    return Spool(tuple(paths), shapes)


def _checked(number: int, sample: Mapping[str, Any], inputs: Sequence[Value]) -> dict[str, Array]:
    expected = {value.name: value for value in inputs}
    unknown = sorted(sample.keys() - expected.keys())
    missing = sorted(expected.keys() - sample.keys())
    if unknown or missing:
        raise InputError(
            f"sample {number} has an unknown input {unknown[0]!r}"
            if unknown
            else f"sample {number} lacks input {missing[0]!r}",
            why=f"the model takes {', '.join(map(repr, expected))}",
            hint="give each of them once in each sample",
        )
    return {name: _check(number, expected[name], sample[name]) for name in expected}


def _check(number: int, value: Value, given: Any) -> Array:
    array = np.asarray(given)
    what = f"input {value.name!r} of sample {number}"
    dtype = numpy_dtype(value.dtype)
    if array.dtype != dtype:
        raise InputError(
            f"{what} has the wrong element type",
            why=f"it is {array.dtype}, the model takes {value.dtype}",
            hint=f"convert it: array.astype({str(dtype)!r})",
        )
    fits = len(array.shape) == len(value.shape) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(value.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{what} has the wrong shape",
            why=f"it is {_dims(array.shape)}, the model takes {_dims(value.shape)}",
            hint="reshape it",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(
            f"{what} is not finite",
            why=f"{count} of its {array.size} values are NaN or infinite",
            hint="leave the sample out, or correct its preprocessing",
        )
    return array


def _dims(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
