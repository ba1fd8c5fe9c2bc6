from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from swapnet.models import ppocr


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands in for the model in the wheel."""
    model = helper.make_model(helper.make_graph([], "toy", [], []))
    helper.set_model_props(model, {"character": "a\nb"})
    path = tmp_path / "published.onnx"
    onnx.save(model, path)
    monkeypatch.setattr(ppocr, "member", lambda *_: path)
    ppocr.characters.cache_clear()
    yield path
    ppocr.characters.cache_clear()


def test_characters_are_those_of_the_model(published: Path) -> None:
    assert ppocr.characters() == ("", "a", "b", " ")
    published.unlink()
    steps = np.eye(4, dtype=np.float32)[[2, 0, 1]] * np.float32(0.5)
    assert ppocr.read({}, {"any": steps[None]}) == '"ba" (50.0%)'


def test_samples_keep_their_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppocr, "picture", lambda _: Image.new("RGB", (384, 191), "white"))
    lines = ppocr.samples()["x"]
    assert lines.shape == (len(ppocr.LINES), 1, 3, 48, 960)
    left, top, right, bottom = ppocr.LINES[0]
    width = round(48 * (right - left) / (bottom - top))
    assert (lines[0, ..., :width] == 1).all()
    assert (lines[0, ..., width:] == 0).all()
