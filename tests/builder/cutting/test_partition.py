from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import onnx
import pytest

from swapnet.builder.cutting.partition import assign_weights, partition
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.slicing import slice_operators
from tests.helpers.zoo import TOYS, mlp

Import = Callable[..., Graph]
LIMIT = 16 << 10


def prepared(import_model: Import, name: str, limit: int) -> Graph:
    toy = TOYS[name]
    shapes: Mapping[str, tuple[int, ...]] = toy.shapes
    return slice_operators(import_model(toy.make(), shapes), limit)


@pytest.mark.parametrize("name", ["ends", "images-portable", "lookups", "sequence", "tied-gemm"])
def test_parts_are_closed(import_model: Import, name: str) -> None:
    graph = prepared(import_model, name, LIMIT)
    parts = partition(graph, LIMIT)
    assert [node for part in parts for node in part.nodes] == list(graph.nodes)
    known = {value.name for value in graph.inputs}
    for part in parts:
        assert known.issuperset(part.inputs)
        known.update(part.outputs)
        assert all(graph.values[name].nbytes is not None for name in part.outputs)
    needed = {name for part in parts for name in part.inputs}
    needed |= {value.name for value in graph.outputs}
    assert all(needed.issuperset(part.outputs) for part in parts)


def test_each_weight_is_stored_once(import_model: Import) -> None:
    graph = prepared(import_model, "used-twice", LIMIT)
    parts = partition(graph, LIMIT)
    ownership = assign_weights(graph, parts)
    users = Counter(name for part in parts for name in part.weights)
    ((parts_of_it, (shared,)),) = ownership.shared.items()
    assert [shared in part.weights for part in parts] == [
        i in parts_of_it for i in range(len(parts))
    ]
    assert users[shared] == len(parts_of_it) == 3
    stored = Counter(name for names in ownership.own for name in names)
    assert set(stored.values()) == {1}
    assert stored.keys() == graph.constants.keys() - {shared}


@pytest.mark.parametrize("limit", [2 << 20, 256 << 10])
def test_a_tied_table_lies_with_its_products(import_model: Import, limit: int) -> None:
    graph = prepared(import_model, "tied-gemm", limit)
    parts = partition(graph, limit)
    ownership = assign_weights(graph, parts)
    assert not ownership.shared
    assert [part.lookup for part in parts] == [True, *[False] * (len(parts) - 1)]
    assert ownership.own[0] == ()
    stored = [name for names in ownership.own for name in names]
    assert sorted(stored) == sorted(n for part in parts[1:] for n in part.weights)


def test_a_table_that_is_only_looked_up_lies_with_its_lookup(import_model: Import) -> None:
    graph = prepared(import_model, "lookups", LIMIT)
    parts = partition(graph, LIMIT)
    own = assign_weights(graph, parts).own
    lookups = [names for part, names in zip(parts, own, strict=True) if part.lookup]
    assert [len(names) for names in lookups] == [1, 1]


def test_operators_are_named(import_model: Import) -> None:
    (part,) = partition(import_model(mlp(layers=1)), LIMIT)
    assert part.operators == ("MatMul", "Relu")


def test_a_model_without_weights_is_one_part(import_model: Import) -> None:
    graph: Graph = import_model(TOYS["weightless"].make())
    (part,) = partition(graph, LIMIT)
    assert (part.inputs, part.weights) == (("x",), ())
    assert assign_weights(graph, [part]).own == ((),)


def test_a_constant_output_has_an_operator(import_model: Import) -> None:
    model: onnx.ModelProto = TOYS["ends"].make()
    graph = import_model(model)
    produced = {name for node in graph.nodes for name in node.output}
    given = {value.name for value in graph.inputs}
    assert all(value.name in produced | given for value in graph.outputs)
