"""The fixed cost of a process is counted without the libraries that the kernel read again."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from swapnet.executor.bench import fixed_cost
from swapnet.executor.bench.fixed_cost import FixedCost
from swapnet.executor.bench.sides import Request

MIB = 1 << 20


@pytest.mark.parametrize(
    ("counts", "found", "processes"),
    [
        ([(32, 0)], 32, 1),
        ([(48, 16), (32, 0)], 32, 2),
        ([(48, 16), (40, 8), (64, 32)], 40, 3),
    ],
)
def test_a_count_with_page_cache_in_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch, counts: list[tuple[int, int]], found: int, processes: int
) -> None:
    left = iter(counts)
    groups: list[SimpleNamespace] = []

    def group(_: None) -> nullcontext[SimpleNamespace]:
        peak, cached = next(left)
        groups.append(SimpleNamespace(peak_bytes=peak * MIB, cached_bytes=cached * MIB))
        return nullcontext(groups[-1])

    worker = SimpleNamespace(run=lambda _: None, close=lambda: None)
    monkeypatch.setattr(fixed_cost, "MemoryGroup", group)
    monkeypatch.setattr(fixed_cost, "Worker", lambda *_, **__: nullcontext(worker))
    assert FixedCost(Request("swapped", "", "", 1)).measure(counted=True) == found * MIB
    assert len(groups) == processes
