"""A tokenizer of a few words, as a language model's folder holds it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

__all__ = ["WORDS", "write_tokenizer"]

WORDS = ("<end>", "the", "capital", "of", "France", "is", "Paris", "user", "assistant")

_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def write_tokenizer(folder: Path, *, vocabulary: int = len(WORDS)) -> None:
    """Write its files; numbers above those of `WORDS` are tokens ``w9`` and so on."""
    words = [*WORDS, *(f"w{number}" for number in range(len(WORDS), vocabulary))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": {"content": "<end>"}, "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 0}))
