from __future__ import annotations

import numpy as np

from swapnet.models import classifier


def test_softmax_sums_to_1_for_large_scores() -> None:
    shares = classifier.softmax(np.array([[1000, 1000, -1000]], np.float32))
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0]])


def test_reads_the_strongest_first() -> None:
    logits = np.log(np.array([[1, 6, 2, 3, 4, 5]], np.float32) / 21)
    first, note = classifier.strongest({}, {"logits": logits}).splitlines()
    assert first == "class 1 28.6%, class 5 23.8%, class 4 19.0%, class 3 14.3%, class 2 9.5%"
    assert note == classifier.SEEDED
