"""Representative inputs on their way to what runs them: one file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.arrays import Array, load_npz, save_npz
from swapnet.errors import InputError
from swapnet.input_checks import check_feed
from swapnet.shapes import input_shapes, shapes_of
from swapnet.symbols import largest_sizes
from swapnet.tensors import ModelInput, as_dims

__all__ = ["Sample", "Spool", "resized", "samples_to_plan", "spool"]


@dataclass(frozen=True)
class Spool:
    """Samples on disk.

    Attributes
    ----------
    paths
        Files by sample.
    shapes
        Shapes by input that hold all of them.
    """

    paths: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sample:
    """A sample to plan with.

    Attributes
    ----------
    path
        Its file.
    optional
        It is made of another sample. The model may refuse it.
    """

    path: Path
    optional: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.stem.replace("-", " ")

    def arrays(self, inputs: Iterable[ModelInput]) -> dict[str, Array]:
        """Arrays by name of these inputs, out of those that the sample has."""
        loaded = load_npz(self.path)
        return {taken.name: loaded[taken.name] for taken in inputs if taken.name in loaded}


def spool(
    samples: Iterable[Mapping[str, Any]], inputs: Sequence[ModelInput], folder: Path
) -> Spool:
    """Check samples one by one and write them, so that they are read once and none is kept.

    Raises
    ------
    InputError
        There are none, or one does not fit the model or has NaN.
    StorageError
        The folder can't be written.
    """
    paths: list[Path] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for number, sample in enumerate(samples):
        arrays = check_feed(sample, inputs, f"sample {number}")
        given = {name: array.shape for name, array in arrays.items()}
        shapes = shapes_of(inputs, largest_sizes(inputs, (shapes, given)))
        paths.append(folder / f"sample-{number}.npz")
        save_npz(paths[-1], arrays)
    if not paths:
        raise InputError(
            "the data has no samples",
            why="0 were given, at least 1 is needed",
            hint="give a dict of an array for each input, or several of them",
        )
    return Spool(tuple(paths), shapes)


def samples_to_plan(
    spooled: Spool,
    inputs: Sequence[ModelInput],
    given: Mapping[str, Sequence[int]],
    dims: Mapping[str, int] | None = None,
) -> tuple[dict[str, tuple[int, ...]], tuple[Sample, ...]]:
    """Input shapes to plan for, and the samples to plan with.

    Sizes that ``given`` and ``dims`` leave open are the largest of the samples, which come by size.
    Where none has these shapes, one more is made: the largest sample, repeated. It comes first and
    has to run where more is asked for than the samples have. Else it comes last, optionally.

    Raises
    ------
    InputError
        A given shape does not fit the model, or a sample is larger.
    """
    largest = largest_sizes(inputs, (spooled.shapes,))
    planned = input_shapes(inputs, given, largest, dims=dims)
    for name, shape in spooled.shapes.items():
        if any(size > limit for size, limit in zip(shape, planned[name], strict=True)):
            raise InputError(
                "the data is larger than --shapes",
                why=f"input {name!r} is up to {as_dims(shape)} in the data, --shapes gives "
                f"{as_dims(planned[name])}",
                hint="give larger --shapes, or leave them out: the data then decides",
            )
    largest_first = sorted(spooled.paths, key=lambda path: -path.stat().st_size)
    samples = [Sample(path) for path in largest_first]
    arrays = samples[0].arrays(inputs)
    if all(array.shape == planned[name] for name, array in arrays.items()):
        return planned, tuple(samples)
    made = Sample(largest_first[0].with_name("repeated.npz"), planned == spooled.shapes)
    save_npz(made.path, {name: resized(a, planned[name]) for name, a in arrays.items()})
    return planned, (*samples, made) if made.optional else (made, *samples)


def resized(array: Array, shape: Sequence[int]) -> Array:
    """An array of another shape of the same rank: cut off, or repeated; zeros if it is empty."""
    if not array.size:
        return np.zeros(shape, array.dtype)
    for axis, size in enumerate(shape):
        array = array.take(np.arange(size) % array.shape[axis], axis)
    return array
