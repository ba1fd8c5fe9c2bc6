"""Inputs that say what a lower precision costs, and others to calibrate it with.

Photographs and lines of text are varied by seeds, so that they are the same everywhere; sentences
are in ``sentences.txt``, the first 200 to evaluate and the last 64 to calibrate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from swapnet.models import classifier, efficientnet, minilm, monodepth, ppocr, resnet, yolo
from swapnet.models.ctc import decode
from swapnet.models.images import PHOTOGRAPHS, Size, fitted, normalise, picture, pixels
from swapnet.models.zoo import find
from swapnet.ranges import Method

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CALIBRATION_SENTENCES",
    "EVALUATION_SENTENCES",
    "Inputs",
    "Recipe",
    "calibration_inputs",
    "evaluation",
    "recipe",
    "sentences",
    "varied_photographs",
]

Feed = dict[str, NDArray[np.generic]]
Planes = NDArray[np.float32]

EVALUATION_SENTENCES, CALIBRATION_SENTENCES = 200, 64

_EVALUATION_SEED, _CALIBRATION_SEED = 1, 2
_EVALUATION_VARIATIONS, _CALIBRATION_VARIATIONS = 36, 11
"""Of each photograph; the first one to evaluate is the photograph itself."""
_LINE_VARIATIONS = 4
_LINE = (48, 960)
"""Height and width of a line of text, in pixels."""
_TEXT = "sentences.txt"


@dataclass(frozen=True)
class Recipe:
    """How a model of the zoo is brought to int8.

    Attributes
    ----------
    method, percentile
        How ranges are taken; ``percentile`` is of absolute values, for that method.
    exclude
        Names of operators that stay in float32.
    exclude_symmetric
        More of them, where values have zero point 0: in the file that TensorRT takes.
    reason
        Why these, in one line; empty where there are none.
    """

    method: Method = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    exclude_symmetric: tuple[str, ...] = ()
    reason: str = ""


_RECIPES: Mapping[str, Recipe] = {
    "efficientnet_lite2": Recipe(
        method="percentile",
        percentile=99.999,
        exclude=tuple(f"conv_{n}" for n in (0, 3, 6, 8, 11, 14, 16, 19, 22, 25, 28, 31, 34, 37)),
        reason="the first 14 convolutions add most of the noise, and hold 0.5 % of the weights; "
        "the largest 0.001 % of values would coarsen the steps of all",
    ),
    "minilm": Recipe(
        exclude_symmetric=tuple(f"matmul_{n}" for n in (42, 76, 110, 144, 178, 212)),
        reason="what a GELU gives is -0.17 to 25: with zero point 0 half of the steps are lost",
    ),
}


def recipe(name: str) -> Recipe:
    """What int8 of a model of the zoo leaves out; nothing for most of them."""
    return _RECIPES.get(name, Recipe())


@dataclass(frozen=True)
class Inputs:
    """Real inputs of a model, one feed after another; each iteration starts anew.

    Attributes
    ----------
    feeds
        Makes them.
    task
        What the outputs mean.
    read
        Puts an output into words, one string for each row; None but for texts.
    """

    feeds: Callable[[], Iterator[Feed]]
    task: Literal["classes", "embedding", "text", "values"] = "values"
    read: Callable[[NDArray[np.generic]], list[str]] | None = None

    def __iter__(self) -> Iterator[Feed]:
        return self.feeds()


def evaluation(name: str) -> Inputs:
    """Inputs to evaluate a model of the zoo with, and what its outputs mean.

    Photographs for EfficientNet-Lite2 are 216, sentences for MiniLM 200; the others have their
    examples.

    Raises
    ------
    InputError
        There is no model of that name.
    """
    model = find(name)
    if name == "efficientnet_lite2":
        photographs = partial(varied_photographs, efficientnet.SIZE, _EVALUATION_SEED)
        feeds = partial(
            _photograph_feeds, photographs, _EVALUATION_VARIATIONS, _of_efficientnet, as_is=True
        )
        return Inputs(feeds, "classes")
    if name == "minilm":
        return Inputs(partial(_sentence_feeds, 0, EVALUATION_SENTENCES), "embedding")
    examples = partial(_examples, model.samples)
    if name == "ppocrv4_rec":
        return Inputs(examples, "text", _read_lines)
    return Inputs(examples)


def calibration_inputs(name: str) -> Inputs:
    """Inputs to calibrate a model of the zoo with: of the same kind, and none of `evaluation`.

    Raises
    ------
    InputError
        There is no model of that name.
    """
    model = find(name)
    if name in _PHOTOGRAPHED:
        size, scaled = _PHOTOGRAPHED[name]
        photographs = partial(varied_photographs, size, _CALIBRATION_SEED)
        return Inputs(partial(_photograph_feeds, photographs, _CALIBRATION_VARIATIONS, scaled))
    if name == "minilm":
        return Inputs(partial(_sentence_feeds, EVALUATION_SENTENCES, CALIBRATION_SENTENCES))
    if name == "ppocrv4_rec":
        return Inputs(_varied_lines)
    return Inputs(partial(_varied_examples, model.samples))


def sentences() -> tuple[str, ...]:
    """The sentences: 200 on twenty topics, then 64 on eight others."""
    text = Path(__file__).with_name(_TEXT).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def varied_photographs(
    size: Size, seed: int, count: int, *, as_is: bool = False
) -> Iterator[Planes]:
    """Parts of each example photograph: cropped, flipped, brighter or darker, recoloured.

    Parameters
    ----------
    size
        Of what is given.
    seed
        Of all that is random.
    count
        Of each photograph.
    as_is
        The first of each is the photograph as `swapnet.models.images.photographs` gives it.

    Yields
    ------
    numpy.ndarray
        (3, height, width), float32, 0 to 1.
    """
    for index, name in enumerate(PHOTOGRAPHS):
        image = picture(name)
        random = np.random.default_rng([seed, index])
        for number in range(count):
            chosen = image if as_is and number == 0 else _varied(image, random)
            yield fitted(chosen, size)


def _varied(image: Image, random: np.random.Generator) -> Image:
    """A crop of at least three quarters of each side, flipped or not, in other colours."""
    from PIL import ImageOps

    share = random.uniform(0.75, 1.0)
    width, height = round(image.width * share), round(image.height * share)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    crop = image.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        crop = ImageOps.mirror(crop)
    return _recoloured(crop, random)


def _recoloured(image: Image, random: np.random.Generator) -> Image:
    """Brightness and contrast up to 30 % higher or lower, saturation up to 50 %."""
    from PIL import ImageEnhance

    for kind, spread in (
        (ImageEnhance.Brightness, 0.3),
        (ImageEnhance.Contrast, 0.3),
        (ImageEnhance.Color, 0.5),
    ):
        image = kind(image).enhance(random.uniform(1 - spread, 1 + spread))
    return image


def _of_efficientnet(planes: Planes) -> Planes:
    scaled: Planes = ((planes * 255 - 127) / 128).astype(np.float32)
    return scaled


def _unchanged(planes: Planes) -> Planes:
    return planes


_PHOTOGRAPHED: Mapping[str, tuple[Size, Callable[[Planes], Planes]]] = {
    "efficientnet_lite2": (efficientnet.SIZE, _of_efficientnet),
    "vgg19": (classifier.SIZE, normalise),
    "resnet101": (classifier.SIZE, normalise),
    "resnet18": (classifier.SIZE, normalise),
    "mobilenet_v2": (classifier.SIZE, normalise),
    "fcn_resnet101": (resnet.FCN_SIZE, normalise),
    "yolov3": (yolo.SIZE, _unchanged),
    "yolov3_tiny": (yolo.SIZE, _unchanged),
    "monodepth2": ((monodepth.WIDTH, monodepth.HEIGHT), _unchanged),
}


def _photograph_feeds(
    photographs: Callable[..., Iterator[Planes]],
    count: int,
    scaled: Callable[[Planes], Planes],
    **options: bool,
) -> Iterator[Feed]:
    for planes in photographs(count, **options):
        yield {"input": scaled(planes)[None]}


def _sentence_feeds(start: int, count: int) -> Iterator[Feed]:
    words = minilm.tokenizer()
    words.no_truncation()
    words.no_padding()
    for line in words.encode_batch(list(sentences()[start : start + count])):
        yield {
            "input_ids": np.array([line.ids], np.int64),
            "attention_mask": np.array([line.attention_mask], np.int64),
            "token_type_ids": np.array([line.type_ids], np.int64),
        }


def _examples(samples: Callable[[], Feed]) -> Iterator[Feed]:
    arrays = samples()
    for index in range(len(next(iter(arrays.values())))):
        yield {name: array[index] for name, array in arrays.items()}


def _varied_examples(samples: Callable[[], Feed]) -> Iterator[Feed]:
    """Examples shifted along their last axis by a seeded share of it, wrapped around.

    Whatever they are, shapes and element types stay, and values keep their distribution.
    """
    random = np.random.default_rng(_CALIBRATION_SEED)
    for feed in _examples(samples):
        for share in random.uniform(0.1, 0.9, _LINE_VARIATIONS):
            yield {
                name: np.roll(array, max(1, int(share * array.shape[-1])), axis=-1)
                for name, array in feed.items()
            }


def _varied_lines() -> Iterator[Feed]:
    """Parts of the lines of text, in other shades."""
    random = np.random.default_rng(_CALIBRATION_SEED)
    page = picture("page.png")
    for left, top, right, bottom in ppocr.LINES:
        for _ in range(_LINE_VARIATIONS):
            share = random.uniform(0.4, 0.9)
            width = round((right - left) * share)
            start = left + int(random.integers(right - left - width + 1))
            crop = _recoloured(page.crop((start, top, start + width, bottom)), random)
            yield {"x": _line(crop)}


def _line(crop: Image) -> NDArray[np.float32]:
    """As `swapnet.models.ppocr.samples` has them: (1, 3, 48, 960)."""
    height, width = _LINE
    line = np.zeros((1, 3, height, width), np.float32)
    taken = min(width, round(height * crop.width / crop.height))
    line[0, :, :, :taken] = pixels(crop, taken, height) * 2 - 1
    return line


def _read_lines(output: NDArray[np.generic]) -> list[str]:
    alphabet = ppocr.characters()
    return [decode(np.asarray(line, np.float32), alphabet)[0] for line in output]
