"""Tokens of a generator, against a plain loop of ONNX Runtime over the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import Generator, SwapExecutor, build
from swapnet.arrays import load_npz, save_npz
from swapnet.calibration.delays.worker import Job, measure_profile, token_inputs
from swapnet.errors import BudgetError, InputError, ModelError, StorageError
from swapnet.executor.engine import Engine
from swapnet.executor.execution import Execution
from swapnet.executor.generation.generator import ASKED_ROWS
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.shapes import ensure_context
from swapnet.executor.state import find_cache
from swapnet.executor.swapping.actual_shapes import ActualShapes
from swapnet.manifest import at_shapes, sizes_at
from swapnet.progress import silent
from tests.helpers.decoders import (
    HEADS,
    HIDDEN,
    LAYERS,
    concatenating,
    expected,
    grouped,
    inputs_after,
    named,
)

DECODERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "concatenating": concatenating,
    "grouped": grouped,
    "grouped-int4": lambda: grouped(4),
}
CONTEXT = 150
PROMPT = np.random.default_rng(4).integers(0, 4096, 134).tolist()
"""More than one chunk."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine with its cache; the model lies beside its folder."""
    folder = tmp_path_factory.mktemp("decoder")
    onnx.save(named(DECODERS[request.param]()), folder / "model.onnx")
    build(folder / "model.onnx", folder / "engine")
    return ensure_context(folder / "engine", CONTEXT, rows=ASKED_ROWS)


@pytest.fixture
def generator(decoder: Engine) -> Iterator[Generator]:
    with Generator(decoder, "100%", CONTEXT) as opened:
        yield opened


def test_tokens_are_those_of_onnxruntime_at_every_budget(decoder: Engine) -> None:
    tokens = expected(decoder, PROMPT, CONTEXT - len(PROMPT) + 1)
    smallest, _ = smallest_budget(decoder.manifest)
    for budget in (smallest, decoder.demand.total_bytes):
        with Generator(decoder, budget, CONTEXT) as generator:
            assert list(generator(PROMPT)) == tokens
            assert generator.executor.plan.planned_bytes <= budget
            made = generator.generated
    assert (made.prompt_tokens, made.tokens) == (len(PROMPT), len(tokens))
    assert made.read_bytes_per_token == 0
    assert len(set(tokens)) > 5


def test_asked_rows_have_the_bits_of_all_rows(decoder: Engine) -> None:
    inputs = inputs_after(decoder.manifest, PROMPT[:40], 0)
    with (
        SwapExecutor(decoder, "100%", context=CONTEXT) as whole,
        SwapExecutor(decoder, "100%", context=CONTEXT, rows=ASKED_ROWS) as asked,
    ):
        (every,), (last,) = whole(inputs)["logits"], asked(inputs)["logits"]
        assert len(every) == 40
        np.testing.assert_array_equal(last, every[-ASKED_ROWS:])
        whole.state().reset()
        chosen = whole({**inputs, "logits_to_keep": np.array([3, 39])})["logits"][0]
        np.testing.assert_array_equal(chosen, every[[3, 39]])
        asked.state().reset()
        with pytest.raises(BudgetError, match="logits_to_keep"):
            asked({**inputs, "logits_to_keep": np.arange(3)})


def test_all_rows_are_planned_for_where_no_context_is(decoder: Engine) -> None:
    at = at_shapes(decoder.folder, decoder.built, dims={"logits_to_keep": 128})
    assert at.planned_shapes == decoder.built.planned_shapes
    assert sizes_at(decoder.built, dims={"sequence_length": 9})["logits_to_keep"] == 9
    assert decoder.built.planned_shapes["logits_to_keep"] == (128,)
    assert decoder.manifest.planned_shapes["logits_to_keep"] == (ASKED_ROWS,)


def test_delays_are_those_of_a_token_and_of_a_chunk(decoder: Engine) -> None:
    assert decoder.cache is not None
    device = decoder.device
    job = Job(str(decoder.folder), device.threads, "auto", {}, (), cache=decoder.cache)
    profile = measure_profile(decoder, job, silent)
    assert len(profile.blocks) == len(profile.chunk) == len(decoder.manifest.blocks)
    assert profile.of_chunk.blocks == profile.chunk
    assert {a.shape for a in token_inputs(decoder.manifest, decoder.cache).values()} >= {
        (1, 1),
        (1, CONTEXT),
    }


def test_a_cache_is_counted_once_in_place_and_twice_beside(decoder: Engine) -> None:
    cache = decoder.cache
    assert cache is not None
    in_place = "position_ids" not in decoder.manifest.tensors
    heads = HEADS // 2 if in_place else HEADS
    once = 2 * LAYERS * heads * CONTEXT * (HIDDEN // HEADS) * 4
    assert {pair.in_place for pair in cache.pairs} == {in_place}
    assert cache.nbytes == pytest.approx(once if in_place else 2 * once, rel=0.05)
    with SwapExecutor(decoder, "100%", context=CONTEXT) as executor:
        assert executor.plan.usage.io_bytes >= cache.nbytes
        assert executor.state().nbytes == cache.nbytes


def test_a_cache_of_joined_tensors_is_of_one_conversation(decoder: Engine) -> None:
    if "position_ids" not in decoder.manifest.tensors:
        assert find_cache(decoder.built, CONTEXT, conversations=2).conversations == 2
        return
    with pytest.raises(InputError, match="one conversation at a time"):
        Generator(decoder.folder, "100%", CONTEXT, conversations=2)


def test_a_prompt_does_not_see_the_one_before(generator: Generator, decoder: Engine) -> None:
    tokens = list(generator(PROMPT[:9], max_tokens=6))
    assert list(generator(PROMPT[20:60], max_tokens=6)) != tokens
    assert list(generator(PROMPT[:9], max_tokens=6)) == tokens
    assert tokens == expected(decoder, PROMPT[:9], 6)


def test_a_budget_changes_between_two_tokens(generator: Generator, decoder: Engine) -> None:
    tokens = generator(PROMPT[:9], max_tokens=6)
    first = [next(tokens), next(tokens)]
    generator.executor.set_budget(smallest_budget(generator.executor.manifest)[0])
    assert [*first, *tokens] == expected(decoder, PROMPT[:9], 6)
    is_streamed = generator.executor.plan.streamed_bytes > 0
    assert (generator.generated.read_bytes_per_token > 0) == is_streamed


def test_a_generator_works_after_it_was_closed_early_and_after_an_error(
    generator: Generator, decoder: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(decoder, PROMPT[:9], 3)
    for token in generator(PROMPT[:9]):
        assert token == wanted[0]
        break
    tokens = generator(PROMPT[:9])
    next(tokens)
    with monkeypatch.context() as patched:

        def fail(*_: Any, **__: Any) -> None:
            raise StorageError("the card is gone")

        patched.setattr(Execution, "_execute", fail)
        with pytest.raises(StorageError):
            next(tokens)
    assert list(generator(PROMPT[:9], max_tokens=3)) == wanted


def test_a_conversation_goes_on_after_it_was_saved(
    generator: Generator, decoder: Engine, tmp_path: Path
) -> None:
    first = list(generator(PROMPT[:9], max_tokens=4))
    state = generator.executor.state()
    assert (state.length, state.pending) == (12, first[-1:])
    state.save(tmp_path / "talk.npz")
    wanted = list(generator(PROMPT[9:14], max_tokens=3, keep=True))
    assert (generator.generated.prompt_tokens, state.length) == (6, 12 + 6 + 2)
    list(generator(PROMPT[40:60], max_tokens=5))
    state.load(tmp_path / "talk.npz")
    assert (state.length, state.pending) == (12, first[-1:])
    assert list(generator(PROMPT[9:14], max_tokens=3, keep=True)) == wanted
    with Generator(decoder, "100%", CONTEXT + 7) as other:
        other.executor.state().load(tmp_path / "talk.npz")
        assert list(other(PROMPT[9:14], max_tokens=3, keep=True)) == wanted
    with pytest.raises(InputError, match="has 20 of them"):
        generator(PROMPT, keep=True)


def test_a_damaged_state_is_one_error_and_changes_nothing(
    generator: Generator, tmp_path: Path
) -> None:
    path, state = tmp_path / "talk.npz", generator.executor.state()
    tokens = list(generator(PROMPT[:9], max_tokens=4))
    state.save(path)
    whole = path.read_bytes()
    arrays = load_npz(path)
    facts = next(name for name in arrays if "key" not in name and "value" not in name)
    engine, *_ = json.loads(str(arrays[facts]))

    def changed(number: Any) -> dict[str, Any]:
        return {**arrays, facts: np.array(json.dumps(number))}

    for damage, why in (
        (whole[: len(whole) // 2], "not a zip file"),
        (whole.replace(whole[2000:2010], b"0123456789", 1), "Bad CRC-32"),
        (b"", "No data left"),
        ({"x": np.zeros(3)}, "it has no 'engine, tokens, pending'"),
        (changed(["other", 12, []]), "another engine"),
        (changed([engine, CONTEXT + 1, []]), "151 tokens"),
        (changed([engine, 11, []]), "so many tokens"),
        ({facts: arrays[facts]}, "past_key_values"),
        (changed([engine, -1, []]), "-1 tokens"),
        (changed([engine, 12, ["a word"]]), "Expected `int`"),
        (
            {**arrays, **{n: a.astype(np.float16) for n, a in arrays.items() if n != facts}},
            "arrays",
        ),
        (changed([]), "no saved state"),
    ):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            save_npz(path, damage)
        with pytest.raises(InputError) as caught:
            state.load(path)
        assert why in f"{caught.value.what}: {caught.value.why}"
        assert (state.length, state.pending) == (12, tokens[-1:])
    assert list(generator(PROMPT[:9], max_tokens=4)) == tokens


def test_an_iterator_ends_with_the_next_prompt(generator: Generator) -> None:
    first = generator([1, 2, 3])
    next(first)
    second = generator([4, 5, 6])
    with pytest.raises(InputError, match="another prompt"):
        next(first)
    assert next(second) >= 0


def test_a_token_to_stop_at_is_not_given(generator: Generator) -> None:
    tokens = list(generator(PROMPT[:9], max_tokens=8))
    stop = next(token for token in tokens if token != tokens[0])
    assert list(generator(PROMPT[:9], stop=[stop])) == tokens[: tokens.index(stop)]
    assert list(generator(PROMPT[:9], stop=tokens[:1])) == []
    assert generator.generated.first_token_ms > 0


def test_random_tokens_follow_the_seed(generator: Generator) -> None:
    first, again, other = (
        list(generator([1, 2], max_tokens=8, temperature=5.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("prompt", "words"),
    [([], "0 tokens"), ([1] * (CONTEXT + 1), "151 tokens"), ([4096], "4096"), ([-1], "-1")],
)
def test_a_wrong_prompt_is_refused_and_the_next_one_taken(
    generator: Generator, prompt: list[int], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        generator(prompt)
    with pytest.raises(InputError, match="max_tokens"):
        generator([1], max_tokens=0)
    assert len(list(generator([1], max_tokens=1))) == 1


def test_a_prompt_that_fills_the_context_has_one_token_after_it(generator: Generator) -> None:
    assert len(list(generator([7] * CONTEXT))) == 1


def test_inputs_that_do_not_fit_leave_the_cache_as_it_was(decoder: Engine) -> None:
    with SwapExecutor(decoder, "100%", context=CONTEXT) as executor:
        assert list(executor(inputs_after(decoder.manifest, PROMPT[:5], 0))) == ["logits"]
        state = executor.state()
        assert (state.length, state.context) == (5, CONTEXT)
        with pytest.raises(InputError, match="attention_mask"):
            executor(inputs_after(decoder.manifest, [1], 8))
        with pytest.raises(InputError, match="past_key_values"):
            executor({**inputs_after(decoder.manifest, [1], 5), "past_key_values.0.key": [0]})
        state.length = CONTEXT
        full = inputs_after(decoder.manifest, [1], CONTEXT - 1)
        with pytest.raises(InputError, match="do not fit"):
            executor(full)
        state.reset()
        assert state.length == 0


def test_a_budget_that_is_too_small_says_which_context_fits(decoder: Engine) -> None:
    smallest, _ = smallest_budget(decoder.manifest)
    with pytest.raises(BudgetError, match="cache of 150 tokens") as caught:
        Generator(decoder, smallest - 40_000, CONTEXT)
    assert "or a context of " in caught.value.hint
    with pytest.raises(BudgetError) as caught:
        Generator(decoder, 1 << 20, CONTEXT)
    assert "no context fits" in caught.value.hint


def test_values_that_are_larger_than_planned_are_refused(decoder: Engine) -> None:
    manifest = decoder.manifest
    actual = ActualShapes(manifest)
    actual.check_room()
    shapes = dict(manifest.planned_shapes)
    for name, shape in shapes.items():
        if "past" in name:
            shapes[name] = (*shape[:2], CONTEXT, shape[3])
    if any("GroupQueryAttention" in block.operators for block in manifest.blocks):
        return  # no value outside of that kernel grows with the past
    shapes["attention_mask"] = (1, CONTEXT + 128)
    actual.begin({name: np.empty(shape) for name, shape in shapes.items()})
    with pytest.raises(BudgetError, match="larger than planned"):
        actual.check_room()


def test_a_context_takes_no_other_shapes(decoder: Engine) -> None:
    with pytest.raises(InputError, match="context"):
        SwapExecutor(decoder, "100%", context=CONTEXT, dims={"sequence_length": 2})
    for context in (0, -1):
        with pytest.raises(InputError, match="context"):
            find_cache(decoder.built, context)


def test_a_context_that_the_model_has_not_is_refused(decoder: Engine) -> None:
    if any(taken.name == "position_ids" for taken in decoder.manifest.inputs):
        with pytest.raises(ModelError, match="does not run at") as caught:
            ensure_context(decoder.folder, 600)  # its table has 512 positions
        assert "fewer tokens than 600" in caught.value.hint


def test_names_of_a_cache_are_found_by_a_pattern(decoder: Engine) -> None:
    found = find_cache(decoder.built, CONTEXT, "present.*=past_key_values.*")
    assert found == find_cache(decoder.built, CONTEXT)
    keys = find_cache(decoder.built, CONTEXT, "present.*.key=past_key_values.*.key")
    assert len(keys.pairs) == LAYERS
    for state in ("present=past", "present.*", "*.*=past.*"):
        with pytest.raises(InputError, match="state"):
            find_cache(decoder.built, CONTEXT, state)
    with pytest.raises(InputError, match="has no cache"):
        find_cache(decoder.built, CONTEXT, "other.*=past.*")
    with pytest.raises(InputError, match="can't generate tokens"):
        Generator(decoder, "100%", CONTEXT, state="present.*.key=past_key_values.*.key")
