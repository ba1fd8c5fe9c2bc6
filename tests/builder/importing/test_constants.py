from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.partition import partition
from swapnet.builder.importing.constants import INLINE_BELOW_BYTES, read_weights
from swapnet.builder.importing.graph import Graph, bodies
from tests.helpers.zoo import TOYS


def initialisers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for body in bodies(node):
            yield from initialisers(body)


def branch(weight: onnx.TensorProto, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """What multiplies by a weight and gives the last operator's output, or the weight itself."""
    name = nodes[-1].output[0] if nodes else weight.name
    return helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name=name)], [weight])


def choice(then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("If", ["c"], [output], then_branch=then, else_branch=other)


def then(node: onnx.NodeProto) -> onnx.GraphProto:
    body: onnx.GraphProto = next(a.g for a in node.attribute if a.name == "then_branch")
    return body


def weight(name: str, seed: int = 0) -> onnx.TensorProto:
    array = np.random.default_rng(seed).standard_normal((64, 64), np.float32)
    return numpy_helper.from_array(array, name)


def product(weight: str, output: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", ["x", weight], [output])


@pytest.mark.parametrize("toy", ["branches", "loop", "nested", "scan"])
def test_weights_of_bodies_are_swapped(import_model: Callable[..., Graph], toy: str) -> None:
    graph = import_model(TOYS[toy].make())
    for part in partition(graph, 16 << 10):
        model = skeleton(graph, part, "block")
        assert all(len(t.raw_data) < INLINE_BELOW_BYTES for t in initialisers(model.graph))
        assert {v.name for v in model.graph.input} == {*part.inputs, *part.weights}


def test_a_weight_that_two_branches_hold_is_stored_once(
    import_model: Callable[..., Graph],
) -> None:
    """The branches of each branch hold the same LSTM."""
    shapes = [c.shape for c in import_model(TOYS["nested"].make()).constants.values()]
    assert shapes.count((1, 128, 32)) == 1
    assert shapes.count((32, 32)) == 2


def test_names_stay_apart_and_equal_weights_are_one() -> None:
    first = branch(weight("w"), product("w", "a"))
    second = branch(weight("w", seed=1), product("w", "b"))
    third = branch(weight("v"), product("v", "d"))
    nested = branch(weight("u", seed=1), choice(third, second, "e"))
    graph = helper.make_graph([choice(first, nested)], "toy", [], [])
    constants, inline = read_weights(graph, Path())
    assert not inline
    assert {name: c.bytes().tobytes() for name, c in constants.items()} == {
        "u": weight("u", seed=1).raw_data,
        "v": weight("v").raw_data,
    }
    assert then(graph.node[0]).node[0].input[1] == "v"


def test_a_name_that_is_taken_gets_a_number() -> None:
    bodies = [branch(weight("w", seed), product("w", f"a{seed}")) for seed in (0, 1)]
    graph = helper.make_graph([choice(*bodies)], "toy", [], [])
    constants, _ = read_weights(graph, Path())
    assert constants.keys() == {"w.0", "w.1"}
    name = then(graph.node[0]).node[0].input[1]
    assert constants[name].bytes().tobytes() == weight("w").raw_data


def test_a_weight_that_a_branch_gives_is_computed() -> None:
    graph = helper.make_graph([choice(branch(weight("w")), branch(weight("v", 1)))], "toy", [], [])
    constants, _ = read_weights(graph, Path())
    assert constants.keys() == {"w/constant", "v/constant"}
    (node,) = then(graph.node[0]).node
    assert (node.op_type, *node.input, *node.output) == ("Identity", "w/constant", "w")


def test_small_and_other_constants_stay_in_bodies() -> None:
    small = numpy_helper.from_array(np.ones(3, np.float32), "small")
    packed = helper.make_tensor("packed", TensorProto.INT4, [4096], bytes(2048), raw=True)
    body = branch(small, helper.make_node("Identity", ["small"], ["a"]))
    body.initializer.append(packed)
    graph = helper.make_graph([choice(body, branch(weight("w"), product("w", "b")))], "toy", [], [])
    constants, _ = read_weights(graph, Path())
    assert list(constants) == ["w"]
    assert [t.name for t in then(graph.node[0]).initializer] == ["small", "packed"]


def test_a_name_that_a_body_defines_is_its_own() -> None:
    inner = branch(weight("other"), product("other", "w"), product("w", "c"))
    outer = branch(weight("w", 1), product("w", "a"), choice(inner, inner, "d"))
    graph = helper.make_graph([choice(outer, outer)], "toy", [], [])
    read_weights(graph, Path())
    first, last = then(graph.node[0]).node
    assert first.input[1] != "w"
    assert then(last).node[1].input[1] == "w"


@pytest.mark.parametrize("rank", [1, 2])
def test_sparse_weights_become_dense(rank: int) -> None:
    at = np.array([3, 64, 4095])
    indices = at if rank == 1 else np.stack(np.divmod(at, 64), axis=1)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w"),
        numpy_helper.from_array(indices, "at"),
        [64, 64],
    )
    graph = helper.make_graph([product("w", "y")], "toy", [], [], sparse_initializer=[sparse])
    constants, _ = read_weights(graph, Path())
    dense = constants["w"].bytes().view(np.float32)
    assert constants["w"].shape == (64, 64)
    assert np.flatnonzero(dense).tolist() == at.tolist()
    assert dense[at].tolist() == [1, 2, 3]


def test_what_is_saved_twice_is_read_once() -> None:
    """ONNX Runtime 1.23 to 1.26 does so in bodies."""
    body = branch(weight("w"), product("w", "a"))
    body.initializer.append(weight("w"))
    graph = helper.make_graph([choice(body, body)], "toy", [], [])
    constants, _ = read_weights(graph, Path())
    assert len(constants) == 1
    assert not then(graph.node[0]).initializer
