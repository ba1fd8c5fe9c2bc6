"""Reference and candidate on the same samples, one sample in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swapnet.arrays import Array
from swapnet.calibration.accuracy.metrics import Error, error_of
from swapnet.calibration.accuracy.report import (
    AccuracyReport,
    Classes,
    Embeddings,
    OutputAccuracy,
    Texts,
)
from swapnet.calibration.accuracy.tasks import Read, Task, TaskName, TextTask, task_of
from swapnet.errors import BackendError, InputError, SwapnetError
from swapnet.progress import Progress, silent
from swapnet.tensors import as_dims

if TYPE_CHECKING:
    from polygraphy.backend.base import BaseRunner

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
    task: TaskName = "auto",
    read: Read | None = None,
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
        Meaning of the outputs.
    read
        Puts the outputs into words, one string per row: texts are compared instead of a task.
    tolerance
        Allowed difference of an element, relative to the largest magnitude of the output in the
        sample; Polygraphy's comparator applies it.
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
        _quiet(),
        _opened(candidate, budget, threads) as gives,  # first: a budget may be refused
        _opened(reference, budget, threads) as expects,
    ):
        _check_inputs(expects, gives, reference, candidate)
        for count, feed in enumerate(samples, 1):
            progress("samples", count, 0)
            expected = _infer(expects, feed, reference)
            given = _infer(gives, feed, candidate)
            _check_outputs(expected, given, reference, candidate)
            passed = _within(expected, given, tolerance)
            for name, array in expected.items():
                if name not in found:
                    meaning = TextTask(read) if read else task_of(task, name, array)
                    found[name] = _Output(meaning)
                output = found[name]
                if not np.isfinite(array.astype(np.float64)).all():
                    raise InputError(
                        f"output {name!r} of {reference} is not finite",
                        why=f"it has NaN or infinity for sample {count} of the data",
                        hint="repair the model, or leave the sample out",
                    )
                output.error += error_of(array, given[name])
                output.within += passed[name]
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
        texts=result if isinstance(result, Texts) else None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Polygraphy's log: the report has its verdicts."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        yield


@contextmanager
def _opened(path: Path, budget: str | int, threads: int | None) -> Iterator[BaseRunner]:
    """A Polygraphy runner of an ONNX file or an engine directory."""
    runner = _engine_runner(path, budget) if path.is_dir() else _model_runner(path, threads)
    runner.activate()
    try:
        yield runner
    finally:
        runner.deactivate()


def _engine_runner(path: Path, budget: str | int) -> BaseRunner:
    from swapnet.calibration.accuracy.runner import SwapRunner

    return SwapRunner(path, budget, name=str(path))


def _model_runner(path: Path, threads: int | None) -> BaseRunner:
    from polygraphy.backend.onnxrt import OnnxrtRunner

    from swapnet.builder.importing.sessions import open_session, quiet_options
    from swapnet.builder.importing.source import open_source

    open_source(path)
    options = quiet_options(packs=True, threads=threads)
    session = open_session(path, options, _NARROWING, str(path))
    return OnnxrtRunner(session, name=str(path))


def _infer(runner: BaseRunner, feed: Mapping[str, Array], path: Path) -> dict[str, Array]:
    try:
        return dict(runner.infer(dict(feed), check_inputs=False))
    except SwapnetError:
        raise
    except Exception as error:  # as above
        raise BackendError(
            f"{path} can't run a sample",
            why=str(error),
            hint="give samples of the shapes and element types that both models take",
        ) from error


def _check_inputs(
    reference: BaseRunner, candidate: BaseRunner, expected: Path, given: Path
) -> None:
    runners = (reference, candidate)
    ours, theirs = (set(r.get_input_metadata(use_numpy_dtypes=False)) for r in runners)
    _check_names("inputs", ours, theirs, expected, given)


def _check_outputs(reference: Outputs, candidate: Outputs, expected: Path, given: Path) -> None:
    _check_names("outputs", set(reference), set(candidate), expected, given)
    for name, array in reference.items():
        if array.shape != candidate[name].shape:
            raise InputError(
                f"output {name!r} has another shape in {given}",
                why=f"it is {as_dims(candidate[name].shape)}, not {as_dims(array.shape)} as in "
                f"{expected}",
                hint="compare two forms of one model",
            )


def _check_names(kind: str, ours: set[str], theirs: set[str], expected: Path, given: Path) -> None:
    if ours != theirs:
        raise InputError(
            f"{given} has other {kind} than {expected}",
            why=f"they are {_listed(theirs)}, not {_listed(ours)}",
            hint="compare two forms of one model",
        )


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _within(reference: Outputs, candidate: Outputs, tolerance: float) -> dict[str, bool]:
    """Polygraphy's verdict by output."""
    from polygraphy import comparator

    result = comparator.IterationResult
    largest = {name: _largest(array) for name, array in reference.items()}
    options: dict[str, Any] = {
        "rtol": 0.0,
        "atol": {name: tolerance * magnitude for name, magnitude in largest.items()},
        "infinities_compare_equal": True,
    }
    # The class is of Polygraphy 0.53, where the function is deprecated.
    simple = getattr(comparator, "SimpleCompareFunc", None) or comparator.CompareFunc.simple
    with np.errstate(all="ignore"):
        verdicts = simple(**options)(
            result(outputs=dict(candidate), runner_name="candidate"),
            result(outputs=dict(reference), runner_name="reference"),
        )
    return {name: bool(verdicts[name]) for name in reference}


def _largest(array: Array) -> float:
    return error_of(array, array).largest
