from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from swapnet.errors import InputError
from swapnet.models import find, images, minilm, names, ppocr
from tests.evidence import evaluation as module
from tests.evidence.evaluation import (
    CALIBRATION_SENTENCES,
    EVALUATION_SENTENCES,
    Inputs,
    Recipe,
    calibration_inputs,
    evaluation,
    recipe,
    sentences,
    varied_photographs,
)

Feeds = list[dict[str, NDArray[np.generic]]]


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the place of photographs and of a page."""

    def drawn(name: str) -> Image.Image:
        random = np.random.default_rng(list(name.encode()))
        return Image.fromarray(random.integers(0, 256, (191, 384, 3), np.uint8))

    for where in (module, images, ppocr):
        monkeypatch.setattr(where, "picture", drawn)


def few(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for name in ("_EVALUATION_VARIATIONS", "_CALIBRATION_VARIATIONS"):
        monkeypatch.setattr(module, name, count)


def differ(ours: Feeds, theirs: Feeds) -> bool:
    """Whether no feed of one is a feed of the other."""

    def keys(feeds: Feeds) -> set[bytes]:
        return {b"".join(array.tobytes() for array in feed.values()) for feed in feeds}

    return keys(ours).isdisjoint(keys(theirs)) and len(keys(ours)) == len(ours)


def test_sentences_are_distinct_and_short() -> None:
    listed = sentences()
    assert len(listed) == len(set(listed)) == EVALUATION_SENTENCES + CALIBRATION_SENTENCES
    assert all(5 <= len(text.split()) <= 14 for text in listed)
    assert not {text for batch in minilm.SENTENCES for text in batch}.intersection(listed)


def test_variations_are_the_same_every_time() -> None:
    once, again, other = (list(varied_photographs(12, seed, 3)) for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert len(once) == 3 * len(images.PHOTOGRAPHS)
    assert not any(np.array_equal(a, b) for a in once for b in other)
    stacked = np.stack(once)
    assert stacked.shape[1:] == (3, 12, 12)
    assert stacked.dtype == np.float32
    assert 0 <= stacked.min() < stacked.max() <= 1
    assert next(varied_photographs((12, 6), 1, 1)).shape == (3, 6, 12)


def test_photographs_are_prepared_as_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 2)
    inputs = evaluation("efficientnet_lite2")
    feeds = list(inputs)
    examples = find("efficientnet_lite2").samples()["input"]
    for index, example in enumerate(examples):
        assert np.array_equal(feeds[2 * index]["input"], example)
    assert inputs.task == "classes"
    assert differ(feeds, list(calibration_inputs("efficientnet_lite2")))


def test_crops_keep_three_quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def kept(image: Image.Image, _: object) -> Image.Image:
        sizes.append(image.size)
        return image

    monkeypatch.setattr(module, "_recoloured", kept)
    list(varied_photographs(12, 1, 40))
    assert all(288 <= width <= 384 and 143 <= height <= 191 for width, height in sizes)
    assert min(sizes)[0] < 300


def test_every_recipe_is_of_a_model_and_gives_its_reason() -> None:
    assert set(module._RECIPES) <= set(names())
    for found in module._RECIPES.values():
        assert found.reason
        assert found.exclude or found.exclude_symmetric
    assert recipe("vgg19") == Recipe()


def test_at_least_200_photographs() -> None:
    assert module._EVALUATION_VARIATIONS * len(images.PHOTOGRAPHS) >= 200


@pytest.mark.usefixtures("words")
def test_sentences_come_one_by_one() -> None:
    inputs = evaluation("minilm")
    feeds, others = list(inputs), list(calibration_inputs("minilm"))
    assert inputs.task == "embedding"
    assert (len(feeds), len(others)) == (EVALUATION_SENTENCES, CALIBRATION_SENTENCES)
    for feed, text in zip((*feeds, *others), sentences(), strict=True):
        assert set(feed) == {"input_ids", "attention_mask", "token_type_ids"}
        assert all(array.shape == (1, len(text.split())) for array in feed.values())
        assert all(array.dtype == np.int64 for array in feed.values())
        assert feed["attention_mask"].all()


def test_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = evaluation("ppocrv4_rec")
    feeds, others = list(inputs), list(calibration_inputs("ppocrv4_rec"))
    assert np.array_equal(np.stack([feed["x"] for feed in feeds]), ppocr.samples()["x"])
    assert differ(feeds, others)
    assert all(feed["x"].shape == feeds[0]["x"].shape for feed in others)
    assert inputs.task == "text"
    assert inputs.read is not None
    monkeypatch.setattr(ppocr, "characters", lambda: ("", "a", "b"))
    assert inputs.read(np.eye(3, dtype=np.float32)[None, [1, 0, 2]]) == ["ab"]


@pytest.mark.parametrize("name", ["mobilenet_v2", "yolov3", "monodepth2", "ppocrv4_det", "ddddocr"])
def test_values_are_compared_of_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 1)
    inputs = evaluation(name)
    feeds, others = list(inputs), list(calibration_inputs(name))
    assert (inputs.task, inputs.read) == ("values", None)
    assert differ(feeds, others)
    first = {name: array.shape for name, array in feeds[0].items()}
    assert all({n: array.shape for n, array in feed.items()} == first for feed in others)


def test_feeds_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 1)
    inputs: Inputs = calibration_inputs("resnet18")
    first, second = list(inputs), list(inputs)
    assert len(first) == len(second) == len(images.PHOTOGRAPHS)
    assert not differ(first, second)


@pytest.mark.parametrize("ask", [evaluation, calibration_inputs])
def test_an_unknown_model(ask: Callable[[str], Inputs]) -> None:
    with pytest.raises(InputError, match="no model named lenet"):
        ask("lenet")


def test_every_model_has_both() -> None:
    assert all(evaluation(name) and calibration_inputs(name) for name in names())
