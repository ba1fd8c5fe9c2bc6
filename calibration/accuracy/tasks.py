"""Meanings of outputs, and how much of them is kept: classes, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from swapnet.arrays import Array
from swapnet.calibration.accuracy.metrics import (
    clear_rows,
    cosines,
    nearest,
    spearman,
    top_classes,
)
from swapnet.calibration.accuracy.report import Classes, Embeddings
from swapnet.errors import InputError
from swapnet.tensors import as_dims

__all__ = ["TASKS", "ClassTask", "EmbeddingTask", "Meaning", "Task", "TaskName", "task_of"]

TaskName = Literal["auto", "classes", "embedding", "values"]

TASKS: tuple[TaskName, ...] = ("auto", "classes", "embedding", "values")

Meaning = Callable[[str, Array], "Task | None"]
"""The task of an output, from its name and its first sample."""

_UNIT = 1e-3
"""Rows are embeddings where their length is this close to 1."""


class Task(Protocol):
    """Takes outputs sample by sample."""

    def add(self, reference: Array, found: Array) -> None:
        """Take one sample's output of both models, of one shape."""

    def result(self) -> object:
        """Over all samples."""


class ClassTask:
    """Counts the best classes that agree."""

    def __init__(self) -> None:
        self._rows = self._best = self._five = self._clear = self._clear_best = 0

    def add(self, reference: Array, found: Array) -> None:
        self._rows += len(reference)
        self._best += top_classes(reference, found, count=1)
        self._five += top_classes(reference, found, count=5)
        clear = clear_rows(reference)
        self._clear += int(np.count_nonzero(clear))
        self._clear_best += top_classes(reference[clear], found[clear], count=1)

    def result(self) -> Classes:
        return Classes(
            rows=self._rows,
            top1=self._best / self._rows,
            top5=self._five / self._rows,
            clear=self._clear,
            clear_top1=self._clear_best / self._clear if self._clear else None,
        )


class EmbeddingTask:
    """Keeps all rows: they are compared with each other."""

    def __init__(self) -> None:
        self._reference: list[Array] = []
        self._found: list[Array] = []

    def add(self, reference: Array, found: Array) -> None:
        self._reference.append(np.array(reference))
        self._found.append(np.array(found))

    def result(self) -> Embeddings:
        reference, found = map(np.concatenate, (self._reference, self._found))
        similar = cosines(reference, found)
        several = len(reference) > 1
        kept = np.mean(nearest(reference) == nearest(found)) if several else None
        return Embeddings(
            rows=len(reference),
            cosine_mean=float(similar.mean()),
            cosine_min=float(similar.min()),
            nearest_kept=None if kept is None else float(kept),
            spearman=spearman(reference, found) if several else None,
        )


def task_of(name: TaskName, output: str, reference: Array) -> Task | None:
    """The task of an output, chosen by its first sample; None for ``values``.

    ``auto`` takes rows of length 1 for embeddings, and other rows for scores of classes.

    Raises
    ------
    InputError
        Such an output can't have the task that is asked for.
    """
    rows = reference.ndim == 2 and reference.shape[1] > 1 and reference.dtype.kind == "f"
    if name == "values" or (name == "auto" and not rows):
        return None
    if not rows:
        raise InputError(
            f"--task {name} does not suit output {output!r}",
            why=f"it is {as_dims(reference.shape)} of {reference.dtype}, not rows of floats",
            hint="compare values only: --task values",
        )
    if name == "auto":
        lengths = np.linalg.norm(np.asarray(reference, np.float64), axis=1)
        name = "embedding" if bool((np.abs(lengths - 1) < _UNIT).all()) else "classes"
    return EmbeddingTask() if name == "embedding" else ClassTask()
