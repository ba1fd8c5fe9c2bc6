from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import swapnet.builder.rewriting.narrowing
from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler
from swapnet.builder.cutting.partition import Part, partition
from swapnet.builder.importing.graph import Constant, Graph
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.rewriting.narrowing import (
    Narrow,
    expanded_values,
    narrow_weights,
    weight_forms,
)
from swapnet.builder.rewriting.optimise import Operators
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.builder.stages import with_memory
from swapnet.builder.writing.blocks import compile_parts, with_owners
from swapnet.executor import Device, SwapExecutor
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest, Source, save_manifest
from swapnet.progress import silent
from swapnet.tensors import ONNX_TYPES
from tests.helpers.engines import poison
from tests.helpers.zoo import TOYS, Net, mlp

Import = Callable[..., Graph]
Arrays = dict[str, NDArray[Any]]
FORMS: tuple[Narrow, ...] = ("float16", "int8")
both = pytest.mark.parametrize("form", FORMS)


def wide(constant: Constant) -> NDArray[np.float32]:
    return constant.bytes().view(np.float32).reshape(constant.shape)


def expanded(graph: Graph, name: str) -> NDArray[np.float32]:
    """What the narrow weight ``name`` stands for, computed by NumPy."""
    if half := graph.constants.get(f"{name}/float16"):
        return half.bytes().view(np.float16).astype(np.float32).reshape(half.shape)
    numbers, scales = (graph.constants[f"{name}/{part}"] for part in ("int8", "scale"))
    rows = numbers.bytes().view(np.int8).reshape(numbers.shape)
    return rows * scales.bytes().view(np.float32)[:, None]


def stored_bytes(graph: Graph) -> int:
    return sum(constant.nbytes for constant in graph.constants.values())


def run(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """The graph as one model, unswapped, with one thread."""
    model = helper.make_model(
        helper.make_graph(
            list(graph.nodes),
            "whole",
            [helper.make_tensor_value_info(v.name, 1, v.shape) for v in graph.inputs],
            [helper.make_tensor_value_info(v.name, 1, v.shape) for v in graph.outputs],
            initializer=[*graph.inline.values(), *map(_initialiser, graph.constants.values())],
        ),
        opset_imports=graph.opset_imports,
        ir_version=graph.ir_version,
    )
    for info, value in zip(
        (*model.graph.input, *model.graph.output), (*graph.inputs, *graph.outputs), strict=True
    ):
        info.type.tensor_type.elem_type = ONNX_TYPES[value.dtype]
    options = quiet_options(optimise=False)
    options.intra_op_num_threads = 1
    names = [value.name for value in graph.outputs]
    outputs = open_session(model.SerializeToString(), options).run(names, dict(feeds))
    return dict(zip(names, outputs, strict=True))


def _initialiser(constant: Constant) -> onnx.TensorProto:
    kind, data = ONNX_TYPES[constant.dtype], constant.bytes().tobytes()
    return helper.make_tensor(constant.name, kind, constant.shape, data, raw=True)


def feeds_of(graph: Graph, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        v.name: random.standard_normal(v.planned).astype(np.float32)
        if v.dtype == "float32"
        else random.integers(0, 100, v.planned).astype(v.dtype)
        for v in graph.inputs
    }


def product(*shape: int, weight: NDArray[np.float32] | None = None) -> onnx.ModelProto:
    net = Net()
    name = net.weight(*shape) if weight is None else net.constant(weight)
    net.output(net("MatMul", net.input("x", (2, shape[0])), name))
    return net.model()


def decibels(signal: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    noise = np.square(signal - found.reshape(signal.shape), dtype=np.float64).sum()
    return float(10 * np.log10(np.square(signal, dtype=np.float64).sum() / noise))


# What is stored


@pytest.mark.parametrize(("form", "factor", "least"), [("float16", 2.0, 70), ("int8", 3.8, 38)])
def test_bytes_fall_and_the_signal_stays(
    import_model: Import, tmp_path: Path, form: Narrow, factor: float, least: float
) -> None:
    graph = import_model(product(500, 320))
    narrow = narrow_weights(graph, form, tmp_path)
    assert stored_bytes(graph) >= factor * stored_bytes(narrow)
    assert decibels(wide(graph.constants["w0"]), expanded(narrow, "w0")) >= least


def test_half_precision_rounds_to_the_nearest_even(import_model: Import, tmp_path: Path) -> None:
    step = 2.0**-10
    weight = np.resize(np.array([1 + step / 2, 1 + 3 * step / 2, 65504, -65504, 0]), (80, 64))
    graph = import_model(product(80, 64, weight=weight.astype(np.float32)))
    narrow = narrow_weights(graph, "float16", tmp_path)
    found = expanded(narrow, "w0").reshape(-1)[:5].tolist()
    assert found == [1, 1 + 2 * step, 65504, -65504, 0]
    assert narrow.constants["w0/float16"].shape == (80, 64)


def test_groups_share_a_scale_in_stored_order(import_model: Import, tmp_path: Path) -> None:
    weight = np.zeros((16, 512), np.float32)
    weight[1, ::2], weight[2, 3], weight[3] = 2.0, -1.27, np.linspace(-1, 1, 512)
    weight[4, 0] = 1e-45
    narrow = narrow_weights(import_model(product(16, 512, weight=weight)), "int8", tmp_path)
    numbers, scales = narrow.constants["w0/int8"], narrow.constants["w0/scale"]
    assert (numbers.shape, scales.shape) == ((16, 512), (16,))
    found = expanded(narrow, "w0")
    assert not found[[0, *range(4, 16)]].any()
    np.testing.assert_array_equal(found[1], weight[1])
    assert found[2, 3] == np.float32(-1.27)
    rows = numbers.bytes().view(np.int8).reshape(16, 512)
    assert (rows.min(), rows.max()) == (-127, 127)


@pytest.mark.parametrize(
    ("shape", "length"), [((64, 64), 512), ((100, 50), 500), ((521, 67), 67), ((523, 59), 0)]
)
def test_groups_divide_the_weight(
    import_model: Import, tmp_path: Path, shape: tuple[int, int], length: int
) -> None:
    graph = import_model(product(*shape))
    narrow = narrow_weights(graph, "int8", tmp_path)
    if length:
        elements = shape[0] * shape[1]
        assert narrow.constants["w0/int8"].shape == (elements // length, length)
    assert weight_forms(graph, "int8") == {"w0": "int8" if length else "float16"}
    assert narrow.constants.keys() == ({"w0/int8", "w0/scale"} if length else {"w0/float16"})


@both
@pytest.mark.parametrize("value", [65520.0, np.inf, np.nan])
def test_what_does_not_fit_stays(
    import_model: Import, tmp_path: Path, form: Narrow, value: float
) -> None:
    weight = np.ones((64, 64), np.float32)
    weight[3, 5] = -value
    graph = import_model(product(64, 64, weight=weight))
    held = form == "int8" and np.isfinite(value)
    assert weight_forms(graph, form) == {"w0": "int8" if held else "float32"}
    narrow = narrow_weights(graph, form, tmp_path)
    assert (narrow is graph) != held


def test_kernels_of_few_elements_are_not_int8(import_model: Import) -> None:
    net = Net()
    value = net.input("x", (1, 8, 9, 9))
    deep = net("Conv", value, net.weight(512, 8, 3, 3))
    net.output(net("Conv", deep, net.weight(512, 1, 3, 3), group=512), net("Neg", deep))
    assert weight_forms(import_model(net.model()), "int8") == {"w0": "int8", "w1": "float16"}


def test_conversion_in_pieces_is_the_same(
    import_model: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = import_model(product(320, 100))
    whole = {form: expanded(narrow_weights(graph, form, tmp_path), "w0").copy() for form in FORMS}
    monkeypatch.setattr(swapnet.builder.rewriting.narrowing, "_PIECE_ELEMENTS", 1100)
    for form in FORMS:
        np.testing.assert_array_equal(
            expanded(narrow_weights(graph, form, tmp_path), "w0"), whole[form]
        )


def test_weights_lie_on_disk(import_model: Import, tmp_path: Path) -> None:
    narrow = narrow_weights(import_model(mlp()), "int8", tmp_path)
    assert all(isinstance(constant.data, np.memmap) for constant in narrow.constants.values())
    assert (tmp_path / "narrow.data").stat().st_size == stored_bytes(narrow)


# Which weights


def names(graph: Graph, **options: Any) -> set[str]:
    return set(weight_forms(graph, "float16", **options))


def test_small_weights_biases_and_other_constants_stay(import_model: Import) -> None:
    net = Net()
    value = net.dense(net.input("x", (64, 4096)), 4096, 64)
    value = net("Gemm", value, net.weight(64, 4096), net.weight(4096))
    value = net("Mul", value, net.weight(64, 4096))
    net.output(net.dense(value, 4096, 1), net.dense(value, 4096, 2))
    assert names(import_model(net.model())) == {"w0", "w1", "w4", "w5"}


def test_other_types_stay(import_model: Import) -> None:
    assert not names(import_model(TOYS["half"].make()))
    assert not names(import_model(TOYS["quantised"].make()))


def test_recurrent_weights_are_weights(import_model: Import) -> None:
    graph = import_model(TOYS["lstm-sliced"].make())
    (node,) = (node for node in graph.nodes if node.op_type == "LSTM")
    assert names(graph) >= {node.input[1], node.input[2]}
    assert names(graph).isdisjoint(node.input[3:])


@pytest.mark.parametrize("limit", [2 << 20, 256 << 10])
def test_tables_stay_whole_and_in_slices(import_model: Import, limit: int) -> None:
    graph = slice_operators(import_model(TOYS["tied-gemm"].make()), limit)
    assert names(graph) == {"w1"}


@pytest.mark.parametrize(("toy", "inside"), [("branches", "w1"), ("loop", "w1")])
def test_what_bodies_read_stays(import_model: Import, toy: str, inside: str) -> None:
    graph = import_model(TOYS[toy].make())
    assert names(graph)
    assert inside in graph.constants
    assert inside not in names(graph)


@pytest.mark.parametrize("kept", ["w1", "matmul2"])
def test_weights_are_kept_by_their_name_and_their_operators(
    import_model: Import, kept: str
) -> None:
    whole = import_model(mlp(width=128))
    assert names(whole) - names(whole, keep={kept}) == {"w1"}
    sliced = slice_operators(whole, 32 << 10)
    left = names(sliced) - names(sliced, keep={kept})
    assert left == {f"w1/matmul2.0/{part}" for part in range(2)}


def test_nothing_to_narrow(import_model: Import, tmp_path: Path) -> None:
    graph = import_model(TOYS["weightless"].make())
    assert narrow_weights(graph, "int8", tmp_path) is graph
    assert not (tmp_path / "narrow.data").exists()


# What is executed


@both
@pytest.mark.parametrize(
    ("toy", "limit"),
    [
        ("images-sliced", 1 << 20),
        ("images-sliced", 64 << 10),
        ("transformer", 1 << 20),
        ("lstm-sliced", 64 << 10),
        ("wide-opset-7", 64 << 10),
        ("wide-opset-21", 64 << 10),
        ("used-twice", 16 << 10),
        ("tied-gemm", 2 << 20),
        ("loop", 16 << 10),
        ("lookups", 1 << 20),
    ],
)
@pytest.mark.parametrize("operators", [Operators.HARDWARE, Operators.PORTABLE])
def test_the_engine_expands_what_numpy_expands(
    import_model: Import, tmp_path: Path, form: Narrow, toy: str, limit: int, operators: Operators
) -> None:
    model, shapes = TOYS[toy].make(), TOYS[toy].shapes
    graph = slice_operators(import_model(model, shapes, operators), limit)
    narrow = narrow_weights(graph, form, tmp_path)
    forms = weight_forms(graph, form)
    assert form in forms.values()
    known = {
        name: replace(
            graph.constants[name],
            whole_shape=graph.constants[name].shape,
            axis=None,
            data=np.frombuffer(expanded(narrow, name).tobytes(), np.uint8),
        )
        for name in forms
    }
    feeds = feeds_of(graph)
    found, expected = (
        run(narrow, feeds),
        run(replace(graph, constants={**graph.constants, **known}), feeds),
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@both
def test_a_weight_of_several_is_stored_once_and_expanded_for_each(
    import_model: Import, tmp_path: Path, form: Narrow
) -> None:
    net = Net()
    value, weight = net.input("x", (64, 64)), net.weight(64, 64)
    for _ in range(2):
        value = net("Tanh", net("MatMul", value, weight))
    net.output(net("MatMul", weight, weight), value)
    graph = import_model(net.model())
    narrow = narrow_weights(graph, form, tmp_path)
    assert len(narrow.constants) == len(graph.constants) + (form == "int8")
    kinds = Counter(node.op_type for node in narrow.nodes)
    assert kinds["Cast"] + kinds["DequantizeLinear"] == 3
    assert {node.output[0] for node in narrow.nodes} | {"x"} == narrow.values.keys()
    assert all(value.planned == value.shape for value in narrow.values.values())
    for node in narrow.nodes:
        if node.op_type == "MatMul":
            assert "w0" not in narrow.constants
            assert set(node.input) <= narrow.values.keys()


def test_names_that_are_taken(import_model: Import, tmp_path: Path) -> None:
    net = Net()
    names_taken = ("w0/int8", "w0/scale", "w0/rows", "w0/dims", "w1/float16")
    value = net.dense(net.input("x", (2, 67)), 67, 64)
    value = net.dense(net.dense(value, 64, 67), 67, 67)
    for name in names_taken:
        net.nodes.append(helper.make_node("Sin", [value], [name], name))
        value = name
    net.output(value)
    graph = import_model(net.model())
    narrow = narrow_weights(graph, "int8", tmp_path)
    assert not narrow.constants.keys() & {*narrow.values, *narrow.inline}
    assert not narrow.inline.keys() & narrow.values.keys()
    (found,) = run(narrow, feeds_of(graph)).values()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("opset", [12, 13])
def test_the_domain_of_scales_is_imported_once(
    import_model: Import, tmp_path: Path, opset: int
) -> None:
    graph = import_model(mlp(opset=opset))
    others = [entry for entry in graph.opset_imports if entry.domain in ("", "ai.onnx")]
    for imports in (others, list(graph.opset_imports)):
        done = narrow_weights(replace(graph, opset_imports=imports), "int8", tmp_path)
        (domain,) = {n.domain for n in done.nodes if n.op_type == "DequantizeLinear"}
        assert domain == ("com.microsoft" if opset == 12 else "")
        count = [entry.domain for entry in done.opset_imports].count("com.microsoft")
        assert count == (opset == 12 or imports is not others)


# Where it is cut


def cut(graph: Graph, limit: int) -> list[Part]:
    return partition(graph, limit, uncut=expanded_values(graph))


@both
@pytest.mark.parametrize("limit", [1, 4 << 10, 16 << 10])
@pytest.mark.parametrize("toy", ["used-twice", "lstm-sliced", "wide-opset-21"])
def test_no_wide_weight_crosses_a_cut(
    import_model: Import, tmp_path: Path, form: Narrow, limit: int, toy: str
) -> None:
    graph = narrow_weights(import_model(TOYS[toy].make()), form, tmp_path)
    values = expanded_values(graph)
    kinds = Counter(node.op_type for node in graph.nodes)
    assert len(values) == kinds["Cast"] + 2 * kinds["DequantizeLinear"]
    parts = cut(graph, limit)
    assert len(parts) > 1
    assert values.isdisjoint(name for part in parts for name in (*part.inputs, *part.outputs))


def test_what_is_read_later_may_cross(import_model: Import) -> None:
    net = Net()
    wide = net("Cast", net.weight(64, 64, dtype=np.float16), to=TensorProto.FLOAT)
    value = net("MatMul", net.input("x", (64, 64)), wide)
    given = net("Cast", net.weight(64, 64, dtype=np.float16), to=TensorProto.FLOAT)
    net.output(given, net("MatMul", net("MatMul", value, given), wide))
    graph = import_model(net.model())
    assert [node.op_type for node in graph.nodes].count("Cast") == 2
    assert expanded_values(graph) == set()


# The engine


def built(
    graph: Graph, folder: Path, limit: int, compiler: OnnxRuntimeCompiler
) -> tuple[Path, Manifest]:
    """As `swapnet.builder.build` does from the sliced graph on."""
    engine, work = folder / "engine", folder / "work"
    engine.mkdir(parents=True)
    work.mkdir()
    manifest = compile_parts(
        with_owners(graph, cut(graph, limit)),
        engine,
        work,
        compiler,
        source=Source("toy", "", ""),
        max_block_bytes=limit,
        progress=silent,
    )
    save_manifest(engine, manifest)
    manifest = with_memory(manifest, compiler.memory(engine, manifest))
    save_manifest(engine, manifest)
    return engine, manifest


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("toy", "slices", "blocks", "operators"),
    [
        ("images-sliced", 64 << 10, 32 << 10, Operators.HARDWARE),
        ("transformer", 128 << 10, 64 << 10, Operators.HARDWARE),
        ("lstm-sliced", 64 << 10, 8 << 10, Operators.PORTABLE),
        ("used-twice", 16 << 10, 4 << 10, Operators.PORTABLE),
        ("wide-opset-7", 32 << 10, 16 << 10, Operators.PORTABLE),
    ],
)
def test_swapped_equals_unswapped(
    import_model: Import,
    tmp_path: Path,
    form: Narrow,
    toy: str,
    slices: int,
    blocks: int,
    operators: Operators,
) -> None:
    model, shapes = TOYS[toy].make(), TOYS[toy].shapes
    graph = slice_operators(import_model(model, shapes, operators), slices)
    narrow = narrow_weights(graph, form, tmp_path)
    make = partial(built, limit=blocks, compiler=OnnxRuntimeCompiler(portable=False))
    _, before = make(graph, tmp_path / "wide")
    folder, manifest = make(narrow, tmp_path / "narrow")
    gone = stored_bytes(graph) - stored_bytes(narrow)
    assert gone > 0
    assert before.weights_nbytes - manifest.weights_nbytes > 0.9 * gone - 4096 * len(before.blocks)
    smallest, whole = smallest_budget(manifest)[0], demand(manifest).total_bytes
    inputs = [dict(planned_sample(manifest, seed)) for seed in (0, 1)]
    expected = [run(narrow, feeds) for feeds in inputs]
    streamed = []
    for budget in (smallest, (smallest + whole) // 2, whole):
        with SwapExecutor(folder, budget, device=Device(1), before_read=poison) as executor:
            streamed.append(executor.plan.streamed_bytes)
            for feeds, outputs in zip(inputs * 2, expected * 2, strict=True):
                found = executor(feeds)
                for name, value in outputs.items():
                    np.testing.assert_array_equal(found[name], value)
    assert streamed[0] > streamed[-1] == 0
    with SwapExecutor(tmp_path / "wide" / "engine", smallest_budget(before)[0]) as executor:
        assert executor.plan.streamed_bytes > streamed[0]


@pytest.mark.slow
@both
def test_an_expanded_weight_is_activation_memory(
    import_model: Import, tmp_path: Path, form: Narrow
) -> None:
    """Once: what restores its shape copies nothing, and one is gone before the next is there."""
    graph = narrow_weights(import_model(mlp(layers=4, width=512)), form, tmp_path)
    _, manifest = built(graph, tmp_path / "narrow", 1 << 20, OnnxRuntimeCompiler(portable=True))
    (wide_bytes,) = {graph.values[name].nbytes for name in expanded_values(graph)}
    assert wide_bytes == 1 << 20
    held = [block.activation_bytes for block in manifest.blocks]
    assert min(held) >= wide_bytes
    assert max(held) < 1.2 * wide_bytes
    assert max(block.operators.count("MatMul") for block in manifest.blocks) > 1
