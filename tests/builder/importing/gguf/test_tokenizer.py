from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from swapnet.builder.importing.gguf.file import GGUF
from swapnet.builder.importing.gguf.tokenizer import write_tokenizer
from swapnet.errors import ModelError
from tests.helpers.gguf_files import CHAT, WORDS, write_gguf


def tokenizer(folder: Path, **options: Any) -> Tokenizer:
    write_tokenizer(GGUF(write_gguf(folder / "tiny.gguf", **options)), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def words(made: Tokenizer, text: str) -> list[str]:
    return [WORDS[number] for number in made.encode(text).ids]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("gpt-2", ["hello", "Ġhello", "Ġ", "123"]),
        ("smollm", ["hello", "Ġhello", "Ġ", "1", "2", "3"]),
        ("llama-bpe", ["<|start|>", "hello", "Ġhello", "Ġ", "123"]),
        ("qwen2", ["hello", "Ġhello", "Ġ", "1", "2", "3"]),
    ],
)
def test_texts_are_split_as_the_model_learnt_them(
    split: str, expected: list[str], tmp_path: Path
) -> None:
    made = tokenizer(tmp_path, split=split)
    assert words(made, "hello hello 123") == expected
    numbers = made.encode("Größe, 1 €\n\n  ?").ids
    assert made.decode(numbers) == "Größe, 1 €\n\n  ?"


def test_special_tokens_are_found_in_a_text_and_left_out_of_one(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    assert words(made, "<|start|>hello<|end|>") == ["<|start|>", "hello", "<|end|>"]
    assert made.decode(made.encode("<|start|>hello<|end|>").ids) == "hello"


def test_a_text_begins_with_a_token_where_the_file_says_so(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, values={"tokenizer.ggml.add_bos_token": True})
    assert words(made, "hello") == ["<|start|>", "hello"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["bos_token"] == "<|start|>"
    assert config["eos_token"] == "<|end|>"
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes().replace(b"he ll", b"heell"))
    with pytest.raises(ModelError, match="its tokenizer is damaged"):
        write_tokenizer(GGUF(file), tmp_path)


def test_a_token_that_does_not_exist_ends_no_text(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its token 9999 ends a text"):
        tokenizer(tmp_path, values={"tokenizer.ggml.eos_token_id": 9999})
