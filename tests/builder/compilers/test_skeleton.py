from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.partition import partition
from swapnet.builder.importing.graph import Graph
from tests.helpers.zoo import TOYS


@pytest.mark.parametrize("name", ["ends", "wide-opset-7", "wide-opset-21", "many"])
def test_a_skeleton_is_a_model_whose_weights_are_inputs(
    import_model: Callable[..., Graph], name: str
) -> None:
    graph = import_model(TOYS[name].make())
    for part in partition(graph, 16 << 10):
        model = skeleton(graph, part, "block")
        onnx.checker.check_model(model, full_check=True)
        assert [v.name for v in model.graph.input] == [*part.inputs, *part.weights]
        assert [v.name for v in model.graph.output] == list(part.outputs)
        assert [t.name for t in model.graph.initializer] == list(part.inline)
        assert model.ByteSize() < 16 << 10
