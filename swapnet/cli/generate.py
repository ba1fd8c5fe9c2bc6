"""``swapnet generate``."""

from __future__ import annotations

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
    custom_ops_option,
    engine_argument,
    load_mode_option,
    measure_option,
    state_option,
    threads_option,
)
from swapnet.errors import InputError
from swapnet.executor.engine import Engine
from swapnet.executor.generation.generator import Generator
from swapnet.executor.generation.text import Text
from swapnet.files import check_writable
from swapnet.machine import anonymous_bytes, forget_peak, peak_anonymous_bytes
from swapnet.units import format_size

__all__ = ["command"]


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(number) for number in value.split(",")]
    except ValueError:
        raise InputError(
            f"--prompt-ids {value} is invalid",
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
@click.option("--prompt", metavar="TEXT", help="Text to continue.")
@click.option(
    "--prompt-ids",
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
    "--json", "json_target", metavar="FILE", help="Write tokens and figures; - for stdout."
)
@state_option
@measure_option
@threads_option
@load_mode_option
@custom_ops_option
def command(
    engine: Path,
    budget: str,
    context: int,
    prompt: str | None,
    prompt_ids: list[int] | None,
    chat: bool,
    max_tokens: int | None,
    stop: tuple[str, ...],
    json_target: str | None,
    state: str,
    measure: bool,
    threads: int | None,
    load_mode: str,
    **choice: Any,
) -> None:
    """Continue a text with the language model in the engine DIR, inside a budget.

    Tokens are printed as they come. An answer ends at a token that the model means so, at --stop,
    or where the context is full.
    """
    parsed = Budget.parse(budget)
    check_writable(json_target)
    if (prompt is None) == (prompt_ids is None):
        raise InputError(
            "no prompt is given" if prompt is None else "two prompts are given",
            why="--prompt is text, and --prompt-ids are tokens",
            hint="give one of them",
        )
    if prompt is None and (chat or stop):
        raise InputError(
            f"{'--chat' if chat else '--stop'} is of text",
            why="--prompt-ids are tokens",
            hint="give --prompt, or leave it out",
        )
    Engine.open(engine)
    text = None if prompt is None else Text(engine)
    own = bool(click.get_current_context().obj)
    opened = open_engine(engine, {}, None, threads, own=own, context=context, state=state)
    ids = prompt_ids if text is None else text.tokens(prompt or "", chat=chat)
    assert ids is not None
    tell_of_reading(parsed, opened, load_mode)
    opened = with_delays(opened, load_mode, measure=measure, name=str(engine))
    before = anonymous_bytes()
    forget_peak()
    with Generator(opened, parsed, context, state=state, load_mode=load_mode) as generator:
        ends = text.ends if text else ()
        tokens = generator(ids, max_tokens=max_tokens, stop=ends, **choice)
        taken: list[int] = []
        said = ""
        for piece in _pieces(tokens, taken, text, stop):
            said += piece
            if json_target != "-":
                click.echo(piece, nl=False)
        record = _record(generator, taken, said if text else None)
        record["peak_bytes"] = peak_anonymous_bytes() - before
    if json_target:
        write_json(record, json_target)
    if json_target == "-":
        return
    click.echo()
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


def _record(generator: Generator, tokens: list[int], text: str | None) -> dict[str, Any]:
    executor = generator.executor
    plan, storage = executor.plan, executor.engine.delays.storage
    return {
        "schema": "swapnet-generate/1",
        "model": executor.manifest.source.name,
        "budget_bytes": plan.budget_bytes,
        "planned_bytes": plan.planned_bytes,
        "context": executor.state().context,
        "cache_bytes": executor.state().nbytes,
        **asdict(generator.generated),
        "tokens": tokens,
        "text": text,
        "bound_ms_per_token": plan.streamed_bytes / storage.bytes_per_s * 1e3,
        "storage_bytes_per_s": storage.bytes_per_s,
        "delays_are_assumed": executor.engine.measured.is_assumed,
    }


def _summary(record: dict[str, Any]) -> Iterator[str]:
    is_timed = record["tokens_per_s"] > 0
    yield (
        f"{record['prompt_tokens']} tokens of the prompt, the first one after them in "
        f"{record['first_token_ms']:.0f} ms; {len(record['tokens'])} of the answer"
        + (f", {record['tokens_per_s']:.1f} a second after the first" if is_timed else "")
    )
    if is_timed:
        yield (
            f"{format_size(round(record['read_bytes_per_token']))} read for a token, which takes "
            f"{record['bound_ms_per_token']:.1f} ms at least, at "
            f"{record['storage_bytes_per_s'] / 1e6:.0f} MB/s"
            + (" (assumed)" if record["delays_are_assumed"] else "")
        )
    yield (
        f"cache of {record['context']} tokens: {format_size(record['cache_bytes'])}; the process "
        f"grew by {format_size(record['peak_bytes'])} at most, the budget is "
        f"{format_size(record['budget_bytes'])}"
    )
