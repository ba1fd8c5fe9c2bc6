from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import msgspec
import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.executor.bench.difference import (
    ALGORITHMS,
    Algorithm,
    Rule,
    check_comparable,
    judge,
    largest_difference,
    non_finite_reasons,
    packing_reasons,
    rounding,
)
from swapnet.manifest import Manifest, Source

MIB = 1 << 20
NAMES = ("engines/x", "engines/x-int8")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([1.0, 2.0], [1.0, 4.0], (2.0, 0.5)),
        ([nan, 2.0], [nan, 2.0], (0.0, 0.0)),
        ([inf, 2.0], [inf, 2.0], (0.0, 0.0)),
        ([0.5], [0.0], (0.5, 0.5)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_absolute_and_relative(
    ours: list[float], theirs: list[float], expected: tuple[float, float]
) -> None:
    assert largest_difference({"y": np.array(ours)}, {"y": np.array(theirs)}) == expected


def test_nan_in_one_place_only_is_no_small_matter() -> None:
    absolute, _ = largest_difference({"y": np.array([nan])}, {"y": np.array([1.0])})
    assert absolute > 1e300


def test_other_shapes_are_no_small_matter() -> None:
    one, other = {"y": np.zeros(3)}, {"y": np.zeros(4)}
    assert largest_difference(one, other) == (inf, inf)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("l0", 0.5),
        ("l1", 1.25),
        ("l2", 4.25),
        ("lInf", 4.0),
        ("cos", 1 - 22 / (26 * 35) ** 0.5),
        ("relative", 1.0),
    ],
)
def test_losses_are_those_of_trtexec(algorithm: Algorithm, expected: float) -> None:
    ours, theirs = np.array([1.0, 3.0, 0.0, 4.0]), np.array([1.0, 3.0, 4.0, 3.0])
    assert Rule(algorithm).loss(ours, theirs) == pytest.approx(expected)


def test_tolerances_are_absolute_and_relative() -> None:
    ours, theirs = np.array([1.1, 100.5]), np.array([1.0, 100.0])
    assert Rule("l0", atol=0.2, rtol=0.0).loss(ours, theirs) == 0.5
    assert Rule("l0", atol=0.0, rtol=0.01).loss(ours, theirs) == 0.5
    assert Rule("l0", atol=0.2, rtol=0.01).loss(ours, theirs) == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_that_are_not_finite_equal_themselves_only(algorithm: Algorithm) -> None:
    odd = np.array([inf, -inf, nan, 1.0])
    rule = Rule(algorithm)
    assert rule.loss(odd, odd) == 0.0
    assert rule.loss(np.zeros(0), np.zeros(0)) == 0.0
    assert rule.loss(np.zeros(3), np.zeros(4)) == inf
    for found in ([1.0, -inf, nan, 1.0], [inf, -inf, 1.0, 1.0], [-inf, -inf, nan, 1.0]):
        assert rule.loss(np.array(found), odd) > 0.2


def test_a_zero_vector_has_no_direction() -> None:
    assert Rule("cos").loss(np.zeros(3), np.ones(3)) == 1.0
    assert Rule("cos").loss(np.zeros(3), np.zeros(3)) == 0.0


def test_rules_of_users_are_checked() -> None:
    assert Rule.of() is None
    assert Rule.of("l0") == Rule("l0", 0.0, 1e-5, 1e-5)
    with pytest.raises(InputError, match="there is no algorithm 'l3'"):
        Rule.of("l3")
    assert Rule.of("cos", 0.5) == Rule("cos", 0.5)
    assert Rule.of(None, None, 0.1, 0.2) == Rule("l0", 0.0, 0.1, 0.2)
    with pytest.raises(InputError, match="tolerances are not for l2"):
        Rule.of("l2", atol=0.1)


def test_engines_of_other_models(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    sources = [Source("one", "11ab", ""), Source("two", "22cd", "")]
    others = [msgspec.structs.replace(manifest, source=source) for source in sources]
    check_comparable(NAMES, [others[0], others[0]])
    with pytest.raises(InputError, match=r"(?s)not engines of one model.*11ab.*22cd"):
        check_comparable(NAMES, others)
    tuned = msgspec.structs.replace(sources[0], data_sha256="33ef")
    others[1] = msgspec.structs.replace(manifest, source=tuned)
    with pytest.raises(InputError, match=r"(?s)not engines of one model.*11ab.*33ef"):
        check_comparable(NAMES, others)


def test_engines_at_other_shapes(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    other = msgspec.structs.replace(manifest, planned_shapes={"x": (2,)})
    with pytest.raises(InputError, match=r"(?s)other input shapes.*\(1,\).*\(2,\).*--shapes"):
        check_comparable(NAMES, [manifest, other])


@pytest.mark.parametrize(
    ("found", "limit", "expected"),
    [(1.0, 0.0, True), (1.001, 1e-3, True), (1.002, 1e-3, False), (inf, 9, False), (nan, 9, False)],
)
def test_what_is_enough(found: float, limit: float, expected: bool) -> None:
    ours, theirs = {"y": np.array([found])}, {"y": np.array([1.0])}
    judged = judge(ours, theirs, Rule("relative", limit + 1e-12))
    assert judged.is_within is expected
    assert judged.algorithm == "relative"
    if found in (inf, nan):
        assert judged.losses == {"y": None}


def test_references_may_be_of_some_outputs_and_of_no_others() -> None:
    ours = {"y": np.zeros(3), "z": np.ones(3)}
    judged = judge(ours, {"z": np.array([1.0, 1.0, 2.0])}, Rule())
    assert judged.losses == {"z": pytest.approx(1 / 3)}
    assert not judged.is_within
    with pytest.raises(InputError, match="reference output 'w' is unknown"):
        judge(ours, {"w": np.zeros(3)}, Rule())


def test_values_that_are_not_finite_are_counted() -> None:
    ours = {"y": np.array([nan, inf, 1.0]), "z": np.array([inf])}
    theirs = {"y": np.array([1.0, inf, 1.0]), "z": np.array([-inf])}
    (reason,) = non_finite_reasons(ours, theirs)
    assert "'y' has 2 values" in reason
    assert reason.endswith("unswapped model's has 1")


def test_a_lower_precision_is_a_reason(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([4096])
    assert not list(rounding(manifest))
    (reason,) = rounding(msgspec.structs.replace(manifest, precision="int8"))
    assert "built in int8" in reason


def test_packed_weights_are_a_reason_where_they_change_outputs() -> None:
    def outputs(value: float) -> dict[str, np.ndarray]:
        return {"y": np.array([value, 2.0])}

    assert not list(packing_reasons(outputs(1.5), outputs(1.0), outputs(1.0), 1e-3))
    (reason,) = packing_reasons(outputs(1.5), outputs(1.0), outputs(1.5), 1e-3)
    assert "change by 2.50e-01 with session.disable_prepacking" in reason
    assert reason.endswith("swapped model's by 0.00e+00")
