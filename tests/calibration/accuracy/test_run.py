"""Two models on the same samples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from swapnet.calibration.accuracy.report import AccuracyReport
from swapnet.calibration.accuracy.run import compare_outputs
from swapnet.calibration.accuracy.tasks import ClassTask
from swapnet.errors import BackendError, EngineError, InputError, ModelError
from tests.calibration.accuracy.conftest import (
    Write,
    float_nodes,
    product,
    rounded,
    samples,
    weights,
)
from tests.helpers.engines import BuildToy


def test_a_model_equals_itself(reference: Path) -> None:
    report = compare_outputs(reference, reference, samples(), task="values", threads=1)
    (output,) = report.outputs
    assert (output.name, output.snr_db, output.within_tolerance) == ("y", None, 3)
    assert report.samples == 3
    assert msgspec.json.decode(msgspec.json.encode(report), type=AccuracyReport) == report


def test_errors_are_those_of_numpy(reference: Path, write: Write) -> None:
    nodes = [*float_nodes()[:3], product("third", "c", "w0", "y")]
    report = compare_outputs(reference, write("other", nodes), samples(), threads=1)
    (output,) = report.outputs
    w = weights()
    inner = [np.maximum(s["x"] @ w["w0"], 0) @ w["w1"] for s in samples()]
    expected = np.concatenate([values @ w["w2"] for values in inner])
    gaps = np.concatenate([values @ w["w0"] for values in inner]) - expected
    assert output.snr_db == pytest.approx(
        10 * np.log10((expected**2).sum() / (gaps**2).sum()), abs=1e-3
    )
    assert output.max_abs_error == pytest.approx(np.abs(gaps).max(), rel=1e-4)
    assert output.within_tolerance == 0
    assert output.classes is not None
    assert output.classes.rows == 6


@pytest.mark.parametrize(("tolerance", "within"), [(0.0, 0), (1e-6, 0), (1.0, 3)])
def test_tolerance_is_of_the_largest_magnitude(
    reference: Path, candidate: Path, tolerance: float, within: int
) -> None:
    report = compare_outputs(reference, candidate, samples(), tolerance=tolerance, threads=1)
    assert report.outputs[0].within_tolerance == within


def test_a_task_of_ones_own_takes_all_samples(reference: Path, candidate: Path) -> None:
    task = ClassTask()
    compare_outputs(reference, candidate, samples(), task=lambda *_: task, threads=1)
    assert task.result().rows == 6


def test_an_engine_inside_its_budget(engine: BuildToy) -> None:
    toy = engine("images")
    report = compare_outputs(
        toy.model, toy.folder, [toy.feeds(0), toy.feeds(1)], budget=toy.smallest, threads=1
    )
    assert report.samples == 2
    assert all(output.max_rel_error < 1e-5 for output in report.outputs)
    assert all(output.within_tolerance == 2 for output in report.outputs)


def test_no_samples(reference: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        compare_outputs(reference, reference, [], threads=1)


def test_other_outputs(reference: Path, write: Write) -> None:
    nodes = [*float_nodes()[:3], product("third", "c", "w2", "z")]
    with pytest.raises(InputError, match=r"has other outputs than .*\nthey are 'z', not 'y'"):
        compare_outputs(reference, write("other", nodes, output="z"), samples(), threads=1)


def test_other_inputs(reference: Path, engine: BuildToy) -> None:
    with pytest.raises(InputError, match=r"has other inputs than .*\nthey are 'image', not 'x'"):
        compare_outputs(reference, engine("images").folder, samples(), threads=1)


def test_another_shape(reference: Path, write: Write) -> None:
    model = onnx.load(write("other", float_nodes()))
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(onnx.helper.make_node("Concat", ["wide", "wide"], ["y"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    path = reference.with_name("wide.onnx")
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"another shape in .*\nit is 1x16, not 1x8 as in"):
        compare_outputs(reference, path, samples(), threads=1)


def test_a_sample_that_does_not_fit(reference: Path) -> None:
    with pytest.raises(BackendError, match="can't run a sample"):
        compare_outputs(reference, reference, [{"x": np.ones((1, 3), np.float32)}], threads=1)


def test_files_that_are_no_models(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        compare_outputs(reference, tmp_path / "nothing.onnx", samples(), threads=1)
    with pytest.raises(EngineError):
        compare_outputs(reference, tmp_path, samples(), threads=1)


def test_a_model_that_is_refused(reference: Path, write: Write) -> None:
    nodes = [*float_nodes()[:3], onnx.helper.make_node("Unheard", ["c"], ["y"])]
    with pytest.raises(ModelError, match="ONNX Runtime refuses"):
        compare_outputs(reference, write("unheard", nodes), samples(), threads=1)


def test_weights_in_float_between_rounded_values_stay_so(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    weight = random.standard_normal((8, 1, 3, 3)) * np.geomspace(1e-3, 1, 8).reshape(8, 1, 1, 1)
    constants: dict[str, NDArray[np.generic]] = {
        "w": weight.astype(np.float32),
        **{f"{name}_scale": np.array(0.02, np.float32) for name in ("x", "y")},
        "int8_zero": np.array(0, np.int8),
    }
    conv = onnx.helper.make_node(
        "Conv", ["x_DequantizeLinear_Output", "w"], ["y"], name="conv", group=8
    )
    whole = onnx.helper.make_node("Identity", ["y_DequantizeLinear_Output"], ["z"])
    sides = {"x": 6, "z": 4}
    given, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8, side, side])
        for name, side in sides.items()
    )
    graph = onnx.helper.make_graph(
        [*rounded("x"), conv, *rounded("y"), whole],
        "between",
        [given],
        [output],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.save_model(model, tmp_path / "candidate.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    feed = {"x": random.standard_normal((1, 8, 6, 6)).astype(np.float32)}
    expected = exact.run(None, feed)[0]
    onnx.save_model(_constant(expected, given), tmp_path / "reference.onnx")
    report = compare_outputs(
        tmp_path / "reference.onnx", tmp_path / "candidate.onnx", [feed], threads=1
    )
    assert report.outputs[0].max_abs_error < 0.021


def _constant(value: NDArray[np.float32], given: onnx.ValueInfoProto) -> onnx.ModelProto:
    """A model that gives ``value`` whatever it is given."""
    nodes = [
        onnx.helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        onnx.helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["value", "nothing"], ["z"]),
    ]
    output = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, value.shape)
    constants: dict[str, NDArray[np.float32]] = {"zero": np.array(0, np.float32), "value": value}
    graph = onnx.helper.make_graph(
        nodes,
        "constant",
        [given],
        [output],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
