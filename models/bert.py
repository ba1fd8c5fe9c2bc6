"""The BERT encoder (Devlin et al., 2018) as an ONNX graph.

Architecture, layer by layer:

- Embeddings of words, segments and positions are added and normalised.
- Attention of `heads` heads: queries times keys over the square root of the width of a head;
  -10000 is added to the score of each padding token, and its share is then exactly 0 in float32
  (as with the lowest float that Hugging Face adds, if a row has at least one other token).
- Post-LN: the sum of a sublayer and its input is normalised, with an epsilon of 1e-12.
- The feed-forward sublayer has the exact GELU, by the error function.

Parameter names are those of Hugging Face's ``BertModel``; weights of linear layers are stored
transposed, as MatMul wants them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swapnet.models.graph import Graph

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["INPUTS", "Bert", "axes", "encoder", "pooled", "token_arrays"]

INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Inputs of an encoder, and the attributes of a tokenizer's encoding that they are made from."""

# Added to the score of a padding token; small enough for float16, and exp of it is 0.
_MASKED = -10000.0


@dataclass(frozen=True)
class Bert:
    """Sizes of a BERT encoder."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int = 2


def encoder(graph: Graph, size: Bert, tokens: str, present: str, types: str) -> str:
    """Write an encoder, and return its last hidden state, (N, tokens, hidden), float32.

    Parameters
    ----------
    tokens, types
        Token indices and segment indices, each (N, tokens), int64.
    present
        1 for a token and 0 for padding, (N, tokens), float32.
    """
    ones = graph.constant(1.0, "float32")
    hidden = _embeddings(graph, size, tokens, types)
    padding = graph.node("Sub", ones, graph.node("Unsqueeze", present, axes(graph, 1, 2)))
    padding = graph.node("Mul", padding, graph.constant(_MASKED, "float32"))
    for layer in range(size.layers):
        hidden = _layer(graph, size, f"encoder.layer.{layer}", hidden, padding)
    return hidden


def pooled(graph: Graph, size: Bert, hidden: str) -> str:
    """Write the pooler, the tanh of a linear layer of the first token; return (N, hidden)."""
    first = graph.node("Gather", hidden, graph.constant(0, "int64"), axis=1)
    features = (size.hidden, size.hidden)
    return graph.node("Tanh", graph.gemm(first, "pooler.dense", features, gain=1.0))


def token_arrays(encoded: Iterable[Encoding], *shape: int) -> dict[str, NDArray[np.generic]]:
    """Return encoded texts as `INPUTS` of a shape, int64."""
    texts = list(encoded)
    return {
        name: np.array([getattr(text, field) for text in texts], np.int64).reshape(shape)
        for name, field in INPUTS.items()
    }


def axes(graph: Graph, *listed: int) -> str:
    """Add the constant for the axes of an operator."""
    return graph.constant(listed, "int64")


def _embeddings(graph: Graph, size: Bert, tokens: str, types: str) -> str:
    def rows(kind: str, count: int, indices: str) -> str:
        table = graph.weight(f"embeddings.{kind}_embeddings.weight", (count, size.hidden), 1.0)
        return graph.node("Gather", table, indices)

    length = graph.node("Shape", tokens, start=1, end=2)
    positions = graph.constant(np.arange(size.positions), "int64")
    positions = graph.node("Slice", positions, axes(graph, 0), length)
    total = graph.node(
        "Add", rows("word", size.vocabulary, tokens), rows("token_type", size.types, types)
    )
    total = graph.node("Add", total, rows("position", size.positions, positions))
    return _norm(graph, "embeddings.LayerNorm", size.hidden, total)


def _layer(graph: Graph, size: Bert, name: str, hidden: str, padding: str) -> str:
    attended = _attention(graph, size, f"{name}.attention.self", hidden, padding)
    attended = _linear(
        graph, f"{name}.attention.output.dense", (size.hidden, size.hidden), attended
    )
    hidden = graph.node("Add", attended, hidden)
    hidden = _norm(graph, f"{name}.attention.output.LayerNorm", size.hidden, hidden)
    wide = _linear(graph, f"{name}.intermediate.dense", (size.hidden, size.intermediate), hidden)
    narrow = _linear(
        graph, f"{name}.output.dense", (size.intermediate, size.hidden), _gelu(graph, wide)
    )
    return _norm(graph, f"{name}.output.LayerNorm", size.hidden, graph.node("Add", narrow, hidden))


def _attention(graph: Graph, size: Bert, name: str, hidden: str, padding: str) -> str:
    width = size.hidden // size.heads

    def heads(kind: str, order: tuple[int, ...]) -> str:
        value = _linear(graph, f"{name}.{kind}", (size.hidden, size.hidden), hidden)
        value = graph.node("Reshape", value, graph.constant([0, 0, size.heads, width], "int64"))
        return graph.node("Transpose", value, perm=order)

    query, key = heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1))
    scores = graph.node(
        "Div", graph.node("MatMul", query, key), graph.constant(math.sqrt(width), "float32")
    )
    shares = graph.node("Softmax", graph.node("Add", scores, padding), axis=-1)
    value = graph.node("MatMul", shares, heads("value", (0, 2, 1, 3)))
    value = graph.node("Transpose", value, perm=(0, 2, 1, 3))
    return graph.node("Reshape", value, graph.constant([0, 0, size.hidden], "int64"))


def _gelu(graph: Graph, value: str) -> str:
    curve = graph.node("Erf", graph.node("Div", value, graph.constant(math.sqrt(2), "float32")))
    curve = graph.node("Add", curve, graph.constant(1.0, "float32"))
    return graph.node("Mul", graph.node("Mul", value, curve), graph.constant(0.5, "float32"))


def _linear(graph: Graph, name: str, features: tuple[int, int], value: str) -> str:
    before, after = features
    weight = graph.weight(f"{name}.weight", (after, before), 1 / math.sqrt(before), transposed=True)
    return graph.node(
        "Add", graph.node("MatMul", value, weight), graph.weight(f"{name}.bias", (after,), 0.1)
    )


def _norm(graph: Graph, name: str, features: int, value: str) -> str:
    return graph.node(
        "LayerNormalization",
        value,
        graph.weight(f"{name}.weight", (features,), 0.1, 1.0),
        graph.weight(f"{name}.bias", (features,), 0.1),
        epsilon=1e-12,
    )
