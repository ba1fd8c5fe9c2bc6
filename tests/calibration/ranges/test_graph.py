"""Which activations there are, and the models that give them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet.arrays import save_npz
from swapnet.builder.precision.selection import Channels
from swapnet.calibration.ranges.collect import EXTREMES, extreme_name, mean_name
from swapnet.calibration.ranges.graph import open_model, work_folder
from swapnet.data.spool import Sample
from swapnet.errors import InputError, ModelError, StorageError
from tests.calibration.ranges.conftest import Toy, one_thread
from tests.helpers.zoo import Net


def test_activations_are_all_float_values(convolutions: Toy, products: Toy, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    opened = open_model(convolutions.path, tmp_path / "work")
    assert set(opened.activations()) == set(convolutions.values()[0])
    (tmp_path / "other").mkdir()
    activations = open_model(products.path, tmp_path / "other").activations()
    assert activations[0] == "x"
    assert "ids" not in activations


def test_weights_are_linked(convolutions: Toy, tmp_path: Path) -> None:
    opened = open_model(convolutions.path, tmp_path)
    data = opened.path.with_name("weights-0.data")
    assert data.samefile(convolutions.path.with_suffix(".data"))


def test_weights_are_copied_where_links_are_refused(
    convolutions: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another filesystem")

    monkeypatch.setattr(os, "link", refuse)
    opened = open_model(convolutions.path, tmp_path)
    data = opened.path.with_name("weights-0.data")
    assert data.read_bytes() == convolutions.path.with_suffix(".data").read_bytes()


def test_extremes_are_of_the_tensors(convolutions: Toy, tmp_path: Path) -> None:
    opened = open_model(convolutions.path, tmp_path)
    tensors = opened.activations()[1:]
    variant = opened.with_extremes(tensors, {}, "extremes")
    session = one_thread(variant.path)
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(None, convolutions.samples[0]), strict=True))
    for index, tensor in enumerate(tensors):
        value = convolutions.values()[0][tensor]
        low, high, total = (given[extreme_name(index, operator)] for operator in EXTREMES)
        assert (low, high) == (value.min(), value.max())
        assert total == pytest.approx(value.sum(dtype=np.float64), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("opset", [17, 18])
def test_means_are_of_channels(tmp_path: Path, opset: int) -> None:
    net = Net()
    flat = net("Flatten", net("Relu", net.input("x", (2, 3, 4, 5))))
    net.output(net("Gemm", flat, net.weight(60, 7)))
    path = tmp_path / "net.onnx"
    onnx.save_model(net.model(opset), path)
    (tmp_path / "work").mkdir()
    opened = open_model(path, tmp_path / "work")
    channels = opened.ranked({"x": Channels(1, 3), flat: Channels(-1, 60)})
    session = one_thread(opened.with_extremes([], channels, "means").path)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    given = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True)
    )
    assert set(given) == {mean_name(0), mean_name(1)}
    np.testing.assert_allclose(given[mean_name(0)], x.mean(axis=(0, 2, 3)), atol=1e-6)
    rows = np.maximum(x, 0).reshape(2, 60)
    np.testing.assert_allclose(given[mean_name(1)], rows.mean(axis=0), atol=1e-6)


def test_values_of_unknown_rank_have_no_means(tmp_path: Path) -> None:
    net = Net()
    net.output(net.dense(net("Reshape", net.input("x", (4, 6)), net.input("s", ("n",), 7)), 6, 2))
    path = tmp_path / "net.onnx"
    onnx.save_model(net.model(), path)
    (tmp_path / "work").mkdir()
    opened = open_model(path, tmp_path / "work")
    assert opened.ranked({net.nodes[0].output[0]: Channels(-1, 6)}) == {}


def test_only_what_is_needed_is_run(products: Toy, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    opened = open_model(products.path, tmp_path / "work")
    first = next(node for node in opened.graph.nodes if "ids" in node.input)
    variant = opened.with_outputs(first.output, "one")
    graph = onnx.load_model(variant.path, load_external_data=False).graph
    assert variant.inputs == ("ids",)
    assert [node.output for node in graph.node] == [first.output]
    assert {weight.name for weight in graph.initializer} < set(first.input)


def test_nothing_computed_keeps_the_model(convolutions: Toy, tmp_path: Path) -> None:
    variant = open_model(convolutions.path, tmp_path).with_extremes([], {}, "none")
    before = onnx.load_model(convolutions.path, load_external_data=False).graph
    after = onnx.load_model(variant.path, load_external_data=False).graph
    assert [n.op_type for n in after.node] == [n.op_type for n in before.node]
    assert [o.name for o in after.output] == [o.name for o in before.output]


def test_bytes_at_given_shapes(products: Toy, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    opened = open_model(products.path, tmp_path / "work")
    save_npz(tmp_path / "0.npz", {"x": np.ones((5, 64), np.float32), "ids": np.ones(5, np.int64)})
    nbytes = opened.nbytes({"x": (5, 64), "ids": (5,)}, Sample(tmp_path / "0.npz"))
    assert {nbytes[name] for name in opened.activations()} == {5 * 64 * 4}
    assert "ids" not in nbytes


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (["nothing"], "computes no such value"),
        (["ids"], "it is int64"),
        ([], "none is float32"),
    ],
)
def test_what_can_not_be_observed(
    products: Toy, tmp_path: Path, tensors: list[str], why: str
) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError) as caught:
        open_model(products.path, tmp_path / "work").chosen(tensors)
    assert why in caught.value.why


def test_a_model_without_inputs(tmp_path: Path) -> None:
    net = Net()
    net.output(net("RandomNormal", shape=[2, 2]))
    onnx.save_model(net.model(), tmp_path / "net.onnx")
    (tmp_path / "work").mkdir()
    with pytest.raises(ModelError, match="takes no inputs"):
        open_model(tmp_path / "net.onnx", tmp_path / "work")


def test_a_folder_that_refuses(convolutions: Toy, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        open_model(convolutions.path, tmp_path / "missing")


@pytest.mark.parametrize("refused", [1, 2])
def test_the_folder_is_elsewhere_where_the_models_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    make = tempfile.mkdtemp
    asked: list[object] = []

    def refusing(**options: Any) -> str:
        asked.append(options.get("dir"))
        if len(asked) <= refused:
            raise PermissionError(13, "Permission denied")
        return str(make(**options))

    monkeypatch.setattr(tempfile, "mkdtemp", refusing)
    if refused == 2:
        with (
            pytest.raises(StorageError, match=r"a temporary folder for .* can't be written"),
            work_folder(tmp_path / "net.onnx"),
        ):
            pass
        return
    with work_folder(tmp_path / "net.onnx") as folder:
        assert folder.parent != tmp_path
    assert not folder.exists()
    assert asked == [tmp_path, Path(tempfile.gettempdir())]
