"""Where the error enters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.calibration.accuracy import layers as module
from swapnet.calibration.accuracy.layers import compare_layers, match_layers, suggest
from swapnet.calibration.accuracy.metrics import error_of
from swapnet.calibration.accuracy.report import LayerAccuracy
from swapnet.errors import InputError, ModelError
from tests.calibration.accuracy.conftest import (
    Write,
    float_nodes,
    product,
    rounded,
    samples,
    weights,
)


def layer(operator: str, own_noise: float, *, excludable: bool = True) -> LayerAccuracy:
    return LayerAccuracy(
        value=operator,
        operator=operator,
        kind="Conv",
        snr_db=20.0,
        own_noise=own_noise,
        excludable=excludable,
    )


def test_values_are_matched(reference: Path, candidate: Path) -> None:
    found = match_layers(onnx.load(reference), onnx.load(candidate))
    assert [(m.value, m.measured, m.operator, m.inputs) for m in found] == [
        ("b", "b_DequantizeLinear_Output", "first", ()),
        ("c", "c", "second", ("b",)),
        ("y", "y", "third", ("c",)),
    ]
    assert all(m.excludable for m in found)


def test_operators_in_float_are_not_excludable(reference: Path, write: Write) -> None:
    nodes = [*float_nodes()[:2], *rounded("b")]
    nodes += [product("second", "b_DequantizeLinear_Output", "w1", "c"), float_nodes()[3]]
    mixed = onnx.load(write("mixed", nodes, {"b": 0.1}))
    found = {m.operator: m.excludable for m in match_layers(onnx.load(reference), mixed)}
    assert found == {"first": False, "relu": False, "second": True, "third": False}


def test_an_output_that_is_rounded_is_compared_before(reference: Path, write: Write) -> None:
    nodes = [*float_nodes()[:3], product("third", "c", "w2", "y_QuantizeLinear_Input")]
    pair = rounded("y")
    pair[0].input[0] = "y_QuantizeLinear_Input"
    pair[1].output[0] = "y"
    found = match_layers(onnx.load(reference), onnx.load(write("end", [*nodes, *pair], {"y": 0.1})))
    assert [m.measured for m in found][-2:] == ["c", "y_QuantizeLinear_Input"]


@pytest.mark.parametrize("group_bytes", [1, 64 << 20])
def test_numbers_are_those_of_numpy(reference: Path, candidate: Path, group_bytes: int) -> None:
    found = {
        one.value: one
        for one in compare_layers(
            reference, candidate, samples(), group_bytes=group_bytes, threads=1
        )
    }
    w = weights()
    x = np.concatenate([sample["x"] for sample in samples()])
    b = np.maximum(x @ w["w0"], 0)
    c, lossy = b @ w["w1"], np.clip(np.rint(x / np.float32(0.03)), -128, 127) * np.float32(0.03)
    lossy = np.clip(np.rint(lossy @ w["w0"] / np.float32(0.08)), 0, 255) * np.float32(0.08)
    at_b, at_c = error_of(b, lossy), error_of(c, lossy @ w["w1"])
    assert found["b"].snr_db == pytest.approx(at_b.snr_db, abs=0.05)
    assert found["c"].snr_db == pytest.approx(at_c.snr_db, abs=0.05)
    assert found["b"].own_noise == pytest.approx(at_b.noise_to_signal, rel=0.02)
    grown = max(at_c.noise_to_signal - at_b.noise_to_signal, 0)
    assert found["c"].own_noise == pytest.approx(grown, rel=0.1, abs=1e-5)
    assert suggest(list(found.values())) == ("third",)


def test_groups_are_bounded(
    reference: Path, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[tuple[str, ...]] = []
    real = module._session

    def session(path: Path, proto: onnx.ModelProto, names: list[str], threads: int | None):  # type: ignore[no-untyped-def]
        groups.append(tuple(names))
        return real(path, proto, names, threads)

    monkeypatch.setattr(module, "_session", session)
    compare_layers(reference, candidate, samples(), group_bytes=2 * 8 * 4, threads=1)
    assert groups[2::2] == [("b", "c"), ("y",)]


def test_only_the_first_samples(reference: Path, candidate: Path) -> None:
    one = compare_layers(reference, candidate, samples(), limit=1, threads=1)
    assert one == compare_layers(reference, candidate, samples(1), threads=1)
    assert one != compare_layers(reference, candidate, samples(), threads=1)


def test_values_in_float16(reference: Path, write: Write) -> None:
    model = onnx.load(write("half", float_nodes()))
    for tensor in model.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    nodes = float_nodes()
    nodes[0].input[0], nodes[3].output[0] = "x16", "y16"
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
            *nodes,
            helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        ]
    )
    path = reference.with_name("half16.onnx")
    onnx.save(model, path)
    found = compare_layers(reference, path, samples(), threads=1)
    assert [one.value for one in found] == ["a", "b", "c", "y"]
    assert all(one.snr_db is not None and 50 < one.snr_db < 90 for one in found)


def test_integers_are_not_compared(write: Write) -> None:
    shape = helper.make_node("ArgMax", ["c"], ["best"], name="best", axis=1)
    nodes = [*float_nodes(), shape]
    found = compare_layers(write("one", nodes), write("other", nodes), samples(), threads=1)
    assert [one.value for one in found] == ["a", "b", "c", "y"]
    assert all(one.snr_db is None and one.own_noise == 0 for one in found)
    assert suggest(found) == ()


def test_the_worst_are_suggested() -> None:
    found = [layer("small", 0.5), layer("large", 6.0), layer("float", 90.0, excludable=False)]
    assert suggest([*found, layer("middle", 1.5), layer("large", 1.0)]) == ("large", "middle")
    assert suggest([layer(f"conv{i}", 1.0) for i in range(8)]) == tuple(
        f"conv{i}" for i in range(5)
    )
    assert suggest([]) == ()


def test_nothing_in_common(reference: Path, write: Write) -> None:
    other = write("other", [product("only", "x", "w0", "z")], output="z")
    with pytest.raises(InputError, match="has no float value of"):
        compare_layers(reference, other, samples(), threads=1)


def test_no_samples(reference: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        compare_layers(reference, reference, [], threads=1)


def test_what_can_not_be_run(reference: Path, write: Write) -> None:
    bad = [{"x": np.ones((1, 8), np.float32)}, {"x": np.ones((1, 3), np.float32)}]
    with pytest.raises(ModelError, match="layer by layer"):
        compare_layers(reference, reference, bad, threads=1)
    nodes = [*float_nodes()[:3], helper.make_node("Unheard", ["c"], ["y"])]
    with pytest.raises(ModelError, match="layer by layer"):
        compare_layers(reference, write("unheard", nodes), samples(), threads=1)
