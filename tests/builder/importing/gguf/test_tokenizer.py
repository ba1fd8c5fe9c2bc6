from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from swapnet.builder.importing.gguf.file import GGUF
from swapnet.builder.importing.gguf.tokenizer import write_tokenizer
from swapnet.errors import ModelError
from tests.helpers.gguf_files import CHAT, PIECES, SPACE, WORDS, write_gguf


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


def joined(text: str) -> list[int]:
    """Tokens by the definition of SentencePiece: the best neighbours are joined, one by one."""
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    pieces = [*text.replace(" ", SPACE)]
    while found := [
        (numbers[first + second], place)
        for place, (first, second) in enumerate(pairwise(pieces))
        if numbers.get(first + second, 0) >= 260
    ]:
        _, place = min(found)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    ids = [[numbers[p]] if p in numbers else [4 + byte for byte in p.encode()] for p in pieces]
    return [number for part in ids for number in part]


@pytest.mark.parametrize("prefix", ["", " "])
def test_pieces_are_joined_as_sentencepiece_joins_them(prefix: str, tmp_path: Path) -> None:
    values = {"tokenizer.ggml.add_space_prefix": bool(prefix)}
    made = tokenizer(tmp_path, split="pieces", values=values)
    random = np.random.default_rng(5)
    letters = [*"aaabbbccc   hello", "\n", "\N{EURO SIGN}", "\N{GRINNING FACE}", "\u00e9"]
    for length in range(1, 100, 2):
        text = "".join(random.choice(letters, length))
        ids = made.encode(text).ids
        assert ids == [1, *joined(prefix + text)]
        assert made.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1]),
        (" ", [1, 260]),
        ("hello", [1, 456]),
        ("hello world  111", [1, 456, 458, 459, 460, 260, 462, 482]),
        ("<s>hello</s> world", [1, 1, 456, 2, 260, 481, 459, 460]),
        ("<|user|>hello <|user|> hello", [1, 3, 456, 471, 3, 260, 457]),
        ("\xe9\u20ac\U0001f600", [1, 471, 488, 230, 134, 176, 244, 163, 156, 132]),
        ("abcab cab   bca", [1, 452, 266, 267, 473, 261, 416]),
        ("<unk> a", [1, 0, 306]),
        ("< s", [1, 463, 471, 487]),
        ("\n\n         a", [1, 471, 14, 14, 262, 260, 261, 472]),
    ],
)
def test_tokens_of_pieces_are_those_of_llama_cpp(
    text: str, expected: list[int], tmp_path: Path
) -> None:
    assert tokenizer(tmp_path, split="pieces").encode(text).ids == expected


def test_characters_without_a_token_are_unknown_where_there_are_no_bytes(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", split="pieces")
    file.write_bytes(file.read_bytes().replace(b"ggml.token_type", b"ggml.token_tipe"))
    write_tokenizer(GGUF(file), tmp_path)
    made = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    euro = "\N{EURO SIGN}"
    assert made.encode(f"hello{euro}{euro}").ids == [1, PIECES.index(f"{SPACE}hello"), 0]


def test_pieces_without_scores_are_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", split="pieces")
    file.write_bytes(file.read_bytes().replace(b"ggml.scores", b"ggml.skores"))
    with pytest.raises(ModelError, match=r"its tokenizer.ggml.scores is None"):
        write_tokenizer(GGUF(file), tmp_path)
