from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import msgspec
import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.executor.bench.difference import Rule
from swapnet.executor.bench.judgement import (
    judge,
    non_finite_reasons,
    packing_reasons,
    rounding,
)
from swapnet.manifest import Manifest


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
