"""Samples that an engine directory keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from swapnet.arrays import save_npz
from swapnet.errors import EngineError
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.executor.samples import kept_samples, sample_of, save_samples
from swapnet.shapes import SAMPLES
from swapnet.tensors import Array
from tests.helpers.engines import BuildToy


@pytest.fixture
def folder(engine: BuildToy, tmp_path: Path) -> Path:
    """A copy of an engine without samples: ``x`` and ``mask`` up to 3x7x64 and 3x7."""
    return Path(shutil.copytree(engine("dynamic").folder, tmp_path / "toy"))


def sample(length: int, value: int = 2) -> dict[str, Array]:
    return {
        "x": np.full((3, length, 64), value, np.float32),
        "mask": np.ones((3, length), np.int64),
    }


def test_an_engine_without_samples_takes_seeded_inputs(folder: Path) -> None:
    opened = Engine.open(folder)
    assert kept_samples(opened) == ()
    seeded = planned_sample(opened.manifest)
    assert all(np.array_equal(array, seeded[n]) for n, array in sample_of(opened).items())


def test_the_first_sample_is_taken(folder: Path) -> None:
    save_samples(folder, [sample(5, 1), sample(7, 2)])
    opened = Engine.open(folder)
    assert [kept["x"].shape[1] for kept in kept_samples(opened)] == [5, 7]
    assert sample_of(opened)["x"].max() == 1


def test_new_samples_replace_the_old(folder: Path) -> None:
    save_samples(folder, [sample(5), sample(6), sample(7)])
    save_samples(folder, [sample(4)])
    assert [path.name for path in (folder / SAMPLES).iterdir()] == ["0.npz"]
    save_samples(folder, [])
    assert kept_samples(Engine.open(folder)) == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read"),
        ({"x": np.zeros((3, 5, 64), np.float32)}, "input 'mask' is missing"),
        (sample(5) | {"mask": np.ones((3, 5))}, "wrong element type"),
        (sample(8), "larger than planned for"),
    ],
)
def test_a_damaged_sample_is_one_clear_error(
    folder: Path, content: dict[str, Array] | None, why: str
) -> None:
    save_samples(folder, [sample(5)])
    path = folder / SAMPLES / "0.npz"
    if content is None:
        path.write_bytes(b"cut short")
    else:
        save_npz(path, content)
    with pytest.raises(EngineError, match=r"0\.npz is damaged") as caught:
        sample_of(Engine.open(folder))
    assert why in caught.value.why
    assert f"rm '{path}'" in caught.value.hint
