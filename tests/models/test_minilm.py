from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models import minilm
from swapnet.models.bert import Bert
from swapnet.models.graph import Graph
from swapnet.models.minilm import sentences
from swapnet.models.weights import Weights

Infer = Callable[..., dict[str, NDArray[Any]]]

TINY = Bert(layers=2, heads=2, hidden=8, intermediate=16, vocabulary=11, positions=12)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "bert.onnx"
    with Graph(path, Weights()) as graph:
        tokens, mask, types = (
            graph.input(name, ("batch", "sequence"), "int64") for name in ("t", "m", "s")
        )
        graph.output("embedding", sentences(graph, TINY, tokens, mask, types), ("batch", 8))
        graph.save()
    return path


def test_embeddings_have_length_1(tiny: Path, infer: Infer) -> None:
    onnx.checker.check_model(tiny, full_check=True)
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    embedding = infer(tiny, t=tokens, m=np.ones_like(tokens), s=np.zeros_like(tokens))["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    assert abs(embedding[0] @ embedding[1]) < 0.999


def test_padding_changes_nothing(tiny: Path, infer: Infer) -> None:
    tokens = np.array([[1, 2, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 0, 0]])
    types = np.zeros_like(tokens)
    padded = infer(tiny, t=tokens, m=mask, s=types)["embedding"]
    plain = infer(tiny, t=tokens[:, :3], m=mask[:, :3], s=types[:, :3])["embedding"]
    np.testing.assert_allclose(padded, plain, atol=1e-6)


def test_positions_matter(tiny: Path, infer: Infer) -> None:
    tokens = np.array([[1, 2, 3], [3, 2, 1]])
    one, other = infer(tiny, t=tokens, m=np.ones_like(tokens), s=np.zeros_like(tokens))["embedding"]
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.usefixtures("words")
def test_samples_are_padded_tokens() -> None:
    samples = minilm.samples()
    longest = max(len(text.split()) for batch in minilm.SENTENCES for text in batch)
    for array in samples.values():
        assert array.shape == (len(minilm.SENTENCES), 6, longest)
        assert array.dtype == np.int64
    lengths = [[len(text.split()) for text in batch] for batch in minilm.SENTENCES]
    assert samples["attention_mask"].sum(axis=2).tolist() == lengths


@pytest.mark.usefixtures("words")
def test_reads_the_closest_first() -> None:
    inputs = {name: array[0, :3] for name, array in minilm.samples().items()}
    embedding = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    assert minilm.read(inputs, {"embedding": embedding}).splitlines() == [
        'Closest to "A man is eating pasta.":',
        ' 0.60  "Someone is having lunch."',
        ' 0.00  "A man is eating food."',
    ]


def test_makes_the_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    asked: dict[str, NDArray[np.float32]] = {}

    class Recorder(Weights):
        def tensor(
            self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0
        ) -> NDArray[np.float32]:
            asked[name] = super().tensor(name, shape, deviation, mean)
            return asked[name]

    with Graph(tmp_path / "seeded.onnx", Recorder()) as graph:
        sentences(graph, TINY, *(graph.input(name, (1, 3), "int64") for name in ("t", "m", "s")))
        graph.save()
    save_file(asked, tmp_path / "weights.safetensors")
    monkeypatch.setattr(minilm, "MINILM", TINY)
    parameters = minilm.make(tmp_path / "stored.onnx", tmp_path / "weights.safetensors")
    assert parameters == sum(values.size for values in asked.values())
    data = [(tmp_path / f"{name}.onnx.data").read_bytes() for name in ("seeded", "stored")]
    assert data[0] == data[1]
    assert "encoder.layer.1.attention.output.LayerNorm.bias" in asked
