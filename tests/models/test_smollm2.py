from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from swapnet import models
from swapnet.files import cache_folder


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
