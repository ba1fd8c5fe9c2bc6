"""``swapnet generate``, from a folder that an exporter wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from swapnet import Generator, build
from swapnet.cli.generate import command
from swapnet.executor.generation.text import Text
from tests.cli.conftest import Call, Start
from tests.helpers.decoders import VOCABULARY, grouped, named
from tests.helpers.engines import Engine
from tests.helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

CONTEXT = 24
USUAL = {"--budget": "100%", "--context": CONTEXT}
QUICK = (*(word for option in USUAL.items() for word in option), "--no-measure")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "decoder-1.7B"
    folder.mkdir()
    onnx.save(named(grouped()), folder / "model.onnx")
    write_tokenizer(folder, vocabulary=VOCABULARY)
    return folder


@pytest.fixture(scope="module")
def decoder(model: Path) -> Path:
    build(model, model.parent / "engine")
    return model.parent / "engine"


@pytest.fixture(scope="module")
def tokens(decoder: Path) -> list[int]:
    """Greedy tokens after ``the capital``."""
    with Generator(decoder, "100%", CONTEXT) as generator:
        return list(generator([1, 2], max_tokens=5, stop=[0]))


def test_a_folder_is_built_with_its_tokenizer_and_again(
    call: Call, model: Path, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = tmp_path / "engines" / "decoder-1.7B"
    shutil.copytree(decoder, engine)
    (engine / "tokenizer" / "tokenizer.json").unlink()
    built = call("build", model, "--backend", "onnxruntime", "--no-measure")
    assert built.status == 0
    assert Text(engine).tokens("the capital") == [1, 2]


def test_text_comes_on_stdout_and_figures_on_stderr(
    call: Call, decoder: Path, tokens: list[int]
) -> None:
    said = call("generate", decoder, *QUICK, "--prompt", "the capital", "--max-tokens", 5)
    assert said.status == 0
    text = Text(decoder)
    assert said.out == "".join(text.pieces(iter(tokens))) + "\n"
    for words in ("2 tokens of the prompt", "a second", "read for a token", "cache of 24 tokens"):
        assert words in said.err
    said = call("generate", decoder, *QUICK, "--prompt", "the capital", "--max-tokens", 1)
    assert "; 1 of the answer\n" in said.err
    assert "for a token" not in said.err


def test_numbers_need_no_tokenizer(call: Call, decoder: Path, tokens: list[int]) -> None:
    said = call("generate", decoder, *QUICK, "--prompt-ids", "1,2", "--max-tokens", 5, "-q")
    assert said.out.split() == [str(token) for token in tokens]
    assert said.err == ""


def test_figures_are_written_and_the_process_keeps_its_budget(
    start: Start, decoder: Path, tokens: list[int]
) -> None:
    options = ("--prompt-ids", "1,2", "--max-tokens", 5, "--json", "-")
    process = start("generate", decoder, *QUICK, *options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    record: dict[str, Any] = json.loads(out)
    assert record["tokens"] == tokens
    assert record["text"] is None
    assert record["peak_bytes"] < record["budget_bytes"]
    assert 0 < record["cache_bytes"] < record["planned_bytes"] <= record["budget_bytes"]
    assert record["tokens_per_s"] > 0
    assert record["first_token_ms"] > 0


def test_several_prompts_are_answered_together(
    call: Call, decoder: Path, tokens: list[int]
) -> None:
    two = ("--conversations", 2, "--max-tokens", 5)
    asked = ("generate", decoder, *QUICK, *two, "--prompt-ids", "1,2", "--prompt-ids", "3")
    said = call(*asked)
    numbers = "".join(f"{token} " for token in tokens)
    assert f"--- 1: [1, 2]\n{numbers}\n\n" in said.out
    assert said.out.startswith("--- ")
    for words in (
        "10 tokens after 2 prompts, ",
        " a second together",
        "2 caches of 24 tokens: 36KiB",
    ):
        assert words in said.err
    record = json.loads(call(*asked, "--json", "-").out)
    assert [answer["prompt_tokens"] for answer in record["answers"]] == [2, 1]
    assert record["answers"][0]["tokens"] == tokens
    assert record["tokens_per_s"] > 0
    assert record["conversations"] == 2
    three = [word for _ in range(3) for word in ("--prompt", "the capital")]
    text = "".join(Text(decoder).pieces(iter(tokens)))
    said = call("generate", decoder, *QUICK, *two, *three)
    assert said.out == "".join(f"--- {n}: the capital\n{text}\n\n" for n in (1, 2, 3))


def test_drafted_tokens_are_told(call: Call, decoder: Path) -> None:
    options = ("--prompt-ids", "5,6,5,6,5,6", "--draft", "ngram", "--json", "-", "-q")
    record = json.loads(call("generate", decoder, *QUICK, *options).out)
    assert 0 < record["accepted"] < len(record["tokens"]) == CONTEXT - 6 + 1


def test_a_chat_ends_before_a_stop(call: Call, decoder: Path) -> None:
    asked = ("generate", decoder, *QUICK, "--prompt", "the capital", "--chat", "--max-tokens", 6)
    said = call(*asked).out.split()
    assert len(said) == 6
    assert call(*asked, "--stop", f" {said[2]}").out.split() == said[:2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no prompt is given"),
        (("--prompt", "the", "--prompt-ids", "1"), "text and tokens are given"),
        (("--prompt-ids", "1,x"), "1,x is invalid"),
        (("--prompt-ids", "1", "--chat"), "--chat is of text"),
        (("--prompt-ids", "1", "--stop", "the"), "--stop is of text"),
        (("--prompt", "the " * 25), "a prompt of 25 tokens"),
        (("--prompt-ids", "1", "--top-p", "2"), "top_p can't be 2"),
        (("--prompt-ids", "1", "--context", "0"), "context can't be 0"),
        (("--prompt-ids", "1", "--conversations", "0"), "conversations can't be 0"),
        (("--prompt-ids", "1", "--conversations", "7", "--draft", "auto"), "7 are asked for"),
        (("--prompt-ids", "1", "--state", "x"), "the state 'x' is invalid"),
        (("--prompt-ids", "1", "--budget", "1MiB"), "cache of 24 tokens"),
    ],
)
def test_wrong_options_are_one_error(
    call: Call, decoder: Path, options: tuple[str, ...], words: str
) -> None:
    usual = [word for option in USUAL.items() if option[0] not in options for word in option]
    assert call("generate", decoder, *usual, "--no-measure", *options).is_user_error(words)


def test_a_model_without_a_cache_is_refused(call: Call, toy: Engine) -> None:
    asked = ("generate", toy.folder, *QUICK, "--prompt-ids", "1")
    assert call(*asked).is_user_error("has no cache", "--state")


def test_a_tokenizer_that_is_missing_is_named(call: Call, decoder: Path, tmp_path: Path) -> None:
    engine = shutil.copytree(
        decoder, tmp_path / "engine", ignore=shutil.ignore_patterns("tokenizer")
    )
    asked = ("generate", engine, *QUICK, "--prompt", "the")
    assert call(*asked).is_user_error("has no tokenizer", "--prompt-ids")


def test_a_plan_says_what_the_cache_takes(call: Call, decoder: Path) -> None:
    asked = ("plan", decoder, "--context", CONTEXT, "--no-measure")
    assert "cache of 24 tokens: 18KiB" in call(*asked).out
    plans = json.loads(call(*asked, "--json", "-").out)
    assert {plan["cache_bytes"] for plan in plans} == {18 << 10}
    assert call(*asked, "--dims", "batch_size=1").is_user_error("--context")
    assert call(*asked, "--budget", "1MiB").is_user_error("cache of 24 tokens")
    assert "2 caches of 24 tokens: 36KiB" in call(*asked, "--conversations", 2).out
    for option in ("--conversations", "--state"):
        assert call("plan", decoder, option, 2).is_user_error(f"{option} is of a cache")


def test_the_default_context_is_that_of_the_library() -> None:
    option = next(option for option in command.params if option.name == "context")
    from swapnet.executor.state import CONTEXT as DEFAULT

    assert option.default == DEFAULT
