from __future__ import annotations

import numpy as np

from swapnet.sampling import sample_inputs

INPUTS = [
    *(("ids", "int64", (40,)), ("mask", "int64", (3,)), ("x", "float16", (2, 3))),
    *(("y", "bfloat16", (500,)), ("flag", "bool", ()), ("image", "uint8", (2,))),
]


def test_samples_are_valid_and_typed() -> None:
    sample = sample_inputs(INPUTS, {"ids": 7})
    assert {n: (a.dtype.name, a.shape) for n, a in sample.items()} == {
        name: ("uint16" if dtype == "bfloat16" else dtype, shape) for name, dtype, shape in INPUTS
    }
    assert set(sample["ids"].tolist()) == set(range(7))
    assert sample["mask"].tolist() == [1, 1, 1]
    assert sample["flag"].item() is True
    wide = (sample["y"].astype(np.uint32) << 16).view(np.float32)
    assert 0.8 < wide.std() < 1.2


def test_the_seed_decides() -> None:
    first, again, other = (sample_inputs(INPUTS, {"ids": 7}, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["ids"], other["ids"])
