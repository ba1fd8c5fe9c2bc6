from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from swapnet.builder.importing.graph import Constant, Graph, Value, in_execution_order, used_names
from tests.helpers.zoo import TOYS


@settings(max_examples=50, deadline=None)
@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_slice_is_the_bytes_that_numpy_takes(data: st.DataObject, shape: list[int]) -> None:
    whole = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, shape[axis]))
    constant = Constant("w", "int16", tuple(shape), whole.view(np.uint8).reshape(-1))
    part = constant.slice("part", axis, start, stop)
    expected = whole.take(range(start, stop), axis)
    assert part.shape == expected.shape
    assert part.nbytes == expected.nbytes
    assert part.bytes().tobytes() == expected.tobytes()
    assert constant.bytes().tobytes() == whole.tobytes()


def test_bytes_of_a_value_are_planned() -> None:
    assert Value("x", "float32", ("n", 2), (3, 2)).nbytes == 24
    assert Value("x", "seq(tensor(float))", (), ()).nbytes is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_order_is_topological_and_keeps_what_is_sorted(count: int, random: Random) -> None:
    nodes = [
        helper.make_node("Op", [f"v{random.randrange(i)}" for _ in range(2) if i], [f"v{i}"])
        for i in range(count)
    ]
    assert in_execution_order(nodes) == nodes
    random.shuffle(nodes)
    seen: set[str] = set()
    order = in_execution_order(nodes)
    for node in order:
        assert seen.issuperset(node.input)
        seen.update(node.output)
    assert len(order) == count


def test_shapes_are_taken_first() -> None:
    nodes = [helper.make_node(kind, ["x"], [kind]) for kind in ("Relu", "Size", "Abs", "Shape")]
    assert [n.op_type for n in in_execution_order(nodes)] == ["Size", "Shape", "Relu", "Abs"]


@pytest.mark.parametrize(
    ("toy", "names"),
    [
        ("branches", {"condition", "matmul0.0", "w1"}),
        ("loop", {"w2", "w3", "matmul0.0", "w1"}),
    ],
)
def test_subgraphs_capture_names(toy: str, names: set[str], tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    TOYS[toy].save(TOYS[toy].make(), path)
    node = onnx.load(path).graph.node[1]
    assert set(used_names(node)) == names


def test_readers_are_counted_once_and_with_bodies(import_model: Callable[..., Graph]) -> None:
    graph = import_model(TOYS["branches"].make())
    for name, readers in graph.readers.items():
        assert readers == [i for i, node in enumerate(graph.nodes) if name in set(used_names(node))]
    (branch,) = (i for i, node in enumerate(graph.nodes) if node.op_type == "If")
    captured = set(used_names(graph.nodes[branch])).difference(graph.nodes[branch].input)
    assert captured
    assert all(branch in graph.readers[name] for name in captured)
