from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from swapnet.models import ppocr


@pytest.fixture
def published(cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the model in the wheel."""
    constants = (np.ones((2, 3), np.float32), np.array([1, 2]))
    nodes = [
        helper.make_node("Constant", [], [f"c{index}"], value=numpy_helper.from_array(values))
        for index, values in enumerate(constants)
    ]
    output = helper.make_tensor_value_info("c0", 1, (2, 3))
    model = helper.make_model(helper.make_graph(nodes, "toy", [], [output]))
    helper.set_model_props(model, {"character": "a\nb"})
    path = tmp_path / "published.onnx"
    onnx.save(model, path)
    monkeypatch.setattr("swapnet.models.published.member", lambda *_: path)
    assert not cache_folder.exists()
    return path


def test_make_copies_and_counts(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "ppocr.onnx"
    assert ppocr.make(path, None) == 6
    assert path.read_bytes() == published.read_bytes()


def test_characters_are_kept_beside_the_model(published: Path) -> None:
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
