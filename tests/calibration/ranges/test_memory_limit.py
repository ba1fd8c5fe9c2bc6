"""Calibration under the kernel's limit of the runtime and the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from swapnet.calibration.ranges import calibrate
from swapnet.calibration.ranges.calibrate import calibrate_ranges
from swapnet.errors import BackendUnavailableError
from swapnet.process.cgroup import MemoryGroup, is_available
from tests.calibration.ranges.conftest import Toy, toy_of
from tests.helpers.zoo import Net

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kernel memory")]

needs_limits = pytest.mark.skipif(
    not is_available(), reason="no permission for cgroups with memory limits"
)


class Watched(MemoryGroup):
    """A group whose peak is kept."""

    peaks: ClassVar[list[tuple[int, int]]] = []

    def remove(self) -> None:
        if self.limit is not None:
            self.peaks.append((self.peak_bytes, self.limit))
        super().remove()

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit = limit_bytes
        super().__init__(limit_bytes)


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Peak and limit of each group."""
    kept: list[tuple[int, int]] = []
    monkeypatch.setattr(Watched, "peaks", kept)
    monkeypatch.setattr(calibrate, "MemoryGroup", Watched)
    return kept


@needs_limits
def test_a_model_in_a_quarter_of_its_weights(tmp_path: Path, peaks: list[tuple[int, int]]) -> None:
    """256 MiB of weights, so that the limit is below half of them, fixed cost included."""
    random = np.random.default_rng(1)
    weight = random.standard_normal((2048, 2048), np.float32) / 32
    net = Net()
    value = net.input("x", (1, 2048))
    for layer in range(16):
        value = net("Relu", net("MatMul", value, net.constant(np.roll(weight, layer))))
    net.output(value)
    samples = [{"x": random.standard_normal((1, 2048), np.float32)} for _ in range(2)]
    toy = toy_of(net, tmp_path, samples)
    before = toy.left()
    swapped = calibrate_ranges(toy.path, samples, budget="weights:25%", memory_limit=True)
    ((peak, limit),) = peaks
    assert peak <= limit < toy.path.with_suffix(".data").stat().st_size // 2
    assert swapped == calibrate_ranges(toy.path, samples, budget="100%")
    assert len(swapped.ranges) == 33
    assert toy.left() == before


@needs_limits
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_every_method_stays_within_its_budget(
    convolutions: Toy, peaks: list[tuple[int, int]], method: Any
) -> None:
    calibrate_ranges(
        convolutions.path,
        convolutions.samples,
        method=method,
        budget="weights:100%",
        memory_limit=True,
    )
    assert len(peaks) >= (1 if method == "minmax" else 2)
    assert all(peak <= limit for peak, limit in peaks)


def test_no_limit_is_available(convolutions: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int | None) -> MemoryGroup:
        raise BackendUnavailableError("the kernel's memory limit is not available here")

    before = convolutions.left()
    monkeypatch.setattr("swapnet.calibration.ranges.fixed_cost.MemoryGroup", refuse)
    monkeypatch.setattr(calibrate, "fixed_bytes", lambda *_: refuse(None))
    with pytest.raises(BackendUnavailableError):
        calibrate_ranges(convolutions.path, convolutions.samples, memory_limit=True)
    assert convolutions.left() == before
