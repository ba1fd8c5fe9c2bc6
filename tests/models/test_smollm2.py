from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swapnet import models
from swapnet.errors import InputError
from swapnet.files import cache_folder
from swapnet.models import smollm2


def test_it_takes_no_other_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no other weights"):
        smollm2.make(tmp_path / "smollm2.onnx", tmp_path / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(
    not (cache_folder() / "models" / "smollm2-r1").is_dir(), reason="not downloaded"
)
def test_it_knows_the_capital_of_france(infer: Callable[..., dict[str, Any]]) -> None:
    made = models.get("smollm2")
    assert made.model == made.onnx.parent
    with np.load(made.example) as example, np.load(made.data) as data:
        assert set(example) == set(data)
        assert all((data[name][0] == example[name]).all() for name in example)
        inputs = dict(example)
    outputs = infer(made.onnx, **inputs)
    assert models.find("smollm2").read(inputs, outputs) == "The capital of France is Paris"
