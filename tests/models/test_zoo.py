from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from swapnet import models
from swapnet.errors import InputError, ModelError
from swapnet.models import ZooModel, ppocr_det, zoo
from swapnet.models.fetch import file_sha256
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights
from tests.helpers.state_dict import state_dict

Infer = Callable[..., dict[str, NDArray[Any]]]

SEEDED = (
    *("vgg19", "resnet101", "resnet18", "mobilenet_v2", "fcn_resnet101"),
    *("yolov3", "yolov3_tiny", "monodepth2"),
)
PRETRAINED = ("ppocrv4_rec", "ppocrv4_det", "ddddocr", "efficientnet_lite2", "minilm")


def make(path: Path, weights: Path | None) -> int:
    with Graph(path, Weights(weights)) as graph:
        value = graph.input("input", (1, 2))
        graph.output("logits", graph.gemm(value, "fc", (2, 3)), (1, 3))
        return graph.save()


@pytest.fixture
def toy(cache_folder: Path) -> ZooModel:
    assert not cache_folder.exists()
    return ZooModel(
        name="toy",
        title="A linear layer",
        parameters=9,
        make=make,
        samples=lambda: {"input": np.arange(8, dtype=np.float32).reshape(4, 1, 2)},
        read=lambda inputs, outputs: f"{len(inputs)} in, {len(outputs)} out",
    )


def test_importing_is_light() -> None:
    heavy = ("gguf", "onnx", "onnxruntime", "PIL", "safetensors", "tokenizers")
    code = f"import sys, swapnet.models; sys.exit(any(name in sys.modules for name in {heavy}))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_names_are_the_promised_ones() -> None:
    assert models.networks() == (*SEEDED, *PRETRAINED, "bert_base")
    assert models.names() == (*models.networks(), "smollm2")
    for name in models.names():
        model = models.find(name)
        assert model.name == name
        assert model.title
        assert model.licence == ("MIT" if name == "ddddocr" else "Apache-2.0")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no model named vgg20") as caught:
        models.get("vgg20")
    for name in models.names():
        assert name in caught.value.hint


def test_get_makes_the_files_once(
    toy: ZooModel, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "_MODELS", (toy,))
    made = models.get("toy")
    assert made.onnx == cache_folder / "models" / "toy-r1" / "toy.onnx"
    assert made.sha256 == file_sha256(made.onnx)
    with np.load(made.data) as data, np.load(made.example) as example:
        assert data["input"].shape == (4, 1, 2)
        np.testing.assert_array_equal(example["input"], data["input"][0])
    before = made.onnx.stat()
    assert models.get("toy") == made
    assert made.onnx.stat().st_ino == before.st_ino


def test_get_writes_where_it_is_told(toy: ZooModel, tmp_path: Path) -> None:
    assert zoo.files(toy, tmp_path / "here").onnx == tmp_path / "here" / "toy-r1" / "toy.onnx"


def test_another_recipe_is_made_again(toy: ZooModel) -> None:
    def other(path: Path, weights: Path | None) -> int:
        with Graph(path, Weights(weights, seed=1)) as graph:
            value = graph.input("input", (1, 2))
            graph.output("logits", graph.gemm(value, "fc", (2, 3)), (1, 3))
            return graph.save()

    first, second = zoo.files(toy), zoo.files(replace(toy, make=other, recipe=2))
    assert first.sha256 != second.sha256
    assert zoo.files(toy) == first


def test_real_weights_have_files_of_their_own(toy: ZooModel, tmp_path: Path, infer: Infer) -> None:
    weights = tmp_path / "real.safetensors"
    tensors = {"fc.weight": np.eye(3, 2, dtype=np.float32), "fc.bias": np.ones(3, np.float32)}
    save_file(tensors, weights)
    seeded, real = zoo.files(toy), zoo.files(toy, weights=weights)
    assert real.onnx.parent != seeded.onnx.parent
    assert real.sha256 != seeded.sha256
    image = np.array([[5, 7]], np.float32)
    assert infer(real.onnx, input=image)["logits"].tolist() == [[6, 8, 1]]


def test_weights_that_do_not_fit_leave_nothing(
    toy: ZooModel, tmp_path: Path, cache_folder: Path
) -> None:
    weights = tmp_path / "wide.safetensors"
    save_file({"fc.weight": np.zeros((3, 9), np.float32)}, weights)
    with pytest.raises(ModelError, match=r"fc\.weight"):
        zoo.files(toy, weights=weights)
    assert not list((cache_folder / "models").iterdir())


def test_weights_of_its_own_are_not_replaced(toy: ZooModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy takes no other weights"):
        zoo.files(replace(toy, takes_weights=False), weights=tmp_path / "other.safetensors")


def test_missing_weights_are_named(toy: ZooModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        zoo.files(toy, weights=tmp_path / "none.safetensors")


def test_a_wrong_count_of_parameters_is_refused(toy: ZooModel) -> None:
    with pytest.raises(ModelError, match="it has 9 parameters, expected 10"):
        zoo.files(replace(toy, parameters=10))


def test_a_missing_package_is_named(toy: ZooModel) -> None:
    def missing(_: Path, __: Path | None) -> int:
        raise ModuleNotFoundError("No module named 'PIL'")

    with pytest.raises(ModelError, match=r"swapnet-trt\[models\]"):
        zoo.files(replace(toy, make=missing))


def test_read_puts_outputs_into_words(toy: ZooModel) -> None:
    assert toy.read({"input": np.zeros(1)}, {}) == "1 in, 0 out"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SEEDED} - {"fcn_resnet101"}))  # resnet101 and a head
def test_activations_are_of_order_1(name: str, infer: Infer) -> None:
    made = models.get(name)
    probe = onnx.load(made.onnx, load_external_data=False)
    public = {output.name for output in probe.graph.output}
    kinds = ("Relu", "LeakyRelu", "Elu", "Clip", "Add")
    readers: dict[str, set[str]] = {}
    for node in probe.graph.node:
        for value in node.input:
            readers.setdefault(value, set()).add(node.op_type)
    branches = {value for value, found in readers.items() if found == {"Add"}}
    watched = {node.output[0] for node in probe.graph.node if node.op_type in kinds} - branches
    probe.graph.output.extend(onnx.ValueInfoProto(name=value) for value in watched - public)
    with (
        NamedTemporaryFile(dir=made.onnx.parent, suffix=".onnx") as file,
        np.load(made.data) as data,
    ):
        onnx.save(probe, file.name)
        one, other = (infer(Path(file.name), input=image) for image in data["input"][:2])
    for value, array in one.items():
        assert np.isfinite(array).all()
        assert np.abs(array).max() < 50
        assert array.std() > 0.1
        assert np.std(array - other[value]) > 0.1 * array.std()


RECIPES: dict[str, tuple[float, ...]] = {
    "vgg19": (1, 0.852871),
    "resnet101": (1, 1.37046),
    "resnet18": (1, 0.855152),
    "mobilenet_v2": (1, 0.674447),
    "fcn_resnet101": (1, 1.47104),
    "yolov3": (1, 0.940747, 0.71398, 0.781572),
    "yolov3_tiny": (1, 0.677888, 0.62355),
    "monodepth2": (1, 0.790645),
    "ppocrv4_rec": (1, 0.000232752),
    "ppocrv4_det": (1, 0.14175),
    "ddddocr": (1, 1.12556),
    "efficientnet_lite2": (1, 0.726215),
    "minilm": (1, 0.185453),
    "bert_base": (1, 0.831835, 0.715022),
}
"""The recipe of each model, and what it answers to its example: means of roots of outputs."""


@pytest.mark.slow
@pytest.mark.parametrize("name", models.networks())
def test_files_are_as_described(name: str, infer: Infer) -> None:
    """Whoever changes a model or its inputs raises its `recipe`, and writes both down here."""
    model = models.find(name)
    with TemporaryDirectory() as folder:
        made = models.get(name, Path(folder))
        onnx.checker.check_model(made.onnx, full_check=True)
        with np.load(made.example) as example, np.load(made.data) as data:
            assert set(example) == set(data)
            assert all(data[key].shape[1:] == example[key].shape for key in example)
            outputs = infer(made.onnx, **example)
            assert model.read(example, outputs)
    answer = [float(np.sqrt(np.abs(output)).mean(dtype=np.float64)) for output in outputs.values()]
    recipe, *expected = RECIPES[name]
    assert model.recipe == recipe
    assert answer == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_ppocr_reads_the_page(infer: Infer) -> None:
    model, made = models.find("ppocrv4_rec"), models.get("ppocrv4_rec")
    with np.load(made.data) as data:
        texts = [model.read({"x": line}, infer(made.onnx, x=line)) for line in data["x"]]
    assert texts[0].startswith('"Region-based segmentation"')
    assert texts[1].startswith('"Let us first determine markers of the coins and the"')


@pytest.mark.slow
def test_minilm_ranks_sentences(infer: Infer) -> None:
    model, made = models.find("minilm"), models.get("minilm")
    with np.load(made.example) as example:
        inputs = dict(example)
    outputs = infer(made.onnx, **inputs)
    cosines = outputs["embedding"][1:] @ outputs["embedding"][0]
    assert cosines[0] == pytest.approx(0.70, abs=0.02)
    assert np.abs(cosines[2:4]).max() < 0.05
    assert model.read(inputs, outputs).splitlines()[1].endswith('"a man is eating food."')


@pytest.mark.slow
def test_ppocr_finds_the_lines_of_the_page(infer: Infer) -> None:
    made = models.get("ppocrv4_det")
    with np.load(made.data) as data:
        (pages,) = data.values()
    found = [ppocr_det.regions(infer(made.onnx, x=page).popitem()[1][0, 0]) for page in pages]
    assert [len(lines) for lines in found[:1] + found[-1:]] == [7, 1]
    title = found[0][0]
    assert title.left < 30 < 560 < title.right
    assert title.top < 36 < 53 < title.bottom
    assert all(upper.top < lower.top for upper, lower in pairwise(found[0]))


@pytest.mark.slow
def test_ddddocr_reads_the_page(infer: Infer) -> None:
    model, made = models.find("ddddocr"), models.get("ddddocr")
    with np.load(made.data) as data:
        texts = [model.read({}, infer(made.onnx, input1=line)) for line in data["input1"]]
    assert texts[0].startswith('"Region-basedsegmentation"')
    assert texts[-1].startswith('"histogramofgreyvalues')


@pytest.mark.slow
def test_efficientnet_knows_the_cat(infer: Infer) -> None:
    model, made = models.find("efficientnet_lite2"), models.get("efficientnet_lite2")
    with np.load(made.data) as data:
        texts = [model.read({}, infer(made.onnx, input=image)) for image in data["input"]]
    assert texts[0].startswith("Egyptian cat (285)")
    assert texts[2].startswith("espresso (967)")


@pytest.mark.slow
def test_bert_base_gives_its_weights() -> None:
    state = state_dict(models.get("bert_base").onnx)
    assert sum(values.size for values in state.values()) == 109_482_240
    assert state["embeddings.word_embeddings.weight"].shape == (30522, 768)
    assert state["encoder.layer.11.output.dense.weight"].shape == (768, 3072)
    assert state["pooler.dense.bias"].shape == (768,)
