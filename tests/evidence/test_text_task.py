from __future__ import annotations

import numpy as np

from tests.evidence.text_task import TextTask


def test_changed_texts_are_listed() -> None:
    task = TextTask(lambda output: [str(row.argmax()) for row in np.asarray(output)])
    task.add(np.eye(2), np.eye(2)[[0, 0]])
    assert task.changed == [("1", "0")]
    assert task.result() == "1 of 2 texts unchanged"


def test_spaces_alone_are_told_apart() -> None:
    task = TextTask(lambda output: [str(text) for text in output])
    task.add(np.array(["a b", "ab", "c"]), np.array(["ab", "b a", "c"]))
    assert task.changed == [("a b", "ab"), ("ab", "b a")]
    assert task.result() == "1 of 3 texts unchanged, 2 but for spaces"
