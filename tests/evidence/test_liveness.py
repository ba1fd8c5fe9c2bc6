"""The ideal peak of live activations."""

from __future__ import annotations

from tests.evidence.liveness import live_peak_bytes


def test_a_chain_keeps_two() -> None:
    chain = [(["x"], ["a"]), (["a"], ["b"]), (["b", "weight"], ["y"])]
    assert live_peak_bytes(chain, {"x": 1, "a": 10, "b": 5, "y": 2}, ["x"], ["y"]) == 15


def test_a_skip_connection_is_alive_until_it_is_used() -> None:
    skip = [(["x"], ["a"]), (["a"], ["b"]), (["b"], ["c"]), (["a", "c"], ["y"])]
    sizes = {"x": 1, "a": 10, "b": 5, "c": 5, "y": 2}
    assert live_peak_bytes(skip, sizes, ["x"], ["y"]) == 20


def test_outputs_stay_and_unused_values_go() -> None:
    operators = [(["x"], ["early", "unused"]), (["x"], ["y"])]
    sizes = {"x": 1, "early": 100, "unused": 7, "y": 10}
    assert live_peak_bytes(operators, sizes, ["x", "never"], ["early", "y"]) == 111
