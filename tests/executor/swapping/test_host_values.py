"""Memory for values: one region, or values inside blocks where other engines have theirs."""

from __future__ import annotations

import numpy as np

from swapnet.executor.planning.layout import lay_out_values, lifetimes
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.host_values import Values
from tests.helpers.engines import BuildToy


def test_values_inside_blocks_lie_where_they_are_told_to(engine: BuildToy) -> None:
    manifest = engine("images").manifest
    inside = Arena(1 << 20)
    own, shared = Values(manifest, np.asarray), Values(manifest, np.asarray, inside)
    assert own.addresses.keys() == shared.addresses.keys()
    there = range(inside.address, inside.address + lay_out_values(manifest, inside=True).nbytes)
    spans = lifetimes(manifest)
    assert {n for n, address in shared.addresses.items() if address in there} == {
        name for name in shared.addresses if spans[name][0] == spans[name][1]
    }
    assert not any(address in there for address in own.addresses.values())
    name = next(n for n, address in shared.addresses.items() if address in there)
    shared.array(name)[...] = 1
    assert inside.view(shared.addresses[name] - inside.address, 1)[0] == np.float32(1).tobytes()[0]
