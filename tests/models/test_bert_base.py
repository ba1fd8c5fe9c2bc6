from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.models import bert_base, minilm
from swapnet.models.bert import Bert
from swapnet.models.classifier import SEEDED
from tests.helpers.state_dict import state_dict

TINY = Bert(layers=1, heads=2, hidden=8, intermediate=16, vocabulary=11, positions=130)


def test_makes_both_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert_base, "BERT_BASE", TINY)
    path = tmp_path / "tiny.onnx"
    parameters = bert_base.make(path, None)
    assert parameters == sum(values.size for values in state_dict(path).values())
    graph = onnx.load(path, load_external_data=False).graph
    assert [port.name for port in graph.output] == ["last_hidden_state", "pooler_output"]
    assert [port.name for port in graph.input] == [
        *("input_ids", "attention_mask", "token_type_ids")
    ]


@pytest.mark.usefixtures("words")
def test_samples_are_of_one_length() -> None:
    samples = bert_base.samples()
    for array in samples.values():
        assert array.shape == (len(minilm.SENTENCES), 1, 128)
        assert array.dtype == np.int64
    lengths = [sum(len(text.split()) for text in group) for group in minilm.SENTENCES]
    assert samples["attention_mask"].sum(axis=(1, 2)).tolist() == lengths


def test_reads_the_strongest_features() -> None:
    features = np.array([[0.1, -0.9, 0.2, 0.3, 0.4, 0.5]], np.float32)
    mask = np.array([[1, 1, 0]])
    hidden = np.array([[[1, -1], [1, -1], [9, 9]]], np.float32)
    text = bert_base.read(
        {"attention_mask": mask}, {"last_hidden_state": hidden, "pooler_output": features}
    )
    first, note = text.splitlines()
    assert first.startswith("2 tokens, hidden states of deviation 1.000")
    assert first.endswith("1 -0.900, 5 +0.500, 4 +0.400, 3 +0.300, 2 +0.200")
    assert note == SEEDED
