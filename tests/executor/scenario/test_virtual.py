"""The same requests on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swapnet.executor.scenario.traffic import Arrival
from swapnet.executor.scenario.virtual import bound_ms, on_virtual_clock, virtual_model
from swapnet.manifest import Manifest
from tests.executor.scenario.conftest import MIB, an_entry


def test_delays_come_from_what_was_measured(
    simulated_manifest: Callable[..., Manifest],
) -> None:
    manifest = simulated_manifest([4 * MIB] * 8)
    model = virtual_model(
        an_entry(priority=2.0, deadline_ms=90.0),
        manifest,
        compute_ms=10.0,
        read_bytes=16 * MIB,
        share_bytes=20 * MIB,
        storage_bytes_per_s=1024 * MIB,
    )
    assert (model.compute_ms, model.read_ms, model.steps) == (10.0, 15.625, 64)
    assert model.prefetch_ms == pytest.approx(15.625 / 4)
    assert (model.priority, model.deadline_ms, model.rate_per_s) == (2.0, 90.0, 2.0)
    assert bound_ms(model) == pytest.approx(15.625 * 3 / 4)


def test_storage_that_has_nothing_to_do(simulated_manifest: Callable[..., Manifest]) -> None:
    model = virtual_model(
        an_entry(),
        simulated_manifest([MIB]),
        compute_ms=10.0,
        read_bytes=0.0,
        share_bytes=MIB,
        storage_bytes_per_s=0.0,
    )
    assert (model.read_ms, model.prefetch_ms, bound_ms(model)) == (0.0, 0.0, 10.0)
    (means,) = on_virtual_clock([model], [[Arrival(0.0, 0, 0), Arrival(1.0, 0, 0)]])
    assert (means.latency_ms, means.ratio) == pytest.approx((10.0, 1.0))


def test_reading_costs_what_it_must(simulated_manifest: Callable[..., Manifest]) -> None:
    model = virtual_model(
        an_entry(),
        simulated_manifest([MIB] * 32),
        compute_ms=10.0,
        read_bytes=32 * MIB,
        share_bytes=MIB,
        storage_bytes_per_s=1024 * MIB,
    )
    busy = [Arrival(0.0, 0, 0)] * 20
    (means,) = on_virtual_clock([model], [busy, busy])
    assert means.unlimited_ms == pytest.approx(10.0 * 10.5)
    assert means.ratio == pytest.approx(31.25 / 10.0, rel=0.05)
