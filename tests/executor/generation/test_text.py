"""Text to tokens and back, by the files of an engine directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence
from tokenizers.models import BPE

from swapnet.errors import InputError
from swapnet.executor.generation.text import Text
from tests.helpers.tokenizers import write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def test_words_become_tokens_and_come_back(folder: Path) -> None:
    text = Text(folder)
    assert text.tokens("the capital of France") == [1, 2, 3, 4]
    assert "".join(text.pieces(iter([5, 6]))) == "is Paris"
    assert text.ends == {0}


def test_special_tokens_are_not_in_the_text(folder: Path) -> None:
    assert "".join(Text(folder).pieces(iter([5, 0, 6]))) == "is Paris"


def test_bytes_that_are_no_text_do_not_end_an_answer(folder: Path) -> None:
    made = Tokenizer(BPE({"<0x66>": 0, "<0xCC>": 1, "_cc": 2}, [], byte_fallback=True))
    made.decoder = Sequence([Replace("_", " "), ByteFallback(), Fuse()])
    made.save(str(folder / "tokenizer" / "tokenizer.json"))
    assert "".join(Text(folder).pieces(iter([0, 1, 2, 2]))) == "f\N{REPLACEMENT CHARACTER} cc cc"


def test_a_chat_has_the_form_of_the_model(folder: Path) -> None:
    assert Text(folder).tokens("the capital", chat=True) == [7, 1, 2, 8]
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages[0].content }} is")
    assert Text(folder).tokens("the capital", chat=True) == [1, 2, 5]


@pytest.mark.parametrize("template", ["{{ raise_exception('no system') }}", "{% if %}"])
def test_a_form_that_can_not_be_filled_is_refused(folder: Path, template: str) -> None:
    (folder / "tokenizer" / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="chat"):
        Text(folder).tokens("the", chat=True)


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (["France"], "capital of "),
        (["of France"], "capital "),
        (["Italy", "is", "of"], "capital "),
        (["Paris again"], "capital of France is Paris"),
    ],
)
def test_text_ends_before_a_stop_that_comes_in_parts(
    folder: Path, stop: list[str], said: str
) -> None:
    tokens = iter([2, 3, 4, 5, 6])
    assert "".join(Text(folder).pieces(tokens, stop)) == said


def test_ends_are_those_of_the_most_telling_file(folder: Path) -> None:
    place = folder / "tokenizer"
    (place / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": [5, 6]}}))
    assert Text(folder).ends == {5, 6}
    for name in ("genai_config.json", "config.json"):
        (place / name).unlink()
    assert Text(folder).ends == {0}


def test_a_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no tokenizer") as caught:
        Text(tmp_path)
    assert "--prompt-ids" in caught.value.hint


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_damaged_file_is_an_error(folder: Path, name: str) -> None:
    (folder / "tokenizer" / name).write_text("{")
    with pytest.raises(InputError, match=name):
        Text(folder)


def test_a_model_without_a_form_for_a_chat_says_so(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="no form for a chat"):
        Text(folder).tokens("the", chat=True)
