from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from swapnet.arrays import save_npz
from swapnet.builder.importing import shapes
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.sessions import open_session
from swapnet.builder.importing.shapes import plan_smallest
from swapnet.builder.rewriting.optimise import TYPES
from swapnet.data.spool import Sample
from swapnet.errors import ModelError
from tests.helpers.zoo import TOYS, Net


def test_every_value_gets_a_shape(import_model: Callable[..., Graph]) -> None:
    graph = import_model(TOYS["dynamic"].make(), {"x": (3, 7, 64)})
    assert {v.name: v.planned for v in graph.inputs} == {"x": (3, 7, 64), "mask": (3, 7)}
    assert [v.planned for v in graph.outputs] == [(3, 7, 64)]
    assert all(value.nbytes for value in graph.values.values())


def test_an_unknown_rank_becomes_symbols(import_model: Callable[..., Graph]) -> None:
    graph = import_model(TOYS["sequence"].make())
    ranks = {node.op_type: graph.values[node.output[0]] for node in graph.nodes}
    picked = ranks["SequenceAt"]
    assert picked.planned == (1, 64)
    assert [type(dim) for dim in picked.shape] == [str, str]


def test_says_which_shapes_do_not_run(import_model: Callable[..., Graph]) -> None:
    net = Net()
    value = net.input("x", ("n", 64))
    net.output(net("Reshape", value, net.constant(np.array([5, -1]))))
    with pytest.raises(ModelError, match="does not run on seeded inputs of x: 2x64") as caught:
        import_model(net.model(), {"x": (2, 64)})
    assert "--data inputs.npz, which numpy.savez('inputs.npz', x=…) writes" in caught.value.hint
    assert "--shapes" in caught.value.hint


def test_names_that_python_can_not_write_are_shown_in_quotes(
    import_model: Callable[..., Graph],
) -> None:
    net = Net()
    value = net.input("x:0", (2, 64))
    net.output(net("Reshape", value, net.input("to", (2,), TensorProto.INT64)))
    with pytest.raises(ModelError) as caught:
        import_model(net.model())
    assert "numpy.savez('inputs.npz', **{'x:0': …}, to=…)" in caught.value.hint


def test_the_first_of_many_inputs_are_shown(import_model: Callable[..., Graph]) -> None:
    net = Net()
    net.output(net("Reshape", net.input("x", (2, 64)), net.input("to", (2,), TensorProto.INT64)))
    for number in range(60):
        net.output(net("Identity", net.input(f"past{number}", (1,))))
    with pytest.raises(ModelError) as caught:
        import_model(net.model())
    assert "numpy.savez('inputs.npz', x=…, to=…, past0=…, past1=…, …) writes" in caught.value.hint


def test_the_smallest_shapes_run_on_a_sample_that_is_cut_off(
    import_model: Callable[..., Graph], tmp_path: Path
) -> None:
    net = Net()
    value = net.dense(net.input("x", ("n", 64)), 64, 64)
    net.output(net("Reshape", value, net.input("to", (2,), TensorProto.INT64)))
    sample = Sample(tmp_path / "sample-0.npz")
    save_npz(sample.path, {"x": np.ones((4, 64), np.float32), "to": np.array([-1, 32])})
    graph = import_model(net.model(), {"x": (4, 64)}, samples=[sample])
    assert graph.samples == (sample.path,)
    assert [value.planned for value in graph.outputs] == [(8, 32)]
    smallest = plan_smallest(graph, tmp_path / TYPES, {"x": (1, 64)})
    assert [smallest.values[value.name].smallest for value in graph.outputs] == [(2, 32)]


@pytest.mark.parametrize(("toy", "whole"), [("dynamic", 0), ("sequence", 1)])
def test_the_run_gives_shapes_and_only_what_has_none_whole(
    import_model: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch, toy: str, whole: int
) -> None:
    opened: list[onnxruntime.InferenceSession] = []

    def keep(*arguments: Any) -> onnxruntime.InferenceSession:
        opened.append(open_session(*arguments))
        return opened[-1]

    monkeypatch.setattr(shapes, "open_session", keep)
    graph = import_model(TOYS[toy].make())
    outputs = opened[0].get_outputs()
    assert len(outputs) > whole
    others = [o for o in outputs if (o.type, len(o.shape)) != ("tensor(int64)", 1)]
    assert [o.type for o in others] == ["seq(tensor(float))"] * whole
    assert all(value.planned or value.name == others[0].name for value in graph.values.values())
