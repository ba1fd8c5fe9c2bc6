"""BERT-base, uncased (Devlin et al., 2018): tokens in, hidden states out, seeded weights.

Sizes and names are those of Hugging Face's ``BertModel``: 12 layers, 12 heads, hidden 768,
feed-forward 3072, vocabulary 30522, 512 positions. `swapnet.models.bert` describes the layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.models.bert import INPUTS, Bert, encoder, pooled, token_arrays
from swapnet.models.classifier import SEEDED, Tensors
from swapnet.models.graph import Graph
from swapnet.models.minilm import SENTENCES, tokenizer
from swapnet.models.weights import Weights

__all__ = ["BERT_BASE", "TOKENS", "make", "read", "samples"]

BERT_BASE = Bert(
    layers=12, heads=12, hidden=768, intermediate=3072, vocabulary=30522, positions=512
)
"""Sizes of BERT-base."""

TOKENS = 128
"""Length of the input; shorter texts are padded."""


def make(path: Path, weights: Path | None) -> int:
    """Write the network to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights, seed=768)) as graph:
        tokens, mask, types = (graph.input(name, (1, TOKENS), "int64") for name in INPUTS)
        hidden = encoder(graph, BERT_BASE, tokens, graph.node("Cast", mask, to=1), types)
        pooler = pooled(graph, BERT_BASE, hidden)
        graph.output("last_hidden_state", hidden, (1, TOKENS, BERT_BASE.hidden))
        graph.output("pooler_output", pooler, (1, BERT_BASE.hidden))
        return graph.save()


def samples() -> dict[str, NDArray[np.generic]]:
    """Return each group of `SENTENCES` as one padded text: `INPUTS`, (samples, 1, 128), int64."""
    words = tokenizer()
    words.enable_truncation(TOKENS)
    words.enable_padding(length=TOKENS)
    encoded = words.encode_batch([" ".join(group) for group in SENTENCES])
    return token_arrays(encoded, len(SENTENCES), 1, TOKENS)


def read(inputs: Tensors, outputs: Tensors) -> str:
    """Read the outputs: how long each text is, and its strongest pooled features."""
    lines = []
    for mask, hidden, features in zip(
        inputs["attention_mask"],
        outputs["last_hidden_state"],
        outputs["pooler_output"],
        strict=True,
    ):
        count = np.count_nonzero(mask)
        best = np.argsort(-np.abs(features), kind="stable")[:5]
        strongest = ", ".join(f"{index} {features[index]:+.3f}" for index in best)
        lines.append(
            f"{count} tokens, hidden states of deviation {hidden[:count].std():.3f}, "
            f"strongest pooled features {strongest}"
        )
    return "\n".join([*lines, SEEDED])
