from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from swapnet.errors import InputError, ModelError
from swapnet.models.weights import Weights


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "real.safetensors"
    save_file(
        {"fc.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "spare": np.zeros(1)}, path
    )
    return path


def test_seeded_weights_repeat() -> None:
    one, other = (Weights(seed=3).tensor("fc.weight", (100, 200), 0.5, 2.0) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.float32
    assert one.mean() == pytest.approx(2.0, abs=0.02)
    assert one.std() == pytest.approx(0.5, abs=0.02)


def test_seeds_differ() -> None:
    assert Weights(seed=3).tensor("a", (1,), 1.0) != Weights(seed=4).tensor("a", (1,), 1.0)


def test_stored_weights_are_found_by_name(stored: Path) -> None:
    values = Weights(stored).tensor("fc.weight", (2, 3), 1.0)
    assert values.dtype == np.float32
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_another_shape_is_refused(stored: Path) -> None:
    with pytest.raises(ModelError, match=r"fc\.weight") as caught:
        Weights(stored).tensor("fc.weight", (1000, 3), 1.0)
    assert "(2, 3)" in caught.value.why
    assert "(1000, 3)" in caught.value.why


def test_a_missing_tensor_is_named(stored: Path) -> None:
    with pytest.raises(ModelError, match=r"no tensor named fc\.bias"):
        Weights(stored).tensor("fc.bias", (2,), 1.0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Weights(tmp_path / "none.safetensors")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"a pickle, perhaps")
    with pytest.raises(ModelError, match="not a safetensors file"):
        Weights(path)


def test_given_arrays_serve_as_well() -> None:
    weights = Weights({"fc": np.array([1, 2], np.float16)})
    values = weights.tensor("fc", (2,), 1.0)
    assert values.dtype == np.float32
    assert values.tolist() == [1, 2]
    with pytest.raises(ModelError, match="wrong shape"):
        weights.tensor("fc", (3,), 1.0)
