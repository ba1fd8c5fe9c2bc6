from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swapnet.errors import ModelError
from swapnet.models import ddddocr


@pytest.fixture
def charsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the module of the wheel."""
    path = tmp_path / "charsets.py"
    path.write_text("OTHER = ['x']\nCHARSET_BETA = ['', 'a', 'b']\nraise RuntimeError\n")
    monkeypatch.setattr(ddddocr, "member", lambda *_: path)
    return path


@pytest.mark.usefixtures("charsets")
def test_characters_are_parsed_and_not_run() -> None:
    assert ddddocr.characters() == ("", "a", "b")


@pytest.mark.parametrize("source", ["OTHER = ['x']", "CHARSET_BETA = list('ab')"])
def test_a_list_that_is_no_literal_is_refused(charsets: Path, source: str) -> None:
    charsets.write_text(source)
    with pytest.raises(ModelError, match="CHARSET_BETA"):
        ddddocr.characters()


@pytest.mark.usefixtures("charsets")
def test_reads_steps_of_logits() -> None:
    steps = np.log(np.array([[2, 1, 1], [1, 2, 1], [1, 2, 1], [2, 1, 1], [1, 1, 2]], np.float32))
    assert ddddocr.read({}, {"387": steps[:, None]}) == '"ab" (50.0%)'


def test_samples_are_filled_to_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = Image.new("RGB", (384, 191), "white")
    canvas.paste((0, 0, 0), (290, 0, 300, 191))
    monkeypatch.setattr(ddddocr, "picture", lambda _: canvas)
    lines = ddddocr.samples()["input1"]
    assert lines.shape == (len(ddddocr.WORDS), 1, 1, 64, 640)
    assert lines.dtype == np.float32
    assert (lines[0, ..., 600:] == 0).all()
    assert (lines[0, ..., :500] == 1).all()
    assert (lines[1] == 1).all()
