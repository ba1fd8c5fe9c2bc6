from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite

import numpy as np
import onnx
import pytest

import swapnet.builder.rewriting.operator_times
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.operator_times import Candidate, candidate, time_alternatives
from tests.helpers.zoo import Net

Import = Callable[..., Graph]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many alternatives were measured together, each time; nothing is known before."""
    real, counts = swapnet.builder.rewriting.operator_times._measured, list[int]()

    def spy(alternatives: list[Candidate], threads: int) -> tuple[float, ...]:
        counts.append(len(alternatives))
        return real(alternatives, threads)

    monkeypatch.setattr(swapnet.builder.rewriting.operator_times, "_measured", spy)
    monkeypatch.setattr(swapnet.builder.rewriting.operator_times, "_known", {})
    return counts


def perceptron(width: int = 32, seed: int = 0) -> onnx.ModelProto:
    """A product of a weight that is an input when it is timed, and shapes that stay."""
    net = Net(seed, f"{seed}/")
    value = net("Relu", net.dense(net.input("x", (2, 64)), 64, width))
    net.output(net("Reshape", value, net.constant(np.array([width, 2]))))
    return net.model()


def test_a_candidate_is_what_a_graph_reads_and_gives(import_model: Import) -> None:
    graph = import_model(perceptron())
    (weight,), one = graph.constants, candidate(graph)
    assert one.inputs == {"x": ("float32", (2, 64)), weight: ("float32", (64, 32))}
    assert one.outputs == tuple(value.name for value in graph.outputs)
    assert len(one.inline) == 1
    np.testing.assert_array_equal(
        one.given[weight], graph.constants[weight].bytes().view(np.float32).reshape(64, 32)
    )


def test_some_operators_are_a_candidate(import_model: Import) -> None:
    graph = import_model(perceptron())
    one = candidate(graph, graph.nodes[1:2])
    assert list(one.inputs) == list(graph.nodes[0].output)
    assert one.outputs == tuple(graph.nodes[1].output)
    assert not one.given


def test_equal_ones_are_measured_once(import_model: Import, measured: list[int]) -> None:
    """Names and weights do not matter, shapes do, and so do threads."""
    models = perceptron(), perceptron(seed=1), perceptron(16)
    same, other, smaller = (candidate(import_model(model)) for model in models)
    first = time_alternatives([same, smaller], threads=1)
    assert all(isfinite(time) and time > 0 for time in first)
    assert time_alternatives([other, smaller], threads=1) == first
    assert measured == [2]
    time_alternatives([other], threads=1)
    time_alternatives([smaller], threads=1)
    time_alternatives([smaller], threads=2)
    assert measured == [2, 1, 1, 1]


def test_shapes_that_are_constants_tell_candidates_apart(
    import_model: Import, measured: list[int]
) -> None:
    for dims in ([4, 16], [16, 4], [4, 16]):
        net = Net()
        net.output(net("Reshape", net.input("x", (8, 8)), net.constant(np.array(dims))))
        time_alternatives([candidate(import_model(net.model()))], threads=1)
    assert measured == [1, 1]


def test_what_can_not_run_takes_for_ever(import_model: Import) -> None:
    one = candidate(import_model(perceptron()))
    unknown = replace(one, nodes=(onnx.helper.make_node("Quicksort", ["x"], [one.outputs[0]]),))
    wrong = replace(one, inputs={name: (kind, (3, 5)) for name, (kind, _) in one.inputs.items()})
    times = time_alternatives([unknown, one, replace(wrong, given={})], threads=1)
    assert times[0] == times[2] == inf
    assert isfinite(times[1])


def test_numbers_of_every_type_are_given(import_model: Import) -> None:
    net = Net()
    kinds = [onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8, onnx.TensorProto.INT32]
    inputs = [net.input(f"x{kind}", (4,), kind) for kind in kinds]
    net.output(*(net("Cast", name, to=onnx.TensorProto.FLOAT) for name in inputs))
    assert isfinite(time_alternatives([candidate(import_model(net.model()))], threads=1)[0])


def test_the_slow_are_measured_less_often(
    import_model: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(swapnet.builder.rewriting.operator_times, "_known", {})
    monkeypatch.setattr(
        swapnet.builder.rewriting.operator_times, "perf_counter", lambda: float(next(clock))
    )
    assert time_alternatives([candidate(import_model(perceptron()))], threads=1) == (1000.0,)
    assert next(clock) == 2 * swapnet.builder.rewriting.operator_times._FEWEST_ROUNDS
