from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from swapnet.models import ppocr_det
from swapnet.models.ppocr_det import Region, components, regions


def flood(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the components pixel by pixel."""
    labels = np.zeros(mask.shape, np.int64)
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        number = labels.max() + 1
        labels[start], waiting = number, deque([start])
        while waiting:
            row, column = waiting.popleft()
            near = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
            fresh = mask[near] & (labels[near] == 0)
            labels[near][fresh] = number
            rows, columns = np.nonzero(fresh)
            waiting.extend(zip(rows + near[0].start, columns + near[1].start, strict=True))
    return labels


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_components_are_those_of_a_flood(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(components(mask), flood(mask))


def test_components_join_late_and_at_corners() -> None:
    mask = np.array([[1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1]], bool)
    assert components(mask).max() == 1
    assert components(np.eye(4, dtype=bool)).max() == 1


@pytest.fixture
def page() -> NDArray[np.float32]:
    """Two lines, a faint one, and a speck."""
    page = np.zeros((60, 100), np.float32)
    page[40:44, 50:80] = 0.8
    page[10:14, 10:50] = 0.9
    page[25:29, 10:50] = 0.4
    page[55:57, 5:7] = 1
    return page


def test_finds_lines_from_top_to_bottom(page: NDArray[np.float32]) -> None:
    first, second = regions(page)
    growth = round(40 * 4 * 1.6 / 88)
    assert first.score == pytest.approx(0.9)
    assert replace(first, score=1) == Region(1, 10 - growth, 10 - growth, 50 + growth, 14 + growth)
    assert second.score == pytest.approx(0.8)
    assert second.top < 40 < 44 < second.bottom


def test_boxes_stay_inside_the_page() -> None:
    page = np.full((20, 30), 0.9, np.float32)
    (region,) = regions(page)
    assert (region.left, region.top, region.right, region.bottom) == (0, 0, 30, 20)


def test_reads_each_page(page: NDArray[np.float32]) -> None:
    batch = np.stack([page, np.zeros_like(page)])[:, None]
    lines = ppocr_det.read({}, {"any": batch}).splitlines()
    assert lines[0] == "2 lines of text"
    assert lines[1] == "  90.0% from (7, 7) to (53, 17)"
    assert lines[3] == "0 lines of text"


def test_samples_are_pages_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppocr_det, "picture", lambda _: Image.new("RGB", (600, 400), "white"))
    (array,) = ppocr_det.samples().values()
    assert array.shape == (len(ppocr_det.PAGES), 1, 3, 384, 768)
    assert array.dtype == np.float32
    assert (array == 1).all()
