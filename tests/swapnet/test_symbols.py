from __future__ import annotations

import pytest

from swapnet.errors import InputError
from swapnet.manifest import Tensor
from swapnet.shapes import input_shapes, shapes_of, symbol_sizes
from swapnet.symbols import (
    as_sizes,
    check_fixed,
    is_nameless,
    is_placeholder,
    known_sizes,
    largest_sizes,
    model_symbols,
    refusal_text,
    size_of,
    symbols_in,
)

BOTH = "past + seq"
DECODER = (
    Tensor("ids", "int64", ("b", "seq"), 8),
    Tensor("mask", "int64", ("b", BOTH), 8),
    Tensor("past", "float32", ("b", 8, "past", 64), 0),
)
SEPARATE = (
    Tensor("ids", "int64", ("b", "sequence_length"), 8),
    Tensor("mask", "int64", ("b", "total_sequence_length"), 8),
    Tensor("past", "float32", ("b", 8, "past_sequence_length", 64), 0),
)


@pytest.mark.parametrize(
    ("dim", "symbols", "size"),
    [
        (7, (), 7),
        ("n", ("n",), 3),
        ("n + past", ("n", "past"), 8),
        ("past_1 + 1", ("past_1",), None),
        ("2*n", ("n",), 6),
        ("n - past", ("n", "past"), None),
        ("-n + past", ("n", "past"), 2),
        ("floor(past/2) + 1", ("past",), 3),
        ("(past + 1)//n", ("past", "n"), 2),
        ("ceiling(past/2)", ("past",), 3),
        ("past/2", ("past",), None),
        ("Max(n, past)", ("n", "past"), 5),
        ("past % n", ("past", "n"), 2),
        ("past//zero", ("past", "zero"), None),
        ("batch-size", ("batch-size",), None),
        ("import os", ("import os",), None),
        ("exit()", ("exit()",), None),
        ("n.attribute", ("n.attribute",), None),
        ("x:0", ("x:0",), None),
        ("5", ("5",), None),
    ],
)
def test_expressions_are_read(dim: int | str, symbols: tuple[str, ...], size: int | None) -> None:
    assert symbols_in(dim) == symbols
    assert size_of(dim, {"n": 3, "past": 5, "zero": 0}) == size


@pytest.mark.parametrize(
    ("dim", "size", "found"),
    [
        ("2*n", 8, {"n": 4}),
        ("n + 1", 512, {"n": 511}),
        ("10 - n", 4, {"n": 6}),
        ("floor(n/32)", 7, {"n": 224}),
        ("a + b", 9, {"a": 8, "b": 1}),
        ("seq + past", 200, {"seq": 128, "past": 72}),
        ("seq + past", 64, {"seq": 64, "past": 0}),
    ],
)
def test_expressions_are_solved(dim: str, size: int, found: dict[str, int]) -> None:
    taken = [Tensor("x", "float32", (dim,), 4)]
    assert known_sizes(taken, {"x": (size,)}, {}, {"seq": 128, "past": 0}) == found


def test_a_sum_is_solved_from_what_stands_alone() -> None:
    assert input_shapes(DECODER, {"mask": (2, 512), "ids": (2, 1)}) == {
        "ids": (2, 1),
        "mask": (2, 512),
        "past": (2, 8, 511, 64),
    }
    shapes = input_shapes(DECODER, {"ids": (1, 3)}, dims={"past": 0})
    assert shapes == {"ids": (1, 3), "mask": (1, 3), "past": (1, 8, 0, 64)}
    assert symbol_sizes(DECODER, {}, dims={BOTH: 9, "seq": 2}) == {"b": 1, "seq": 2, "past": 7}


@pytest.mark.parametrize(
    ("given", "otherwise", "sizes"),
    [
        ({}, {"sequence_length": 128, "total_sequence_length": 128}, (128, 128, 0)),
        ({"past_sequence_length": 511, "sequence_length": 1}, {}, (1, 512, 511)),
        ({"past_sequence_length": 9}, {"sequence_length": 4}, (4, 13, 9)),
        ({"total_sequence_length": 200}, {"sequence_length": 128}, (128, 200, 72)),
        ({"total_sequence_length": 20}, {"sequence_length": 128}, (20, 20, 0)),
        ({"total_sequence_length": 20, "past_sequence_length": 16}, {}, (4, 20, 16)),
        (dict(zip(model_symbols(SEPARATE)[1:], (4, 64, 64), strict=True)), {}, (4, 64, 64)),
    ],
)
def test_a_total_of_its_own_name_follows_from_past_and_sequence(
    given: dict[str, int], otherwise: dict[str, int], sizes: tuple[int, ...]
) -> None:
    default = {"past_sequence_length": 0, **otherwise}
    found = symbol_sizes(SEPARATE, {}, default, dims=given)
    assert tuple(found[s] for s in model_symbols(SEPARATE)[1:]) == sizes


@pytest.mark.parametrize(
    ("shapes", "dims", "words"),
    [
        ({}, {"sequence": 5}, ("'sequence'", "'b', 'seq', 'past'")),
        (
            {"ids": (1, 3), "past": (1, 8, 4, 64), "mask": (1, 9)},
            {},
            ("'past + seq' has two sizes", "9 by --shapes of 'mask'", "7 by", "past=4,seq=3"),
        ),
        (
            {"ids": (1, 3)},
            {"seq": 4},
            ("'seq' has two sizes", "3 by --shapes of 'ids'", "4 by --dims"),
        ),
        ({"ids": (1, 3), "mask": (1, 2)}, {}, ("'past + seq' can't be 2", "'past'", "seq=3")),
    ],
)
def test_contradictions_name_the_symbol_and_both_sizes(
    shapes: dict[str, tuple[int, ...]], dims: dict[str, int], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        symbol_sizes(DECODER, shapes, dims=dims)
    said = str(caught.value)
    assert all(word in said for word in words), said


def test_the_largest_sizes_hold_all_shapes() -> None:
    first = {"ids": (2, 9), "mask": (2, 9), "past": (2, 8, 0, 64)}
    later = {"ids": (1, 1), "mask": (1, 31), "past": (1, 8, 30, 64)}
    assert largest_sizes(DECODER, (first, later)) == {"b": 2, "seq": 9, "past": 30}
    found = largest_sizes(SEPARATE, (first, later))
    assert [found[s] for s in model_symbols(SEPARATE)] == [2, 9, 39, 30]
    with pytest.raises(InputError, match="two sizes"):
        largest_sizes(DECODER, [{**first, "mask": (2, 8)}])


def test_fixed_models_have_no_symbols() -> None:
    with pytest.raises(InputError) as caught:
        symbol_sizes([Tensor("x", "float32", (3,), 12)], {}, dims={"n": 1})
    assert "no symbols" in caught.value.why


def test_a_dimension_that_is_no_size_is_refused() -> None:
    taken = [Tensor("x", "float32", ("n - 5",), 4)]
    with pytest.raises(InputError, match="'n - 5' of input 'x' has no size") as caught:
        shapes_of(taken, {"n": 3})
    assert "n=3" in caught.value.why


def test_what_the_graph_fixes_can_not_be_another() -> None:
    check_fixed("head", 64, 64)
    with pytest.raises(InputError, match="head=32") as caught:
        check_fixed("head", 32, 64)
    assert "need 64, not 32" in caught.value.why


def test_made_up_symbols_are_known() -> None:
    made_up = ("unk__12", "x.0", "images_dim_2", "s77", "ids_dynamic_axes_1", "None_3", "axis0")
    assert all(map(is_nameless, made_up))
    assert not any(map(is_nameless, ("batch", "n", "seq_2", "s", "height1", "time.dim.x")))
    assert all(map(is_placeholder, ("?", "None", "", "-1", " ")))
    assert not any(map(is_placeholder, ("n", "none1")))


def test_sizes_are_written_as_the_option_takes_them() -> None:
    assert as_sizes({"batch": 1, "a,b": 0}) == 'batch=1,"a,b"=0'


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            "running MatMul node. Name:'m' Status Message: /src/matmul_helper.h:142 onnxruntime::"
            "common::Status onnxruntime::Helper::Compute(const Shape&, bool) MatMul dimension "
            "mismatch\nStacktrace",
            "MatMul 'm': MatMul dimension mismatch",
        ),
        ("bad shape", "bad shape"),
        ("", "it gives no reason"),
        ("x" * 400, "x" * 239 + "…"),
    ],
)
def test_refusals_are_shortened(said: str, reason: str) -> None:
    assert refusal_text(said) == reason
