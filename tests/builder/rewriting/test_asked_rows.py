"""Rows of logits that are asked for are gathered before the vocabulary product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.rewriting.asked_rows import ask_rows
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.token_rows import LOGITS, ROWS
from tests.helpers.zoo import Net

Import = Callable[..., Graph]

WIDTH, VOCABULARY, TOKENS = 8, 32, 5


def plain(net: Net, value: str) -> str:
    return net.dense(value, WIDTH, VOCABULARY)


def soft_capped(net: Net, value: str) -> str:
    """As Gemma: a bias, and logits inside of a range."""
    product = net("Add", plain(net, value), net.weight(VOCABULARY))
    cap = net.constant(np.array(3, np.float32))
    return net("Mul", net("Tanh", net("Div", product, cap)), cap)


def with_offsets(net: Net, value: str) -> str:
    """As Q4_1 of llama.cpp: a product, and one of block sums with offsets."""
    blocks = net("Reshape", value, net.constant(np.array([0, 0, -1, 4])))
    sums = net("ReduceSum", blocks, net.constant(np.array([-1])), keepdims=0)
    return net("Add", plain(net, value), net.dense(sums, WIDTH // 4, VOCABULARY))


def sum_of_tokens(net: Net, value: str) -> str:
    """Each row has the sum of all."""
    sums = net("ReduceSum", value, net.constant(np.array([1])))
    return net("Add", plain(net, value), plain(net, sums))


def reshaped(net: Net, value: str) -> str:
    """Rows have other places in between."""
    columns = net("Reshape", plain(net, value), net.constant(np.array([1, VOCABULARY, -1])))
    return net("Reshape", net("Tanh", columns), net.constant(np.array([1, -1, VOCABULARY])))


def read_twice(net: Net, value: str) -> str:
    """Its logits are computed from logits of all tokens too."""
    product = plain(net, value)
    return net("Add", product, net("Softmax", product, axis=1))


def summed(net: Net, value: str) -> str:
    """Each row depends on those before it."""
    return net("CumSum", plain(net, value), net.constant(np.array(1)))


def by_place(net: Net, value: str) -> str:
    """A bias of its own for each of the tokens."""
    return net("Add", plain(net, value), net.weight(TOKENS, 1))


def transposed(net: Net, value: str) -> str:
    return net("MatMul", net.weight(3, 1, TOKENS), net("Tanh", value))


def decoder(
    head: Callable[[Net, str], str], past: str = "past.key", logits: str = LOGITS
) -> onnx.ModelProto:
    net = Net()
    ids = net.input("input_ids", (1, "tokens"), TensorProto.INT64)
    keys = net.input(past, (1, "past", WIDTH))
    hidden = net("Gather", net.weight(VOCABULARY, WIDTH), ids)
    present = net("Concat", keys, hidden, axis=1)
    mean = net("ReduceMean", present, axes=[1])
    net.output(head(net, net("Tanh", net("Add", hidden, mean))), present)
    model = net.model()
    names = dict(zip((o.name for o in model.graph.output), (logits, "present.key"), strict=True))
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = names[output.name]
    return model


def planned(import_model: Import, model: onnx.ModelProto) -> Graph:
    shapes = {value.name: (1, 2, WIDTH) for value in model.graph.input[1:]}
    return import_model(model, {"input_ids": (1, TOKENS), **shapes})


@pytest.mark.parametrize("head", [plain, soft_capped, with_offsets])
def test_the_product_gets_the_rows_that_are_asked_for(
    import_model: Import, head: Callable[[Net, str], str]
) -> None:
    before = planned(import_model, decoder(head))
    graph = ask_rows(before)
    assert graph.inputs == (*before.inputs, Value(ROWS, "int64", (ROWS,), (TOKENS,)))
    (gather,) = (node for node in graph.nodes if ROWS in node.input)
    assert (gather.op_type, gather.attribute[0].i) == ("Gather", 1)
    users = {graph.nodes[user].op_type for user in graph.readers[gather.output[0]]}
    assert {kind for kind in users if "MatMul" in kind} == users - {"Reshape"}
    hidden, logits = (graph.values[name] for name in (gather.output[0], LOGITS))
    assert hidden.shape == (1, ROWS, WIDTH)
    assert logits.shape == (1, ROWS, VOCABULARY)
    assert (hidden.planned[1], logits.planned) == (TOKENS, before.values[LOGITS].planned)
    assert logits in graph.outputs
    assert graph.symbols[ROWS] == TOKENS
    assert graph.values[gather.input[0]].shape == (1, "tokens", WIDTH)
    assert ask_rows(graph) is graph


@pytest.mark.parametrize(
    "head", [summed, by_place, transposed, sum_of_tokens, reshaped, read_twice]
)
def test_rows_that_depend_on_others_are_all_computed(
    import_model: Import, head: Callable[[Net, str], str]
) -> None:
    graph = planned(import_model, decoder(head))
    assert ask_rows(graph) is graph


@pytest.mark.parametrize("names", [("mask", LOGITS), ("past.key", "scores")])
def test_a_model_that_is_no_decoder_stays_as_it_is(
    import_model: Import, names: tuple[str, str]
) -> None:
    graph = planned(import_model, decoder(plain, *names))
    assert ask_rows(graph) is graph


def test_a_product_is_sliced_as_for_few_rows(import_model: Import) -> None:
    graph = ask_rows(planned(import_model, decoder(plain)))
    (product,) = (node for node in graph.nodes if LOGITS in node.output)
    limit = WIDTH * VOCABULARY * 2
    assert slice_operators(graph, limit).sliced == (product.output[0],)
