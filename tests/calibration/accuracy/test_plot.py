"""Pictures of layers are drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from swapnet.calibration.accuracy.plot import check_drawable, save_layer_plot
from swapnet.errors import InputError, StorageError
from tests.calibration.accuracy.test_layers import layer

pytestmark = pytest.mark.usefixtures("drawing")


def test_suggested_layers_are_marked(tmp_path: Path) -> None:
    found = [layer("stem_is_bad", 1.0), layer("other", 0.1)]
    save_layer_plot("toy", found, ["stem_is_bad"], tmp_path / "marked.svg")
    save_layer_plot("toy", found, [], tmp_path / "plain.svg")
    marked, plain = (len((tmp_path / f"{n}.svg").read_bytes()) for n in ("marked", "plain"))
    assert marked > plain


def test_a_picture_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_layer_plot("toy", [layer("one", 1.0)], [], tmp_path / "nowhere" / "plot.png")


def test_what_draws_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(InputError, match="plots need Matplotlib") as caught:
        check_drawable(Path("layers.png"))
    assert caught.value.hint == "pip install 'swapnet-trt[plot]'"
