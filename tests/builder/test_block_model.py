"""One block as an ONNX file with its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from swapnet.builder.block_model import save_block
from swapnet.errors import InputError
from swapnet.executor.engine import Engine
from tests.helpers.engines import BuildToy


@pytest.mark.parametrize("name", ["used-twice", "packing"])
def test_blocks_run_one_after_the_other_give_the_outputs_of_the_model(
    engine: BuildToy, tmp_path: Path, name: str
) -> None:
    toy = engine(name)
    values = dict(toy.feeds())
    expected = toy.original(toy.feeds())
    assert len(toy.manifest.blocks) > 1
    for block in toy.manifest.blocks:
        path = tmp_path / f"{block.index}.onnx"
        save_block(Engine.open(toy.folder), block.index, path)
        model = onnx.load(path)
        names = [value.name for value in model.graph.input]
        assert set(names) == set(block.inputs)
        session = onnxruntime.InferenceSession(path)
        outputs = session.run(None, {name: values[name] for name in names})
        values |= dict(zip([o.name for o in session.get_outputs()], outputs, strict=True))
    for name, array in expected.items():
        np.testing.assert_allclose(values[name], array, rtol=1e-4, atol=1e-4)


def test_blocks_without_operators_are_refused(engine: BuildToy, tmp_path: Path) -> None:
    opened = Engine.open(engine("only-lookup").folder)
    with pytest.raises(InputError, match="can't be written as ONNX") as caught:
        save_block(opened, 0, tmp_path / "block.onnx")
    assert "looks up rows" in caught.value.why
    with pytest.raises(InputError) as caught:
        save_block(opened, 9, tmp_path / "block.onnx")
    assert "the blocks 0 to 0" in caught.value.why
    assert not list(tmp_path.iterdir())
