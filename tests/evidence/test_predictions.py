"""How far predictions are off."""

from __future__ import annotations

import pytest

from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from tests.evidence.predictions import Found, found_at, summary
from tests.helpers.engines import BuildToy


@pytest.mark.parametrize("budget", ["smallest", "100%"])
def test_an_engine_is_measured_beside_its_prediction(engine: BuildToy, budget: str) -> None:
    opened = Engine.open(engine("images").folder, device=Device(threads=1))
    found = found_at(opened, budget, 1, 1)
    assert found.title.endswith(f" {budget}")
    assert min(found.measured_ms, found.stored_ms, found.paired_ms, found.bound_ms) > 0
    assert (found.predicted_wait_ms > 0) == (budget == "smallest")
    assert "stored" in str(found)


def test_errors_count_without_their_signs() -> None:
    found = [Found("", 10.0 * (1 + off), 10.0, 10.0, 0, 0, 10) for off in (-0.2, 0.1, 0.0)]
    stored, paired = summary(found)
    assert stored == "off the stored prediction: 10.0% in the median, 18.0% at p90"
    assert paired.endswith("10.0% in the median, 18.0% at p90")
    (alone, _) = summary(found[:1])
    assert "20.0% in the median, 20.0%" in alone
