from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from swapnet.builder import build
from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler
from swapnet.executor.backends.onnxruntime import version
from swapnet.fingerprint import PORTABLE
from tests.helpers.engines import BuildToy


@pytest.mark.slow
def test_blocks_for_cuda_are_skeletons_of_standard_operators(
    engine: BuildToy, tmp_path: Path
) -> None:
    toy = engine("images")
    manifest = build(toy.model, tmp_path / "engine", backend="onnxruntime-cuda", max_block="16KiB")
    compiled = manifest.compiled
    assert (compiled.backend, compiled.version) == ("onnxruntime-cuda", version())
    assert compiled.fingerprint == PORTABLE
    for block in manifest.blocks:
        model = onnx.load(tmp_path / "engine" / block.file)
        assert {node.domain for node in model.graph.node} == {""}
        assert [opset.domain for opset in model.opset_import] == [""]
        assert block.weight_style == "external"
        assert block.activation_bytes >= 16 << 20
        assert block.skeleton_bytes > 0


@pytest.mark.parametrize("name", ["lookups", "dynamic", "recurrent"])
@pytest.mark.slow
def test_toys_are_built_for_cuda(engine: BuildToy, tmp_path: Path, name: str) -> None:
    toy = engine(name)
    manifest = build(
        toy.model, tmp_path / "engine", backend="onnxruntime-cuda", shapes=toy.toy.shapes
    )
    looked_up = [block for block in manifest.blocks if not block.is_graph]
    assert all(block.activation_bytes < 16 << 20 for block in looked_up)
    assert [value.name for value in manifest.outputs] == [v.name for v in toy.manifest.outputs]


def test_a_portable_engine_has_no_full_range() -> None:
    with pytest.raises(ValueError, match="7 bits"):
        OnnxRuntimeCompiler(portable=True, full_range=True)
