from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.errors import EngineError
from swapnet.executor.swapping.storage import WeightFile
from swapnet.executor.swapping.verify import check_weights
from swapnet.manifest import WEIGHTS, Manifest
from tests.helpers.engines import BuildToy


def check(manifest: Manifest, path: Path) -> None:
    file = WeightFile(path)
    try:
        check_weights(manifest, file)
    finally:
        file.close()


@pytest.mark.slow
def test_whole_weights_pass(engine: BuildToy) -> None:
    for name in ("used-twice", "lookups", "weightless"):
        toy = engine(name)
        check(toy.manifest, toy.folder / WEIGHTS)


@pytest.mark.parametrize("position", ["first", "last"])
def test_one_changed_byte_is_found(engine: BuildToy, tmp_path: Path, position: str) -> None:
    manifest = engine("used-twice").manifest
    extents = {f"block {block.index}": block.extent for block in manifest.blocks}
    extents |= {f"block {each.blocks[0]} and others": each.extent for each in manifest.shared}
    assert manifest.shared
    data = (engine("used-twice").folder / WEIGHTS).read_bytes()
    for name, extent in extents.items():
        if not extent.nbytes:
            continue
        changed = bytearray(data)
        changed[extent.offset if position == "first" else extent.end - 1] ^= 1
        (tmp_path / WEIGHTS).write_bytes(changed)
        with pytest.raises(EngineError, match=f"the weights of {name} were changed"):
            check(manifest, tmp_path / WEIGHTS)
