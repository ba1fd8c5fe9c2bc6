"""What outputs mean."""

from __future__ import annotations

import numpy as np
import pytest

from swapnet.arrays import Array
from swapnet.calibration.accuracy.report import Classes, OutputAccuracy, summary
from swapnet.calibration.accuracy.tasks import (
    ClassTask,
    EmbeddingTask,
    TaskName,
    task_of,
)
from swapnet.errors import InputError

SCORES = np.array([[0.1, 3.0, 0.2]], np.float32)
UNIT = np.array([[0.6, 0.8]], np.float32)


@pytest.mark.parametrize(
    ("name", "array", "kind"),
    [
        ("auto", SCORES, ClassTask),
        ("auto", UNIT, EmbeddingTask),
        ("auto", np.zeros((1, 2, 3), np.float32), type(None)),
        ("auto", np.zeros((4, 1), np.float32), type(None)),
        ("auto", np.zeros((4, 3), np.int64), type(None)),
        ("classes", UNIT, ClassTask),
        ("embedding", SCORES, EmbeddingTask),
        ("values", SCORES, type(None)),
    ],
)
def test_a_task_is_chosen(name: TaskName, array: Array, kind: type) -> None:
    assert type(task_of(name, "y", array)) is kind


def test_a_task_that_an_output_can_not_have() -> None:
    with pytest.raises(InputError, match=r"does not suit output 'y'\n.*4x1x2 of float32"):
        task_of("classes", "y", np.zeros((4, 1, 2), np.float32))


def test_classes_are_counted_over_samples() -> None:
    task = ClassTask()
    task.add(SCORES, SCORES)
    task.add(SCORES, SCORES[:, ::-1] * [1, -1, 1])
    assert task.result() == Classes(2, 0.5, 1.0, clear=2, clear_top1=0.5)


def test_clear_classes_are_counted_apart() -> None:
    task = ClassTask()
    task.add(np.eye(2), np.eye(2))
    task.add(np.array([[0.3, 0.4, 0.3]]), np.array([[0.4, 0.3, 0.3]]))
    assert task.result() == Classes(3, 2 / 3, 1.0, clear=2, clear_top1=1.0)
    task = ClassTask()
    task.add(np.array([[0.3, 0.4, 0.3]]), np.array([[0.3, 0.4, 0.3]]))
    assert task.result() == Classes(1, 1.0, 1.0, clear=0, clear_top1=None)


def test_embeddings_are_compared_with_each_other() -> None:
    task = EmbeddingTask()
    rows = np.eye(3, dtype=np.float32) + np.float32(0.1) * np.arange(9, dtype=np.float32).reshape(
        3, 3
    )
    buffer = np.empty((1, 3), np.float32)
    for row in rows:
        buffer[:] = row
        task.add(buffer, row[None])
    found = task.result()
    assert (found.rows, found.nearest_kept) == (3, 1.0)
    assert found.cosine_min == pytest.approx(1.0)
    assert found.spearman == pytest.approx(1.0)


def test_one_embedding_has_no_neighbour() -> None:
    task = EmbeddingTask()
    task.add(UNIT, UNIT[:, ::-1])
    found = task.result()
    assert (found.nearest_kept, found.spearman) == (None, None)
    assert found.cosine_mean == pytest.approx(0.96)


def test_results_in_a_few_words() -> None:
    def output(**task: object) -> OutputAccuracy:
        return OutputAccuracy(
            name="y",
            snr_db=None,
            max_abs_error=0,
            max_rel_error=0,
            not_finite=0,
            within_tolerance=1,
            **task,  # type: ignore[arg-type]
        )

    assert summary(output()) == ""
    assert summary(output(classes=Classes(4, 0.75, 1.0))) == "top-1 75.0%, top-5 100.0%"
    assert summary(output(classes=Classes(4, 0.75, 1.0, 2, 1.0))) == (
        "top-1 75.0%, top-5 100.0%; top-1 100.0% of the 2 that are clear"
    )
    several = EmbeddingTask()
    several.add(np.eye(2), np.eye(2))
    assert summary(output(embeddings=several.result())) == (
        "cosine 1.0000, at least 1.0000; nearest kept 100.0%, ranks 1.0000"
    )
