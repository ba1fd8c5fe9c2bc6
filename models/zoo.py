"""The registry of models, and their files, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import InputError, ModelError
from swapnet.files import cache_folder
from swapnet.models import (
    bert_base,
    cache,
    classifier,
    ddddocr,
    efficientnet,
    minilm,
    mobilenet,
    monodepth,
    ppocr,
    ppocr_det,
    resnet,
    smollm2,
    vgg,
    yolo,
)
from swapnet.models.classifier import Tensors
from swapnet.models.fetch import file_sha256
from swapnet.models.graph import Graph
from swapnet.models.weights import missing_weights

__all__ = ["ZooFiles", "ZooModel", "files", "find", "get", "names", "networks"]


@dataclass(frozen=True)
class ZooFiles:
    """A model of the zoo on the disk.

    Attributes
    ----------
    onnx
        The model; seeded and converted ones have their weights in ``NAME.onnx.data`` beside it.
    example
        ``.npz`` of one real input: arrays ready to feed, by input name.
    data
        ``.npz`` of several representative inputs: the same arrays with a leading sample axis;
        sample 0 is the example.
    licence
        SPDX identifier of the licence of the weights.
    sha256
        Hash of the ``.onnx`` file, in hexadecimal. It covers weights beside the file too:
        their hash is in its metadata. Those of a language model are checked when it is made.
    """

    name: str
    onnx: Path
    example: Path
    data: Path
    licence: str
    sha256: str

    @property
    def model(self) -> Path:
        """What to build: the ``.onnx`` file, or its folder where that has a tokenizer."""
        folder = self.onnx.parent
        return folder if (folder / "genai_config.json").is_file() else self.onnx


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo.

    Attributes
    ----------
    title
        Description in one line.
    licence
        SPDX identifier of the licence of the weights.
    parameters
        Number of trainable parameters; checked when the model is made.
    make
        Writes the ``.onnx`` file, with the weights in a file or the model's own (None), and
        returns its number of parameters.
    samples
        Returns real inputs by name, with a leading sample axis.
    read
        Puts the outputs for given inputs into words, in one or a few lines; both are arrays by
        name.
    recipe
        Version of `make` and `samples`, and part of the name of the model's folder: raise it when
        you change their results.
    takes_weights
        Real weights can be given in place of its own.
    is_language_model
        It takes tokens and a cache, and has a tokenizer: `networks` leaves it out.
    """

    name: str
    title: str
    parameters: int
    make: Callable[[Path, Path | None], int] = field(repr=False)
    samples: Callable[[], dict[str, NDArray[np.generic]]] = field(repr=False)
    read: Callable[[Tensors, Tensors], str] = field(repr=False)
    licence: str = "Apache-2.0"
    recipe: int = 1
    takes_weights: bool = True
    is_language_model: bool = False


def _classifier(
    name: str, title: str, parameters: int, network: Callable[[Graph, str], str], seed: int
) -> ZooModel:
    return ZooModel(
        name=name,
        title=f"{title}: 1000 image classes, seeded weights",
        parameters=parameters,
        make=partial(classifier.make, network=network, seed=seed),
        samples=classifier.samples,
        read=classifier.strongest,
    )


def _made_by(module: Any, name: str, title: str, parameters: int, **others: Any) -> ZooModel:
    """A model whose module makes it, its samples and its words, but for ``others``."""
    parts = {part: getattr(module, part) for part in ("make", "samples", "read")}
    return ZooModel(name, title, parameters, **{**parts, **others})


_RESNET101 = partial(resnet.resnet, network=resnet.RESNET101)
_RESNET18 = partial(resnet.resnet, network=resnet.RESNET18)

_MODELS = (
    _classifier("vgg19", "VGG-19", 143_667_240, vgg.vgg, seed=19),
    _classifier("resnet101", "ResNet-101", 44_549_160, _RESNET101, seed=101),
    _classifier("resnet18", "ResNet-18", 11_689_512, _RESNET18, seed=18),
    _classifier("mobilenet_v2", "MobileNetV2", 3_504_872, mobilenet.mobilenet, seed=2),
    ZooModel(
        name="fcn_resnet101",
        title="FCN-ResNet101: 21 classes for each pixel, seeded weights",
        parameters=51_949_141,
        make=resnet.make_fcn,
        samples=partial(classifier.samples, resnet.FCN_SIZE),
        read=resnet.read_fcn,
    ),
    _made_by(yolo, "yolov3", "YOLOv3: boxes of 80 classes, seeded weights", 61_949_149),
    _made_by(
        yolo,
        "yolov3_tiny",
        "YOLOv3-tiny: boxes of 80 classes, seeded weights",
        8_852_366,
        make=yolo.make_tiny,
        read=partial(yolo.read, heads=yolo.TINY_HEADS),
    ),
    _made_by(
        monodepth, "monodepth2", "Monodepth2: disparity of each pixel, seeded weights", 14_327_217
    ),
    _made_by(
        ppocr,
        "ppocrv4_rec",
        "PP-OCRv4 recognition: reads a line of text, pretrained",
        2_690_352,
        takes_weights=False,
    ),
    _made_by(
        ppocr_det,
        "ppocrv4_det",
        "PP-OCRv4 detection: finds lines of text, pretrained",
        1_171_841,
        takes_weights=False,
    ),
    _made_by(
        ddddocr,
        "ddddocr",
        "ddddocr recognition: reads short texts, pretrained",
        13_520_258,
        takes_weights=False,
        licence="MIT",
    ),
    _made_by(
        efficientnet,
        "efficientnet_lite2",
        "EfficientNet-Lite2: 1000 image classes, pretrained",
        6_092_072,
    ),
    _made_by(minilm, "minilm", "all-MiniLM-L6-v2: compares sentences, pretrained", 22_565_376),
    _made_by(
        bert_base,
        "bert_base",
        "BERT-base: hidden states of 128 tokens, seeded weights",
        109_482_240,
    ),
    _made_by(
        smollm2,
        "smollm2",
        "SmolLM2-135M-Instruct: continues a text, pretrained",
        134_515_008,
        takes_weights=False,
        is_language_model=True,
    ),
)


def names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(model.name for model in _MODELS)


def networks() -> tuple[str, ...]:
    """Return the names of models that are one network from inputs to outputs, without a cache."""
    return tuple(model.name for model in _MODELS if not model.is_language_model)


def find(name: str) -> ZooModel:
    """Return a model by name.

    Raises
    ------
    InputError
        The zoo has no such model.
    """
    for model in _MODELS:
        if model.name == name:
            return model
    raise InputError(
        f"there is no model named {name}",
        why=f"the zoo has {len(_MODELS)} others",
        hint=f"choose one of {', '.join(names())}",
    )


def get(name: str, folder: Path | None = None, weights: Path | None = None) -> ZooFiles:
    """Return the files of a model, making them on the first call.

    Parameters
    ----------
    name
        One of `names`.
    folder
        Folder of the models; by default ``models`` in the cache folder (``$SWAPNET_CACHE`` or
        ``~/.cache/swapnet``).
    weights
        A ``.safetensors`` file of real weights with torchvision's parameter names (or those that
        `swapnet.models.yolo`, `monodepth`, `efficientnet`, `minilm` and `bert` document). The files
        go to a folder named by the hash of the weights.

    Raises
    ------
    InputError
        There is no such model or file of weights, or the model takes none.
    ModelError
        The weights do not fit, or a package that makes models is missing.
    StorageError
        A file can't be downloaded or written.
    """
    return files(find(name), folder, weights)


def files(model: ZooModel, folder: Path | None = None, weights: Path | None = None) -> ZooFiles:
    """Return the files of a model that need not be in the registry; as `get`."""
    key = f"{model.name}-r{model.recipe}"
    if weights is not None:
        if not model.takes_weights:
            raise InputError(
                f"{model.name} takes no other weights",
                why=f"{weights} was given, but the model is published with its own",
                hint="leave the weights out",
            )
        if not weights.is_file():
            raise missing_weights(weights)
        key = f"{key}-{file_sha256(weights)[:16]}"
    home = cache.create(
        (folder or cache_folder() / "models") / key, lambda partial: _fill(model, partial, weights)
    )
    onnx = home / f"{model.name}.onnx"
    return ZooFiles(
        name=model.name,
        onnx=onnx,
        example=home / "example.npz",
        data=home / "data.npz",
        licence=model.licence,
        sha256=file_sha256(onnx),
    )


def _fill(model: ZooModel, folder: Path, weights: Path | None) -> None:
    try:
        parameters = model.make(folder / f"{model.name}.onnx", weights)
        samples: dict[str, Any] = model.samples()
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{model.name} can't be made here",
            why=str(error),
            hint="install the packages that make models: pip install 'swapnet-trt[models]'",
        ) from error
    if parameters != model.parameters:
        raise ModelError(
            f"{model.name} was not made as designed",
            why=f"it has {parameters:,} parameters, expected {model.parameters:,}",
            hint="report this with the version of swapnet",
        )
    np.savez(folder / "data.npz", **samples)
    np.savez(folder / "example.npz", **{name: array[0] for name, array in samples.items()})
