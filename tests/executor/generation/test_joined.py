"""Several conversations on one engine: tokens of all with one pass of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import Generator, SwapExecutor, build
from swapnet.arrays import load_npz
from swapnet.errors import BackendError, BudgetError, EngineError, InputError, StorageError
from swapnet.executor.engine import Engine
from swapnet.executor.execution import Execution
from swapnet.executor.generation.generator import ASKED_ROWS
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.shapes import ensure_context
from swapnet.executor.state import find_cache
from tests.helpers.decoders import expected, grouped, inputs_after, named

CONTEXT = 150
TALKS = 3
RANDOM = np.random.default_rng(7)
PROMPTS = [RANDOM.integers(0, 4096, length).tolist() for length in (5, 134, 1, 40, 23)]
"""The second one is more than a chunk."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[32, 4])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine with three caches; the model lies beside its folder."""
    folder = tmp_path_factory.mktemp("decoder")
    onnx.save(named(grouped(request.param)), folder / "model.onnx")
    build(folder / "model.onnx", folder / "engine")
    return ensure_context(folder / "engine", CONTEXT, rows=ASKED_ROWS, conversations=TALKS)


@pytest.fixture
def generator(decoder: Engine) -> Iterator[Generator]:
    with Generator(decoder, "100%", CONTEXT, conversations=TALKS) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(decoder: Engine) -> list[list[int]]:
    """Eight greedy tokens after each prompt, by ONNX Runtime."""
    return [expected(decoder, prompt, 8) for prompt in PROMPTS]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """Conversations and tokens of each inference."""
    seen = []
    call = SwapExecutor.__call__

    def noted(self: SwapExecutor, inputs: Any, **options: Any) -> Any:
        kept = options["conversations"]
        seen.append((tuple(n for n in kept if kept[n]), inputs["input_ids"].shape[1]))
        return call(self, inputs, **options)

    monkeypatch.setattr(SwapExecutor, "__call__", noted)
    return seen


def test_tokens_are_those_of_a_conversation_alone_at_every_budget(
    decoder: Engine, alone: list[list[int]]
) -> None:
    smallest, _ = smallest_budget(decoder.manifest)
    for budget in (smallest, decoder.demand.total_bytes):
        with Generator(decoder, budget, CONTEXT, conversations=TALKS) as generator:
            first = generator.submit(PROMPTS[0], max_tokens=8)
            begun = [*islice(first, 3)]
            others = [generator.submit(prompt, max_tokens=8) for prompt in PROMPTS[1:]]
            assert [[*begun, *first], *map(list, others)] == alone
            assert {answer.conversation for answer in others} == {0, 1, 2}
            assert generator.executor.plan.planned_bytes <= budget
            assert [answer.generated.tokens for answer in others] == [8] * len(others)
            assert list(generator(PROMPTS[3], max_tokens=8)) == alone[3]


def test_tokens_are_joined_and_alternate_with_chunks(
    generator: Generator, passes: list[tuple[tuple[int, ...], int]], alone: list[list[int]]
) -> None:
    answers = [generator.submit(prompt, max_tokens=4) for prompt in (PROMPTS[3], PROMPTS[0])]
    first = [next(answer) for answer in answers]
    assert passes == [((0,), 40), ((1,), 5)]
    answers.append(generator.submit(PROMPTS[1], max_tokens=4))
    tokens = [[token, *answer] for token, answer in zip(first, answers, strict=False)]
    tokens.append(list(answers[2]))
    assert tokens == [alone[n][:4] for n in (3, 0, 1)]
    assert passes[2:] == [
        *[((0, 1), 1), ((2,), 128), ((0, 1), 1), ((2,), 6), ((0, 1, 2), 1)],
        *[((2,), 1), ((2,), 1)],
    ]
    made = answers[2].generated
    assert (made.prompt_tokens, made.tokens) == (134, 4)
    assert made.first_token_ms > 0
    assert made.tokens_per_s > 0


def test_prompts_wait_for_a_conversation_in_their_order(
    generator: Generator, alone: list[list[int]]
) -> None:
    answers = [generator.submit(PROMPTS[0], max_tokens=8) for _ in range(5)]
    named_one = generator.submit(PROMPTS[3], max_tokens=8, conversation=0)
    assert [answer.conversation for answer in answers] == [0, 1, 2, None, None]
    assert list(named_one) == alone[3]
    assert [list(answer) for answer in answers] == [alone[0]] * 5
    assert all(answer.done() for answer in answers)


def test_threads_take_tokens_at_the_same_time(generator: Generator, alone: list[list[int]]) -> None:
    ready = threading.Barrier(len(PROMPTS))

    def asked(prompt: Sequence[int]) -> list[int]:
        ready.wait(timeout=60)
        return list(generator.submit(prompt, max_tokens=8))

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(asked, PROMPTS, timeout=120)) == alone


def test_an_answer_is_cancelled_between_tokens_or_before_it_has_begun(
    generator: Generator, alone: list[list[int]]
) -> None:
    answers = [generator.submit(PROMPTS[0], max_tokens=8) for _ in range(5)]
    assert next(answers[0]) == alone[0][0]
    for answer in (answers[0], answers[1], answers[4]):
        answer.cancel()
    assert list(answers[0]) == list(answers[4]) == []
    assert list(answers[1]) in ([], alone[0][:1])
    assert list(answers[3]) == list(answers[2]) == alone[0]
    assert answers[4].conversation is None


def test_a_call_is_of_the_first_conversation(generator: Generator, alone: list[list[int]]) -> None:
    answers = [generator.submit(prompt, max_tokens=8) for prompt in PROMPTS[:2]]
    assert next(answers[1]) == alone[1][0]
    called = generator(PROMPTS[3], max_tokens=8)  # waits for its conversation
    assert list(called) == alone[3]
    assert [list(answers[0]), [alone[1][0], *answers[1]]] == alone[:2]
    assert generator.generated.tokens == 8
    called = generator(PROMPTS[0], max_tokens=8)
    assert next(called) == alone[0][0]
    answer = generator.submit(PROMPTS[3], max_tokens=8)
    assert answer.conversation == 1
    assert [[alone[0][0], *called], list(answer)] == [alone[0], alone[3]]


def test_an_error_ends_the_answers_of_its_inference_only(
    generator: Generator, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [generator.submit(PROMPTS[0], max_tokens=8) for _ in range(4)]
    first = [next(answer) for answer in answers[:3]]
    with monkeypatch.context() as patched:

        def fail(*_: Any, **__: Any) -> None:
            raise StorageError("the card is gone")

        patched.setattr(Execution, "_execute", fail)
        with pytest.raises(StorageError):
            list(answers[0])
    for answer in answers[:3]:
        with pytest.raises(StorageError):
            list(answer)
    assert first == alone[0][:1] * 3
    assert list(answers[3]) == alone[0]


def test_a_choice_that_fails_ends_its_answer_only(
    generator: Generator, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> int:
        raise ValueError("no number")

    answers = [generator.submit(PROMPTS[0], max_tokens=8) for _ in range(3)]
    first = [next(answer) for answer in answers]
    monkeypatch.setattr(answers[1], "_choose", fail)
    assert [list(answers[n]) for n in (0, 2)] == [alone[0][1:]] * 2
    with pytest.raises(ValueError, match="no number"):
        list(answers[1])
    assert first == alone[0][:1] * 3


def test_what_a_user_interrupts_is_over_and_the_others_go_on(
    generator: Generator, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, other = (generator.submit(PROMPTS[0], max_tokens=8) for _ in range(2))
    with monkeypatch.context() as patched:

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(Execution, "_execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(stopped)
    assert list(other) == alone[0]


def test_answers_fail_when_the_generator_is_closed(decoder: Engine, tmp_path: Path) -> None:
    talk = tmp_path / "talk.npz"
    with Generator(decoder, "100%", CONTEXT, conversations=TALKS) as generator:
        generator.executor.state(1).save(talk)
        answers = [generator.submit(PROMPTS[0]) for _ in range(4)]
        next(answers[0])
    for answer in (*answers, generator.submit([1])):
        with pytest.raises(BackendError, match="closed"):
            list(answer)
    state = generator.executor.state(1)
    for used in (state.save, state.load):
        with pytest.raises(BackendError, match="closed"):
            used(talk)


def test_each_conversation_is_saved_loaded_and_goes_on(
    generator: Generator, alone: list[list[int]], tmp_path: Path
) -> None:
    tokens = [
        list(generator.submit(prompt, conversation=n, max_tokens=4))
        for n, prompt in enumerate((PROMPTS[0], PROMPTS[3]))
    ]
    states = [generator.executor.state(n) for n in range(TALKS)]
    assert [(state.length, state.pending) for state in states] == [
        (5 + 3, tokens[0][-1:]),
        (40 + 3, tokens[1][-1:]),
        (0, []),
    ]
    states[1].save(tmp_path / "talk.npz")
    states[2].load(tmp_path / "talk.npz")
    states[1].reset()
    with pytest.raises(InputError, match="0 tokens"):
        generator.submit([], conversation=1, keep=True)
    more = [generator.submit([], conversation=n, keep=True, max_tokens=4) for n in (0, 2)]
    assert [list(answer) for answer in more] == [alone[0][4:], alone[3][4:]]


def test_a_full_conversation_keeps_its_tokens_between_others(
    generator: Generator, alone: list[list[int]], tmp_path: Path
) -> None:
    full = generator.submit([7] * 145, conversation=1)
    assert len(list(full)) == 6
    state = generator.executor.state(1)
    assert state.length == CONTEXT
    state.save(tmp_path / "before.npz")
    answers = [generator.submit(PROMPTS[0], conversation=n, max_tokens=8) for n in (0, 2)]
    assert [list(answer) for answer in answers] == [alone[0]] * 2
    state.save(tmp_path / "after.npz")
    before, after = (load_npz(tmp_path / f"{name}.npz") for name in ("before", "after"))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_a_conversation_is_loaded_and_forgotten_while_its_neighbour_is_answered(
    generator: Generator, alone: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(generator.submit(PROMPTS[3], conversation=2, max_tokens=4))
    state = generator.executor.state(2)
    state.save(tmp_path / "talk.npz")
    call = SwapExecutor.__call__

    def changed_before(self: SwapExecutor, inputs: Any, **options: Any) -> Any:
        if state.length:
            state.reset()
        else:
            state.load(tmp_path / "talk.npz")
        return call(self, inputs, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SwapExecutor, "__call__", changed_before)
        assert list(generator.submit(PROMPTS[0], conversation=1, max_tokens=8)) == alone[0]
    assert state.length == 40 + 3
    more = generator.submit([], conversation=2, keep=True, max_tokens=4)
    assert list(more) == alone[3][4:]


def test_what_does_not_fit_when_it_begins_fails_alone(
    generator: Generator, alone: list[list[int]]
) -> None:
    busy = generator.submit(PROMPTS[0], conversation=2, max_tokens=8)
    late = generator.submit([1] * 140, conversation=2, keep=True)
    assert list(busy) == alone[0]
    with pytest.raises(InputError, match="has 12 of them"):
        list(late)
    assert list(generator.submit(PROMPTS[0], conversation=2, max_tokens=8)) == alone[0]
    wrong: Any
    for wrong, options, words in (
        ([1], {"keep": True}, "names no conversation"),
        ([1], {"conversation": 3}, "no conversation 3"),
        ([1], {"conversation": -1}, "conversation can't be -1"),
        ([1], {"conversation": "1"}, "conversation can't be '1'"),
        ([], {}, "0 tokens"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"max_tokens": 2.5}, "max_tokens can't be 2.5"),
        ([1], {"stop": 2}, "stop must be whole numbers"),
        ("hello", {}, "the prompt must be whole numbers"),
        ([4096], {}, "4096"),
        ([1], {"top_p": 2}, "top_p"),
        ([1], {"temperature": "1"}, "temperature can't be '1'"),
    ):
        with pytest.raises(InputError, match=words):
            generator.submit(wrong, **options)


def test_rows_of_the_executor_are_those_of_conversations(decoder: Engine) -> None:
    manifest = decoder.manifest
    two = {n: np.repeat(a, 2, axis=0) for n, a in inputs_after(manifest, [5], 0).items()}
    with SwapExecutor(
        decoder, "100%", context=CONTEXT, rows=ASKED_ROWS, conversations=TALKS
    ) as executor:
        both = executor(two)["logits"]
        assert [executor.state(n).length for n in range(TALKS)] == [1, 1, 0]
        executor.state(1).reset()
        out = {"logits": np.empty((2, 1, 4096), np.float32)}
        assert executor(two, out, conversations={1: False, 2: True})["logits"] is out["logits"]
        assert [executor.state(n).length for n in range(TALKS)] == [1, 0, 1]
        np.testing.assert_array_equal(out["logits"], both)
        many = inputs_after(manifest, [1, 2], 0)
        twice = {name: np.repeat(array, 2, axis=0) for name, array in many.items()}
        longer = {**two, "attention_mask": np.array([[1, 1], [1, 1]])}
        executor.state(0).reset()
        numbers: Any
        for given, numbers, words in (
            (two, (1, 0), "can't be of the conversations"),
            (two, (0,), "can't be of"),
            (two, (0, 2), "can't be of"),
            (two, (2, 3), "can't be of"),
            (two, (-1, 0), "can't be of"),
            (two, ("0", "1"), "can't be of"),
            (two, (2,), "can't be of"),
            (twice, (0, 1), "of 2 tokens"),
            (two, (1, 2), "attention_mask"),
            (longer, (1, 2), "attention_mask"),
        ):
            with pytest.raises(InputError, match=words):
                executor(given, conversations=dict.fromkeys(numbers, True))


def test_values_of_joined_inferences_are_not_taken_for_those_of_all_at_once(
    decoder: Engine,
) -> None:
    with pytest.raises(EngineError, match="not measured"):
        Engine.open(decoder.folder, shapes=decoder.manifest.planned_shapes)


def test_caches_are_counted_and_a_budget_says_what_fits(decoder: Engine) -> None:
    cache = decoder.cache
    assert cache is not None
    single = find_cache(decoder.built, CONTEXT)
    assert cache.nbytes == pytest.approx(TALKS * single.nbytes, rel=0.01)
    assert str(cache).startswith("3 caches of 150 tokens: ")
    smallest, _ = smallest_budget(decoder.manifest)
    with pytest.raises(BudgetError, match="3 caches of 150 tokens") as caught:
        Generator(decoder, smallest - cache.nbytes // 2, CONTEXT, conversations=TALKS)
    assert "a context of about 7" in caught.value.hint
    assert "or about 1 of the 3 conversations" in caught.value.hint
    with pytest.raises(InputError, match="conversations can't be 0"):
        find_cache(decoder.built, CONTEXT, conversations=0)
    options: dict[str, Any] = {"conversations": "2", "context": None}
    for name, value in options.items():
        with pytest.raises(InputError, match=f"{name} can't be {value!r}"):
            Generator(decoder, "100%", **{name: value})
