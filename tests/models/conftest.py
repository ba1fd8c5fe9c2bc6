"""Ways to run a model, and a cache folder of each test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from swapnet.models import minilm

Arrays = dict[str, NDArray[Any]]
Infer = Callable[..., Arrays]


@pytest.fixture
def infer() -> Infer:
    """Runs an ``.onnx`` file on arrays given by name."""

    def run(path: Path, **inputs: NDArray[Any]) -> Arrays:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, used by this test only."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SWAPNET_CACHE", str(folder))
    return folder


@pytest.fixture
def noise() -> Callable[..., NDArray[np.float32]]:
    """Seeded normal values of a given shape."""
    random = np.random.default_rng(1)

    def draw(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape, dtype=np.float32)

    return draw


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer of whole words in place of the published one."""
    listed = {word for batch in minilm.SENTENCES for text in batch for word in text.split()}
    vocabulary = {"[PAD]": 0} | {word: index + 1 for index, word in enumerate(sorted(listed))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["[PAD]"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    monkeypatch.setattr(minilm, "member", lambda *_: path)
