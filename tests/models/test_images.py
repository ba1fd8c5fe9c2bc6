from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swapnet.models import images


@pytest.fixture
def grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture of the package is a small grey one, half black, half white."""
    path = tmp_path / "grey.png"
    canvas = Image.new("L", (8, 4), 0)
    canvas.paste(255, (4, 0, 8, 4))
    canvas.save(path)
    monkeypatch.setattr(images, "member", lambda *_: path)


@pytest.mark.usefixtures("grey")
def test_pixels_are_planes_of_0_to_1() -> None:
    planes = images.pixels(images.picture("page.png"), width=4, height=2)
    assert planes.shape == (3, 2, 4)
    assert planes.dtype == np.float32
    assert planes[:, 0, 0].tolist() == [0, 0, 0]
    assert planes[:, 1, 3].tolist() == [1, 1, 1]


@pytest.mark.usefixtures("grey")
def test_photographs_are_squares() -> None:
    batch = images.photographs(6)
    assert batch.shape == (len(images.PHOTOGRAPHS), 3, 6, 6)
    assert batch.dtype == np.float32


@pytest.mark.usefixtures("grey")
def test_photographs_may_be_wide() -> None:
    batch = images.photographs((8, 2))
    assert batch.shape == (len(images.PHOTOGRAPHS), 3, 2, 8)
    assert (batch[:, :, :, 0].max(), batch[:, :, :, -1].min()) == (0, 1)


def test_normalise_centres_the_usual_image() -> None:
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
    scaled = images.normalise(np.broadcast_to(mean, (3, 2, 2)))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, 0)
