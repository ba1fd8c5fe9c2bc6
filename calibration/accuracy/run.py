"""Reference and candidate on the same samples, one sample in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from swapnet.arrays import Array
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.calibration.accuracy.metrics import Error, error_of
from swapnet.calibration.accuracy.report import (
    AccuracyReport,
    Classes,
    Embeddings,
    OutputAccuracy,
)
from swapnet.calibration.accuracy.tasks import Meaning, Task, TaskName, task_of
from swapnet.errors import BackendError, InputError, SwapnetError
from swapnet.executor.executor import SwapExecutor
from swapnet.progress import Progress, silent
from swapnet.tensors import as_dims

__all__ = ["TOLERANCE", "compare_outputs"]

TOLERANCE = 0.05
"""Default allowed difference, over the largest magnitude of the output."""

_NARROWING = ["WeightBiasQuantization"]
"""Optimiser that rounds weights left in float, with one scale for all channels."""

Outputs = Mapping[str, Array]


@dataclass
class _Output:
    task: Task | None
    error: Error = field(default_factory=Error)
    within: int = 0


def compare_outputs(
    reference: Path,
    candidate: Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    data: str = "",
    task: TaskName | Meaning = "auto",
    tolerance: float = TOLERANCE,
    budget: str | int = "100%",
    threads: int | None = None,
    progress: Progress = silent,
) -> AccuracyReport:
    """Run two models on the same samples and compare all outputs.

    Parameters
    ----------
    reference
        ONNX file, run by ONNX Runtime on the CPU.
    candidate
        Another ONNX file, or an engine directory, run by `SwapExecutor`.
    samples
        Inputs by name, sample by sample.
    data
        Name of the samples, for the report.
    task
        Meaning of the outputs, or what gives the task of each.
    tolerance
        Allowed difference of an element, relative to the largest magnitude of the output in the
        sample.
    budget
        Budget of an engine directory.
    threads
        Threads of ONNX Runtime; by default all processors.
    progress
        Called with each sample.

    Raises
    ------
    InputError
        The models differ in inputs or outputs, or there are no samples.
    ModelError, EngineError, BudgetError, BackendError
        A model can't be opened or run.
    """
    found: dict[str, _Output] = {}
    count = 0
    with (
        _opened(candidate, budget, threads) as theirs,  # first: a budget may be refused
        _opened(reference, budget, threads) as ours,
    ):
        _check_names("inputs", ours.inputs, theirs.inputs, reference, candidate)
        for count, feed in enumerate(samples, 1):
            progress("samples", count, 0)
            expected, given = ours.infer(feed), theirs.infer(feed)
            _check_outputs(expected, given, reference, candidate)
            for name, array in expected.items():
                if name not in found:
                    meaning = task if callable(task) else partial(task_of, task)
                    found[name] = _Output(meaning(name, array))
                output = found[name]
                if not np.isfinite(array.astype(np.float64)).all():
                    raise InputError(
                        f"output {name!r} of {reference} is not finite",
                        why=f"it has NaN or infinity for sample {count} of the data",
                        hint="repair the model, or leave the sample out",
                    )
                error = error_of(array, given[name])
                output.error += error
                is_near = error.max_abs_error <= tolerance * error.largest
                output.within += is_near and not error.not_finite
                if output.task is not None:
                    output.task.add(array, given[name])
    if not count:
        raise InputError(
            "there are no samples to compare on", why="the data is empty", hint="give at least one"
        )
    return AccuracyReport(
        reference=str(reference),
        candidate=str(candidate),
        data=data,
        samples=count,
        tolerance=tolerance,
        outputs=[_accuracy(name, output) for name, output in found.items()],
    )


def _accuracy(name: str, output: _Output) -> OutputAccuracy:
    result = None if output.task is None else output.task.result()
    error = output.error
    return OutputAccuracy(
        name=name,
        snr_db=error.snr_db,
        max_abs_error=error.max_abs_error,
        max_rel_error=error.max_rel_error,
        not_finite=error.not_finite,
        within_tolerance=output.within,
        classes=result if isinstance(result, Classes) else None,
        embeddings=result if isinstance(result, Embeddings) else None,
    )


@dataclass(frozen=True)
class _Model:
    path: Path
    inputs: frozenset[str]
    run: Callable[[Mapping[str, Array]], Outputs]

    def infer(self, feed: Mapping[str, Array]) -> Outputs:
        """Outputs by name."""
        try:
            return self.run(feed)
        except SwapnetError:
            raise
        except Exception as error:  # ONNX Runtime has a class of its own for each refusal
            raise BackendError(
                f"{self.path} can't run a sample",
                why=str(error),
                hint="give samples of the shapes and element types that both models take",
            ) from error


@contextmanager
def _opened(path: Path, budget: str | int, threads: int | None) -> Iterator[_Model]:
    """An ONNX file or an engine directory, ready to run."""
    if path.is_dir():
        with SwapExecutor(path, budget) as executor:
            taken = frozenset(tensor.name for tensor in executor.manifest.inputs)
            yield _Model(path, taken, executor)
        return
    open_source(path)
    options = quiet_options(packs=True, threads=threads)
    session = open_session(path, options, _NARROWING, str(path))
    names = [output.name for output in session.get_outputs()]

    def run(feed: Mapping[str, Array]) -> Outputs:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))

    yield _Model(path, frozenset(given.name for given in session.get_inputs()), run)


def _check_outputs(reference: Outputs, candidate: Outputs, expected: Path, given: Path) -> None:
    _check_names("outputs", reference.keys(), candidate.keys(), expected, given)
    for name, array in reference.items():
        if array.shape != candidate[name].shape:
            raise InputError(
                f"output {name!r} has another shape in {given}",
                why=f"it is {as_dims(candidate[name].shape)}, not {as_dims(array.shape)} as in "
                f"{expected}",
                hint="compare two forms of one model",
            )


def _check_names(kind: str, ours: Set[str], theirs: Set[str], expected: Path, given: Path) -> None:
    if ours != theirs:
        raise InputError(
            f"{given} has other {kind} than {expected}",
            why=f"they are {_listed(theirs)}, not {_listed(ours)}",
            hint="compare two forms of one model",
        )


def _listed(names: Set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
