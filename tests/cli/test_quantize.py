"""``swapnet quantize`` and ``swapnet build --precision``."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.normalise import normalise
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.windows import packs_bits
from swapnet.executor.planning.planner import smallest_budget
from swapnet.manifest import load_manifest
from swapnet.ranges import RangeCache, load_ranges, save_ranges
from tests.builder.precision.conftest import (
    convolutions,
    feeds_of,
    noise_db,
    ranges_by_running,
    run,
)
from tests.cli.conftest import Call
from tests.helpers.zoo import Net

SAMPLES = 3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save_model(convolutions(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    feeds = [feeds_of(convolutions(), seed)["image"] for seed in range(SAMPLES)]
    np.savez(path, image=np.stack(feeds))
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_quantize_then_reuse_the_ranges(
    call: Call, model: Path, data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "toy.int8.onnx"
    assert call("quantize", model, "--data", data, "-o", target).status == 0
    cache = load_ranges(tmp_path / "toy.int8.ranges.json")
    assert (cache.samples, cache.method, cache.model) == (SAMPLES, "minmax", "toy")
    feeds = feeds_of(convolutions(), 8)
    assert noise_db(run(model, feeds), run(target, feeds)) > 20
    again = tmp_path / "again.onnx"
    reuse = ("--calibration", tmp_path / "toy.int8.ranges.json")
    assert call("quantize", model, *reuse, "-o", again).status == 0
    assert again.read_bytes() == target.read_bytes()
    assert not (tmp_path / "again.ranges.json").exists()
    engine = tmp_path / "engine"
    built = call("build", model, "-o", engine, "--precision", "int8", *reuse, "--no-measure")
    assert built.status == 0
    assert load_manifest(engine).precision == "int8"
    before = _names(tmp_path)
    edited = json.loads((engine / "ranges.json").read_text())
    edited["ranges"]["image"] = {"low": 1.0, "high": -1.0}
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    wrong = call("quantize", model, "--calibration", tmp_path / "edited.json", "-o", again)
    assert wrong.is_user_error("edited.json", "low <= 0 <= high")
    assert _names(tmp_path) == before | {"edited.json"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_methods_and_data_in_one_go(
    call: Call, model: Path, data: Path, tmp_path: Path, method: str
) -> None:
    engine = tmp_path / "engine"
    arguments = ("--precision", "int8", "--data", data, "--method", method, "--limit", "2")
    assert call("build", model, "-o", engine, *arguments, "--no-measure").status == 0
    cache = load_ranges(engine / "ranges.json")
    assert (cache.method, cache.samples) == (method, 2)


@pytest.fixture
def cache(model: Path, tmp_path: Path) -> RangeCache:
    """Ranges, and means of the image: what an edited file is made from."""
    (tmp_path / "normal").mkdir()
    source = normalise(open_source(model), tmp_path / "normal")
    feeds = [feeds_of(convolutions(), seed) for seed in range(SAMPLES)]
    means = np.stack([feed["image"] for feed in feeds]).mean(axis=(0, 1, 3, 4), dtype=np.float64)
    found = ranges_by_running(source, *feeds)
    return msgspec.structs.replace(found, means={"image": tuple(means.tolist())})


def test_a_cache_without_means_is_one_too(
    call: Call, model: Path, cache: RangeCache, tmp_path: Path
) -> None:
    written = {}
    for name, kept in (("with", cache.means), ("without", {})):
        path, target = tmp_path / f"{name}.json", tmp_path / f"{name}.onnx"
        save_ranges(path, msgspec.structs.replace(cache, means=kept))
        assert ("means" in json.loads(path.read_text())) == bool(kept)
        assert call("quantize", model, "--calibration", path, "-o", target).status == 0
        written[name] = target.read_bytes()
    assert written["with"] != written["without"]


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([0.5], ("1 means of 'image'", "3 channels")),
        ([0.5] * 4, ("4 means of 'image'", "3 channels")),
        ([], ("0 means of 'image'", "3 channels")),
        ([0.5, 1e39, 0.5], ("edited.json", "not all finite")),
        ([0.5, float("nan"), 0.5], ("edited.json is not a calibration cache",)),
    ],
)
def test_means_that_were_edited_badly(
    call: Call,
    model: Path,
    cache: RangeCache,
    tmp_path: Path,
    means: list[float],
    words: tuple[str, ...],
) -> None:
    save_ranges(tmp_path / "edited.json", cache)
    content = json.loads((tmp_path / "edited.json").read_text())
    content["means"]["image"] = means
    (tmp_path / "edited.json").write_text(json.dumps(content))
    target = tmp_path / "out.onnx"
    for options in ((), ("--weight-only",)):
        given = (*options, "--calibration", tmp_path / "edited.json", "-o", target)
        assert call("quantize", model, *given).is_user_error(*words)
    assert not target.exists()


@pytest.mark.slow
def test_an_if_body_may_hand_on_a_weight(call: Call, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "token": random.standard_normal((1, 1, 512)).astype(np.float32),
        "w": random.standard_normal((512, 512)).astype(np.float32),
        "zero": np.array(0),
    }

    def body(operator: str, *inputs: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(operator, TensorProto.FLOAT, [None] * 3)
        return helper.make_graph(
            [helper.make_node(operator, inputs, [operator])], operator, [], [output]
        )

    branches = {
        "then_branch": body("Expand", "token", "shape"),
        "else_branch": body("Identity", "token"),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["rows"], axis=0),
            helper.make_node("Less", ["rows", "zero"], ["none"]),
            helper.make_node("If", ["none"], ["tokens"], **branches),
            helper.make_node("Add", ["x", "tokens"], ["sum"]),
            helper.make_node("MatMul", ["sum", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4, 512])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model, data = tmp_path / "if.onnx", tmp_path / "data.npz"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, model)
    np.savez(data, x=random.standard_normal((4, 4, 4, 512)).astype(np.float32))
    built = call(
        *("build", model, "-o", tmp_path / "engine", "--no-measure"),
        *("--precision", "int8", "--data", data, "--method", "entropy"),
    )
    assert built.status == 0, built.err
    assert call("run", tmp_path / "engine", "--budget", "64MiB").status == 0


def test_half_and_weights_need_no_data(call: Call, model: Path, tmp_path: Path) -> None:
    half, narrow = tmp_path / "half.onnx", tmp_path / "narrow.onnx"
    assert call("quantize", model, "--precision", "fp16", "-o", half).status == 0
    assert call("quantize", model, "--weight-only", "-o", narrow).status == 0
    feeds = feeds_of(convolutions())
    wanted = run(model, feeds)
    assert noise_db(wanted, run(half, feeds)) > 50
    assert noise_db(wanted, run(narrow, feeds)) > 35


def test_int4_needs_no_data(call: Call, data: Path, tmp_path: Path) -> None:
    net = Net()
    net.output(net("Tanh", net.dense(net.input("x", (3, 256)), 256, 64)))
    model, target = tmp_path / "dense.onnx", tmp_path / "dense.int4.onnx"
    onnx.save_model(net.model(), model)
    given = "quantize", model, "--precision", "int4", "-o", target
    assert call(*given, "--block-size", "64").status == 0
    feeds = feeds_of(net.model())
    assert noise_db(run(model, feeds), run(target, feeds)) > 15
    assert call(*given, "--data", data).is_user_error("int4 takes no ranges", "--data")
    assert call(*given, "--block-size", "16").is_user_error("block size of 16", "32, 64, 128")


@pytest.mark.slow
def test_an_engine_of_int4_is_its_model_in_int4(call: Call, tmp_path: Path) -> None:
    net = Net()
    value = net("Tanh", net.dense(net.input("x", (2, 256)), 256, 512))
    net.output(net("Gemm", value, net.weight(384, 512), net.weight(384), transB=1))
    model, target, engine = (tmp_path / name for name in ("m.onnx", "m.int4.onnx", "engine"))
    onnx.save_model(net.model(), model)
    given = "--precision", "int4", "-o"
    assert call("quantize", model, *given, target).status == 0
    built = call("build", model, *given, engine, "--no-measure", "--max-block", "64KiB")
    if not packs_bits(onnxruntime.__version__):
        assert built.is_user_error("int4 needs ONNX Runtime")
        return
    assert built.status == 0, built.err
    manifest = load_manifest(engine)
    assert manifest.precision == "int4"
    assert all(block.windows for block in manifest.blocks)
    feeds = feeds_of(net.model())
    with SwapExecutor(engine, smallest_budget(manifest)[0]) as executor:
        (found,) = executor(feeds).values()
    np.testing.assert_array_equal(found, next(iter(run(target, feeds).values())))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("ranges", "--data")),
        (("--data", "nowhere"), ("nowhere",)),
        (("--data", "EMPTY"), ("EMPTY",)),
        (("--data", "no_module:function"), ("no_module",)),
        (("--data", "WRONG"), ("image", "1x3x5x5", "1x3x12x12")),
        (("--data", "DOUBLE"), ("image", "float64", "float32")),
        (("--data", "NAN"), ("image", "NaN")),
        (("--data", "DATA", "--calibration", "DATA"), ("calibration",)),
        (("--calibration", "DATA"), ("not a calibration cache",)),
        (("--calibration", "missing.json"), ("missing.json",)),
        (("--weight-only", "--exclude", "nothing"), ("'nothing'",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_leaves_nothing(
    call: Call,
    model: Path,
    data: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    places = {"EMPTY": tmp_path / "EMPTY", "DATA": data}
    places["EMPTY"].mkdir()
    wrong = np.zeros((2, 1, 3, 5, 5), np.float32)
    double = np.zeros((2, 1, 3, 12, 12))
    nan = np.full((2, 1, 3, 12, 12), np.nan, np.float32)
    for name, array in (("WRONG", wrong), ("DOUBLE", double), ("NAN", nan)):
        places[name] = tmp_path / f"{name}.npz"
        np.savez(places[name], image=array)
    before = _names(tmp_path)
    given = [str(places.get(argument, argument)) for argument in arguments]
    for command in ("quantize", "build"):
        precision = ("--precision", "int8") if command == "build" else ()
        failed = call(command, model, "-o", tmp_path / "out", *precision, *given)
        assert failed.is_user_error(*words)
        assert _names(tmp_path) == before


def test_an_operator_without_int8_kernel(call: Call, data: Path, tmp_path: Path) -> None:
    net = Net()
    net.output(net("Relu", net.input("image", (1, 3, 12, 12))))
    path = tmp_path / "relu.onnx"
    onnx.save_model(net.model(), path)
    before = _names(tmp_path)
    failed = call("quantize", path, "--data", data, "-o", tmp_path / "out.onnx")
    assert failed.is_user_error("relu", "int8", "Conv", "--weight-only")
    cuda = ("--backend", "onnxruntime-cuda", "--precision", "int8", "--data", data)
    failed = call("build", path, "-o", tmp_path / "e", *cuda)
    assert failed.is_user_error("onnxruntime-cuda", "--weight-only")
    assert _names(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "toy.onnx"),
        ("-o", "out.onnx", "--cache", "toy.onnx"),
        ("-o", "out.onnx", "--cache", "out.onnx"),
        ("-o", "out.onnx", "--cache", "nowhere/../toy.onnx"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_the_model(
    call: Call, model: Path, data: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before = model.read_bytes()
    given = [a if a.startswith("-") else tmp_path / a for a in arguments]
    failed = call("quantize", model, "--data", data, *given)
    assert failed.is_user_error("can't be written")
    assert model.read_bytes() == before
    assert _names(tmp_path) == {"toy.onnx", "data.npz"}


def test_weights_beside_the_model_are_not_written_over(call: Call, tmp_path: Path) -> None:
    onnx.save_model(
        convolutions(),
        tmp_path / "toy.onnx",
        save_as_external_data=True,
        location="out.onnx.data",
        size_threshold=0,
    )
    before = (tmp_path / "out.onnx.data").read_bytes()
    for name in ("out.onnx", "out.onnx.data"):
        half = ("--precision", "fp16", "-o", tmp_path / name)
        assert call("quantize", tmp_path / "toy.onnx", *half).is_user_error("out.onnx.data")
    assert (tmp_path / "out.onnx.data").read_bytes() == before


def test_ranges_of_another_model_are_refused_in_every_precision(
    call: Call, model: Path, tmp_path: Path
) -> None:
    ranges = RangeCache("swapnet-ranges/1", "0" * 64, "other", "minmax", 1, "1", {})
    save_ranges(tmp_path / "other.json", ranges)
    for options in (("--precision", "fp16"), ("--weight-only",), ()):
        given = ("--calibration", tmp_path / "other.json", "-o", tmp_path / "out.onnx")
        assert call("quantize", model, *options, *given).is_user_error("another model")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.slow
def test_excluding_everything_leaves_nothing_to_do(
    call: Call, model: Path, data: Path, tmp_path: Path
) -> None:
    names = [n.name for n in convolutions().graph.node if n.op_type in ("Conv", "Gemm")]
    given = [argument for name in names for argument in ("--exclude", name)]
    failed = call("quantize", model, "--data", data, "-o", tmp_path / "out.onnx", *given)
    assert failed.status == 2
    assert "nothing of toy is left" in failed.err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.slow
def test_shapes_of_another_rank_are_an_error(
    call: Call, model: Path, data: Path, tmp_path: Path
) -> None:
    given = ("--precision", "int8", "--data", data, "--shapes", "image:1x3")
    assert call("build", model, "-o", tmp_path / "e", *given).is_user_error("image")
