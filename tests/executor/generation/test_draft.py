"""Drafts: what is looked up, what counts, and that tokens do not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import Generator, build
from swapnet.errors import InputError
from swapnet.executor.engine import Engine
from swapnet.executor.generation.draft import (
    MOST_DRAFTED,
    Draft,
    Drafts,
    Lookup,
    check_draft,
    gainful,
)
from swapnet.executor.generation.generator import asked_rows
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.shapes import ensure_context
from tests.helpers.decoders import concatenating, grouped, named

CONTEXT = 60
REPEATED = [5, 6, 7, 8] * 5
OTHER = np.random.default_rng(4).integers(0, 4096, 20).tolist()


def test_the_longest_and_latest_place_is_looked_up() -> None:
    lookup = Lookup([1, 2, 3, 9, 2, 3, 8, 7, 1, 2, 3])
    assert lookup.following(2) == [9, 2]
    lookup = Lookup([4, 2, 3, 9, 5, 2, 3, 8, 2, 3])
    assert lookup.following(8) == [8, 2, 3]
    assert lookup.following(0) == []
    assert lookup.following(-1) == []
    lookup.add(11)
    assert lookup.following(8) == []
    assert Lookup([]).following(8) == []


class Text:
    """A model that says a text, whatever it is given, and writes down its inferences."""

    def __init__(self, text: list[int]) -> None:
        self.text, self.inferences = text, list[list[int]]()
        self.state: Any = SimpleNamespace(length=0, context=100, pending=[])

    def infer(self, ids: list[int]) -> Any:
        self.inferences.append(ids)
        start = self.state.length
        self.state.length += len(ids)
        return np.eye(10)[self.text[start + 1 : start + 1 + len(ids)]]


def said(model: Text, drafts: Drafts) -> list[int]:
    """All tokens after the first; the cache has those before the latest each time."""
    tokens = [model.text[0]]
    while len(tokens) < len(model.text) - MOST_DRAFTED:
        tokens.append(drafts.after(tokens[-1], model.state, model.infer))
        assert model.state.length == len(tokens) - 1
    return tokens


def test_a_text_that_repeats_takes_fewer_inferences() -> None:
    text = [1, 2, 3, 4] * 10
    for most in (0, 1, MOST_DRAFTED):
        model = Text(text)
        drafts = Drafts((), lambda row: int(row.argmax()), most)
        assert said(model, drafts) == text[: len(text) - MOST_DRAFTED]
        assert all(2 <= len(ids) <= 1 + max(most, 1) for ids in model.inferences)
        assert bool(drafts.accepted) == bool(most)
    assert len(model.inferences) < len(text) / 2


def test_what_was_drafted_in_vain_does_not_count() -> None:
    text = [1, 2, 1, 3, 1, 4, 1, 5, 1, 6, *[0] * MOST_DRAFTED]
    model = Text(text)
    drafts = Drafts((), lambda row: int(row.argmax()), MOST_DRAFTED)
    assert said(model, drafts) == text[:10]
    assert max(map(len, model.inferences)) > 2


def test_the_last_token_of_a_context_is_alone() -> None:
    model = Text([1] * 20)
    model.state.context = 12
    drafts = Drafts([1, 1, 1], lambda row: int(row.argmax()), MOST_DRAFTED)
    while model.state.length < 12:
        drafts.after(1, model.state, model.infer)
    # Of ten tokens nine come with the first inference; the eleventh has a second row.
    assert [len(ids) for ids in model.inferences][-1] == 1
    assert all(len(ids) > 1 for ids in model.inferences[:-1])


def test_drafts_are_as_many_as_reading_leaves_time_for() -> None:
    def profile(token_ms: float, chunk_ms: float) -> Any:
        of_chunk = SimpleNamespace(blocks=[SimpleNamespace(idle_ms=chunk_ms)])
        blocks = [SimpleNamespace(idle_ms=token_ms)]
        storage = SimpleNamespace(bytes_per_s=1e9)
        return SimpleNamespace(blocks=blocks, of_chunk=of_chunk, storage=storage)

    plan: Any = SimpleNamespace(streamed_bytes=40_000_000)
    assert gainful(plan, profile(10, 10 + 127 * 7), 128) == 4
    assert gainful(plan, profile(10, 10), 128) == MOST_DRAFTED
    assert gainful(plan, profile(50, 200), 128) == 0
    plan.streamed_bytes = 0
    assert gainful(plan, profile(10, 20), 128) == 0


def test_a_draft_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="'2gram' is not known"):
        check_draft("2gram", 1)
    with pytest.raises(InputError, match="drafts are of one conversation, and 2"):
        check_draft("ngram", 2)
    assert (asked_rows(""), asked_rows("ngram")) == (2, 1 + MOST_DRAFTED)


def opened(folder: Path, model: Callable[[], onnx.ModelProto]) -> Engine:
    onnx.save(named(model()), folder / "model.onnx")
    build(folder / "model.onnx", folder / "engine")
    return ensure_context(folder / "engine", CONTEXT, rows=asked_rows("ngram"))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 32])
def test_tokens_do_not_depend_on_what_was_drafted(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(tmp_path, lambda: grouped(bits))
    wanted: dict[bool, list[int]] = {}
    accepted: dict[tuple[Draft, bool], int] = {}
    budgets = (smallest_budget(engine.manifest)[0], engine.demand.total_bytes)
    kinds: tuple[tuple[Draft, int, int], ...] = (
        *(("ngram", 0, budget) for budget in budgets),
        *(("ngram", most, budgets[0]) for most in (1, MOST_DRAFTED)),
        ("auto", -1, budgets[1]),
    )
    for draft, most, budget in kinds:
        if most >= 0:
            monkeypatch.setattr(Generator, "_most_drafted", lambda _, most=most: most)
        else:
            monkeypatch.undo()
        with Generator(engine, budget, CONTEXT, draft=draft) as generator:
            for repeats, prompt in ((True, REPEATED), (False, OTHER)):
                tokens = list(generator(prompt))
                assert tokens == wanted.setdefault(repeats, tokens)
                accepted[draft, repeats] = generator.generated.accepted
                assert generator.generated.tokens == len(tokens) == CONTEXT - len(prompt) + 1
            # An answer that is left early is that of its tokens.
            short = list(generator(REPEATED, max_tokens=7))
            assert generator.executor.state().length == len(REPEATED) + 6
            more = list(generator([9, 9], max_tokens=5, keep=True))
            assert more == list(generator([*REPEATED, *short, 9, 9], max_tokens=5))
            assert list(generator(OTHER, temperature=1.0, seed=3, max_tokens=9))
            assert not generator.generated.accepted
    assert len({tuple(tokens) for tokens in wanted.values()}) == 2
    assert accepted["auto", True] == 0  # all is resident: there is no reading to hide behind
    assert accepted["ngram", True] > 0


@pytest.mark.slow
def test_a_cache_that_is_joined_takes_no_drafts(tmp_path: Path) -> None:
    engine = opened(tmp_path, concatenating)
    with pytest.raises(InputError, match="takes no drafts"):
        Generator(engine, "100%", CONTEXT, draft="ngram")
