"""``swapnet generate``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.cli.console import say, write_json
from swapnet.cli.engine import open_engine, tell_of_auto, tell_of_reading, with_delays
from swapnet.cli.options import (
    budget_option,
    conversations_option,
    custom_ops_option,
    engine_argument,
    load_mode_option,
    measure_option,
    state_option,
    threads_option,
)
from swapnet.errors import InputError
from swapnet.executor.engine import Engine
from swapnet.executor.generation.draft import Draft, check_draft
from swapnet.executor.generation.generator import Generator, asked_rows
from swapnet.executor.generation.text import Text
from swapnet.files import check_writable
from swapnet.machine import anonymous_bytes, forget_peak, peak_anonymous_bytes
from swapnet.units import format_size

__all__ = ["command"]


def _numbers(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> list[list[int]]:
    try:
        return [[int(number) for number in each.split(",")] for each in value]
    except ValueError:
        raise InputError(
            f"--prompt-ids {' '.join(value)} is invalid",
            why="it must be numbers of tokens",
            hint="give it like --prompt-ids 1,2,3",
        ) from None


@click.command("generate")
@engine_argument
@budget_option
@click.option(
    "--context",
    type=int,
    default=512,
    show_default=True,
    metavar="N",
    help="Most tokens of prompt and answer together.",
)
@click.option("--prompt", multiple=True, metavar="TEXT", help="Text to continue; can be repeated.")
@click.option(
    "--prompt-ids",
    multiple=True,
    metavar="1,2,3",
    callback=_numbers,
    help="Tokens to continue, for an engine without a tokenizer.",
)
@click.option("--chat", is_flag=True, help="Give the prompt as a question, in the model's form.")
@click.option(
    "--max-tokens", type=int, metavar="N", help="Most tokens. [default: until the context is full]"
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="Randomness: 0 takes the most likely token each time.",
)
@click.option("--top-k", type=int, metavar="N", default=0, help="Choose among the N likeliest.")
@click.option(
    "--top-p", type=float, default=1.0, help="Choose among the likeliest of this probability."
)
@click.option("--seed", type=int, metavar="N", help="Seed of random choices.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End before this text; can be repeated."
)
@click.option(
    "--draft",
    type=click.Choice(("ngram", "auto")),
    help="Compute what followed the last tokens before together with the next token: always, or "
    "where a gain is expected.",
)
@click.option(
    "--json", "json_target", metavar="FILE", help="Write tokens and figures; - for stdout."
)
@conversations_option
@state_option
@measure_option
@threads_option
@load_mode_option
@custom_ops_option
def command(
    engine: Path,
    budget: str,
    context: int,
    prompt: tuple[str, ...],
    prompt_ids: list[list[int]],
    chat: bool,
    max_tokens: int | None,
    stop: tuple[str, ...],
    draft: Draft | None,
    json_target: str | None,
    conversations: int,
    state: str,
    measure: bool,
    threads: int | None,
    load_mode: str,
    **choice: Any,
) -> None:
    """Continue texts with the language model in the engine DIR, inside a budget.

    Tokens are printed as they come, of several prompts one answer after the other. An answer ends
    at a token that the model means so, at --stop, or where the context is full.
    """
    parsed = Budget.parse(budget)
    check_writable(json_target)
    if bool(prompt) == bool(prompt_ids):
        raise InputError(
            "text and tokens are given" if prompt else "no prompt is given",
            why="--prompt is text, and --prompt-ids are tokens",
            hint="give one of them",
        )
    if not prompt and (chat or stop):
        raise InputError(
            f"{'--chat' if chat else '--stop'} is of text",
            why="--prompt-ids are tokens",
            hint="give --prompt, or leave it out",
        )
    check_draft(draft or "", conversations)
    Engine.open(engine)
    text = Text(engine) if prompt else None
    own = bool(click.get_current_context().obj)
    kept: dict[str, Any] = {"context": context, "conversations": conversations}
    rows = asked_rows(draft or "")
    opened = open_engine(engine, {}, None, threads, own=own, state=state, rows=rows, **kept)
    ids = [text.tokens(each, chat=chat) for each in prompt] if text else prompt_ids
    tell_of_reading(parsed, opened, load_mode)
    opened = with_delays(opened, load_mode, measure=measure, name=str(engine))
    before = anonymous_bytes()
    forget_peak()
    kept["draft"] = draft or ""
    with Generator(opened, parsed, state=state, load_mode=load_mode, **kept) as generator:
        ends = text.ends if text else ()
        show = click.echo if json_target != "-" else lambda *_, **__: None
        begun = time.perf_counter()
        answers = [generator.submit(e, max_tokens=max_tokens, stop=ends, **choice) for e in ids]
        made: list[dict[str, Any]] = []
        for asked, answer in zip(prompt or prompt_ids, answers, strict=True):
            if len(ids) > 1:
                show(f"--- {len(made) + 1}: {asked}")
            tokens: list[int] = []
            said = ""
            for piece in _pieces(answer, tokens, text, stop):
                said += piece
                show(piece, nl=False)
            answer.cancel()
            show("\n" if len(ids) > 1 else "")
            figures = asdict(answer.generated)
            made.append({**figures, "tokens": tokens, "text": said if text else None})
        record = _record(generator, made, time.perf_counter() - begun)
        record["peak_bytes"] = peak_anonymous_bytes() - before
    if json_target:
        write_json(record, json_target)
    if json_target == "-":
        return
    tell_of_auto(parsed, record["budget_bytes"], opened)
    for line in _summary(record):
        say(line)


def _pieces(
    tokens: Iterator[int], taken: list[int], text: Text | None, stop: tuple[str, ...]
) -> Iterator[str]:
    """Text of tokens as they come, or their numbers; the tokens are added to ``taken``."""

    def noted() -> Iterator[int]:
        for token in tokens:
            taken.append(token)
            yield token

    if text is not None:
        yield from text.pieces(noted(), stop)
    else:
        for token in noted():
            yield f"{token} "


def _record(generator: Generator, made: list[dict[str, Any]], elapsed_s: float) -> dict[str, Any]:
    """Figures; of several prompts those of each, and their tokens in a second together."""
    count = sum(len(each["tokens"]) for each in made)
    executor = generator.executor
    plan, storage, cache = executor.plan, executor.engine.delays.storage, executor.engine.cache
    assert cache is not None
    return {
        "schema": "swapnet-generate/1",
        "model": executor.manifest.source.name,
        "budget_bytes": plan.budget_bytes,
        "planned_bytes": plan.planned_bytes,
        "context": cache.context,
        "conversations": cache.conversations,
        "cache_bytes": cache.nbytes,
        "cache": str(cache),
        "bound_ms_per_token": plan.streamed_bytes / storage.bytes_per_s * 1e3,
        "storage_bytes_per_s": storage.bytes_per_s,
        "delays_are_assumed": executor.engine.measured.is_assumed,
        **(made[0] if len(made) == 1 else {"answers": made, "tokens_per_s": count / elapsed_s}),
    }


def _summary(record: dict[str, Any]) -> Iterator[str]:
    if answers := record.get("answers"):
        count = sum(len(each["tokens"]) for each in answers)
        yield (
            f"{count} tokens after {len(answers)} prompts, {record['tokens_per_s']:.1f} a second "
            "together, with the time of the prompts"
        )
    is_timed = not answers and record["tokens_per_s"] > 0
    if not answers:
        yield (
            f"{record['prompt_tokens']} tokens of the prompt, the first one after them in "
            f"{record['first_token_ms']:.0f} ms; {len(record['tokens'])} of the answer"
            + (f", {record['tokens_per_s']:.1f} a second after the first" if is_timed else "")
            + (f", {record['accepted']} of them drafted" if record["accepted"] else "")
        )
    if is_timed:
        yield (
            f"{format_size(round(record['read_bytes_per_token']))} read for a token, which takes "
            f"{record['bound_ms_per_token']:.1f} ms at least, at "
            f"{record['storage_bytes_per_s'] / 1e6:.0f} MB/s"
            + (" (assumed)" if record["delays_are_assumed"] else "")
        )
    yield (
        f"{record['cache']}; the process grew by {format_size(record['peak_bytes'])} at most, the "
        f"budget is {format_size(record['budget_bytes'])}"
    )
