"""Formulas of dimensions: the simplest that explains what a model did at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.importing.formulas import (
    Solver,
    known_by_shapes,
    trial_sizes,
    with_formulas,
)
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.symbols import with_fixed
from swapnet.builder.rewriting.optimise import TYPES
from swapnet.symbols import model_symbols, size_of
from tests.helpers.decoders import grouped

Import = Callable[..., Graph]

WIDTHS = [s["w"] for s in trial_sizes([512], ["w"])]
LENGTHS = [s["n"] for s in trial_sizes([7, 512], ["w", "n"])]


def find_formula(trace: Sequence[int], symbols: Sequence[Sequence[int]]) -> str | None:
    columns = [np.array(symbol) for symbol in symbols]
    solver = Solver(columns)
    basis = [(f"_{index}", column) for index, column in enumerate(columns)]
    return solver.of_one(np.array(trace)) or solver.of_several(np.array(trace), basis)


def value(formula: str | None, *sizes: int) -> int | None:
    assert formula is not None
    names = {f"_{index}": size for index, size in enumerate(sizes)}
    return int(formula) if formula.isdigit() else size_of(formula, names)


@pytest.mark.parametrize(
    "true",
    [
        lambda w: 7 + 0 * w,
        lambda w: w,
        lambda w: w // 32,
        lambda w: (w + 31) // 32,
        lambda w: ((w + 1) // 2 + 1) // 2 // 2,
        lambda w: 2 * ((w + 15) // 16),
        lambda w: 12 * w,
        lambda w: w - 2,
        lambda w: (w - 40) // 16 + 1,
        lambda w: 3 * w + 5,
    ],
)
def test_one_symbol_is_explained_at_sizes_that_were_not_tried(true: Callable[[int], int]) -> None:
    formula = find_formula([true(width) for width in WIDTHS], [WIDTHS])
    assert [value(formula, w) for w in (64, 128, 255, 512)] == [
        true(w) for w in (64, 128, 255, 512)
    ]


@pytest.mark.parametrize(
    "true",
    [lambda b, n: b * n, lambda b, n: 12 * b * n, lambda b, n: b + n],
)
def test_several_symbols_are_multiplied_or_added(true: Callable[[int, int], int]) -> None:
    batches = [1 + n % 4 for n in range(len(LENGTHS))]
    trace = [true(b, n) for b, n in zip(batches, LENGTHS, strict=True)]
    assert value(find_formula(trace, [batches, LENGTHS]), 3, 96) == true(3, 96)


def test_what_nothing_explains_has_no_formula() -> None:
    assert find_formula([w * w + 1 for w in WIDTHS], [WIDTHS]) is None
    assert find_formula([-w for w in WIDTHS], [WIDTHS]) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 40), st.integers(-3, 9))
def test_a_formula_gives_what_was_seen(factor: int, step: int, added: int, rest: int) -> None:
    trace = [factor * ((w + added) // step) + rest + 100 for w in WIDTHS]
    formula = find_formula(trace, [WIDTHS])
    assert [value(formula, w) for w in WIDTHS] == trace


def test_trials_differ_and_stay_small() -> None:
    trials = list(trial_sizes([1, 1024, 4], ["batch", "width", "few"]))
    assert len({t["width"] for t in trials}) > 6
    assert all(0 < t["batch"] <= 4 and t["width"] <= 512 for t in trials)
    assert any(t["width"] % 32 for t in trials)


@pytest.fixture
def model() -> onnx.ModelProto:
    """x (n, w) -> twice -> flat -> y; NonZero of x -> z; zeros of as many as `lengths` says."""
    make, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Concat", ["x", "x"], ["twice"], axis=1),
        make("Shape", ["twice"], ["shape"]),
        make("ReduceProd", ["shape"], ["count"], keepdims=1),
        make("Reshape", ["twice", "count"], ["flat"]),
        make("ConstantOfShape", ["lengths"], ["other"]),
        make("NonZero", ["x"], ["found"]),
        make("Sin", ["flat"], ["y"]),
        make("Cast", ["found"], ["z"], to=TensorProto.FLOAT),
    ]
    made = helper.make_graph(
        nodes,
        "toy",
        [
            info("x", TensorProto.FLOAT, ["n", "w"]),
            info("lengths", TensorProto.INT64, [1]),
        ],
        [info(n, TensorProto.FLOAT, None) for n in ("y", "other", "z")],
        [numpy_helper.from_array(np.zeros(1, np.float32), "unused")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_sizes_that_data_decides_are_told_from_others(
    model: onnx.ModelProto, import_model: Import
) -> None:
    known = known_by_shapes(import_model(model))
    assert {"x", "twice", "shape", "count", "flat", "y"} <= known
    assert not known & {"other", "found", "z"}


def test_a_graph_gets_formulas_of_what_follows(
    model: onnx.ModelProto, import_model: Import, tmp_path: Path
) -> None:
    shapes = {"x": (2, 96), "lengths": (1,)}
    graph = replace(import_model(model, shapes), symbols={"n": 2, "w": 96})
    formulas = with_formulas(graph, tmp_path / TYPES).formulas

    def sized(name: str) -> list[int | None]:
        return [value(formulas.get(str(dim)), 3, 50) for dim in graph.values[name].shape]

    assert [sized("x"), sized("twice"), sized("y")] == [[3, 50], [3, 100], [300]]
    assert not {str(dim) for n in ("other", "z") for dim in graph.values[n].shape} & set(formulas)


@pytest.mark.parametrize("batch", [1, 2, 4, 16])
def test_an_open_batch_alone_is_tried_at_sizes_enough(
    batch: int, import_model: Import, tmp_path: Path
) -> None:
    make, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Reshape", ["x", "shape"], ["flat"]),
        make("Sin", ["flat"], ["y"]),
        make("Relu", ["x"], ["z"]),
    ]
    ends = [info(n, TensorProto.FLOAT, None) for n in ("y", "z")]
    inline = [numpy_helper.from_array(np.array([-1, 2]), "shape")]
    made = helper.make_graph(
        nodes, "toy", [info("x", TensorProto.FLOAT, ["n", 3, 4])], ends, inline
    )
    toy = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    graph = replace(import_model(toy, {"x": (batch, 3, 4)}), symbols={"n": batch})
    formulas = with_formulas(graph, tmp_path / TYPES).formulas
    rows, images = graph.values["y"].shape[0], graph.values["z"].shape[0]
    assert (value(formulas[str(rows)], 5), value(formulas[str(images)], 5)) == (30, 5)


def test_a_decoder_is_tried_at_lengths_that_belong_together(
    import_model: Import, tmp_path: Path
) -> None:
    pasts = [f"past_key_values.{layer}.{kind}" for layer in range(3) for kind in ("key", "value")]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(pasts, (1, 2, 0, 16))
    shapes |= dict.fromkeys(("input_ids", "attention_mask"), (1, 128))
    graph = with_fixed(import_model(grouped(), shapes), {"kv_cache_dim": 16})
    symbols = model_symbols(graph.inputs)
    sizes = {"batch_size": 1, "past_sequence_length": 0}
    graph = replace(graph, symbols={name: sizes.get(name, 128) for name in symbols})
    formulas = with_formulas(graph, tmp_path / TYPES).formulas
    given = [f"_{symbols.index(n)}" for n in ("batch_size", "sequence_length")]
    dims = graph.values[graph.outputs[-1].name].shape
    assert [formulas[str(dim)] for dim in dims[:2]] == given
    lengths = {str(graph.values[output.name].shape[2]) for output in graph.outputs[:-1]}
    total = symbols.index("total_sequence_length")
    assert {formulas[length] for length in lengths} == {f"_{total}"}


def test_without_symbols_or_enough_trials_there_are_no_formulas(
    model: onnx.ModelProto,
    import_model: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = import_model(model, {"x": (2, 96), "lengths": (1,)})
    assert not with_formulas(graph, tmp_path / TYPES).formulas
    graph = replace(graph, symbols={"n": 2, "w": 96})
    monkeypatch.setattr(
        "swapnet.builder.importing.formulas.shapes_at", lambda *given: [None for _ in given[3]]
    )
    assert not with_formulas(graph, tmp_path / TYPES).formulas
