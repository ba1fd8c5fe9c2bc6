"""Representative inputs on their way to the process that runs them: one file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swapnet.arrays import save_npz
from swapnet.builder.importing.graph import Value
from swapnet.errors import InputError
from swapnet.input_checks import check_feed
from swapnet.shapes import shapes_of
from swapnet.symbols import largest_sizes

__all__ = ["Spool", "spool"]


@dataclass(frozen=True)
class Spool:
    """Files by sample, and shapes by input that hold all of them."""

    paths: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]


def spool(samples: Iterable[Mapping[str, Any]], inputs: Sequence[Value], folder: Path) -> Spool:
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
            "there are no samples to calibrate with",
            why="0 were given, at least 1 is needed",
            hint="give representative inputs, a hundred or more",
        )
    return Spool(tuple(paths), shapes)
