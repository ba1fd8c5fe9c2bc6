from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import msgspec
import numpy as np
import pytest

from swapnet.executor.bench.judgement import (
    Judgement,
    non_finite_reasons,
    packing_reasons,
    rounding,
)
from swapnet.manifest import Manifest


@pytest.mark.parametrize(
    ("difference", "limit", "expected"),
    [(0.0, 0.0, True), (1e-3, 1e-3, True), (2e-3, 1e-3, False), (inf, inf, False), (nan, 1, False)],
)
def test_what_is_enough(difference: float, limit: float, expected: bool) -> None:
    assert Judgement.is_enough(difference, limit) is expected


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
