from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models.bert import Bert, encoder, pooled
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights
from tests.helpers.state_dict import state_dict

Infer = Callable[..., dict[str, NDArray[Any]]]

TINY = Bert(layers=2, heads=2, hidden=8, intermediate=16, vocabulary=11, positions=12)


class Recorder(Weights):
    """Keeps what it gave."""

    def __init__(self) -> None:
        super().__init__(seed=5)
        self.given: dict[str, NDArray[np.float32]] = {}

    def tensor(
        self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0
    ) -> NDArray[np.float32]:
        self.given[name] = super().tensor(name, shape, deviation, mean)
        return self.given[name]


@pytest.fixture
def weights() -> Recorder:
    return Recorder()


@pytest.fixture
def tiny(tmp_path: Path, weights: Recorder) -> Path:
    path = tmp_path / "bert.onnx"
    with Graph(path, weights) as graph:
        tokens, mask, types = (graph.input(name, (1, 5), "int64") for name in ("t", "m", "s"))
        hidden = encoder(graph, TINY, tokens, graph.node("Cast", mask, to=1), types)
        pooler = pooled(graph, TINY, hidden)
        graph.output("hidden", hidden, (1, 5, 8))
        graph.output("pooled", pooler, (1, 8))
        graph.save()
    return path


def reference(
    state: dict[str, NDArray[np.float32]],
    tokens: NDArray[np.int64],
    mask: NDArray[np.int64],
    types: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The layers of `TINY` for one text, as Hugging Face's ``BertModel`` has them."""
    tensors = {name: values.astype(np.float64) for name, values in state.items()}

    def linear(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        return value @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = value - value.mean(axis=-1, keepdims=True)
        value = centred / np.sqrt(value.var(axis=-1, keepdims=True) + 1e-12)
        return value * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def heads(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        return linear(name, value).reshape(len(value), 2, 4).transpose(1, 0, 2)

    words, segments, places = (
        tensors[f"embeddings.{kind}_embeddings.weight"]
        for kind in ("word", "token_type", "position")
    )
    value = norm("embeddings.LayerNorm", words[tokens] + segments[types] + places[: len(tokens)])
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        query, key, content = (
            heads(f"{name}.attention.self.{kind}", value) for kind in ("query", "key", "value")
        )
        powers = np.exp(query @ key.transpose(0, 2, 1) / 2) * mask
        shares = powers / powers.sum(axis=-1, keepdims=True)
        attended = (shares @ content).transpose(1, 0, 2).reshape(len(value), 8)
        attended = linear(f"{name}.attention.output.dense", attended)
        value = norm(f"{name}.attention.output.LayerNorm", attended + value)
        wide = linear(f"{name}.intermediate.dense", value)
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        value = norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", wide) + value)
    return value, np.tanh(linear("pooler.dense", value[0]))


def test_is_the_network_of_the_paper(tiny: Path, infer: Infer) -> None:
    onnx.checker.check_model(tiny, full_check=True)
    tokens, mask, types = np.array([[1, 2, 3, 0, 7], [1, 1, 1, 0, 1], [0, 0, 1, 1, 1]])
    outputs = infer(tiny, t=tokens[None], m=mask[None], s=types[None])
    hidden, first = reference(state_dict(tiny), tokens, mask, types)
    np.testing.assert_allclose(outputs["hidden"][0], hidden, atol=1e-5)
    np.testing.assert_allclose(outputs["pooled"][0], first, atol=1e-5)


def test_state_dict_is_what_was_given(tiny: Path, weights: Recorder) -> None:
    state = state_dict(tiny)
    assert list(state) == list(weights.given)
    for name, values in state.items():
        np.testing.assert_array_equal(values, weights.given[name])
    assert state["encoder.layer.0.intermediate.dense.weight"].shape == (16, 8)
