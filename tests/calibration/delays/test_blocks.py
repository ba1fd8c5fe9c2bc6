"""From rounds to a profile."""

from __future__ import annotations

import pytest

from swapnet.calibration.delays.blocks import Round, block_times, storage_of


def turn(merged_ms: float, *block_ms: tuple[float, ...], slower: float = 1.5) -> Round:
    busy = tuple(tuple(ms * slower for ms in inference) for inference in block_ms)
    return Round(merged_ms, block_ms, busy, 2e9, 1e9, 0.25, 0.05)


def test_a_call_costs_what_blocks_apart_take_more() -> None:
    rounds = [turn(10.0, (4.0, 5.0, 3.0)), turn(11.0, (5.0, 5.0, 3.0)), turn(10.0, (4.0, 6.0, 3.0))]
    blocks, step_ms = block_times(rounds, calls=2)
    assert step_ms == pytest.approx(1.0)
    assert [block.idle_ms for block in blocks] == pytest.approx([3.0, 4.0, 2.0])
    assert [block.busy_ms for block in blocks] == pytest.approx([5.0, 6.5, 3.5])
    assert blocks[2].spread == 0.0
    assert blocks[0].spread == pytest.approx(0.25)


def test_noise_makes_no_negative_delays() -> None:
    blocks, step_ms = block_times([turn(10.0, (2.0, 1.0), slower=0.5)] * 3, calls=1)
    assert step_ms == 0.01
    assert all(block.busy_ms == block.idle_ms > 0 for block in blocks)
    blocks, step_ms = block_times([turn(1.0, (4.0, 0.1))] * 3, calls=1)
    assert [block.idle_ms for block in blocks] == pytest.approx([4.0 - step_ms, 0.0])


def test_one_block_costs_no_call_more() -> None:
    (block,), step_ms = block_times([turn(3.0, (3.0,))] * 3, calls=0)
    assert (block.idle_ms, step_ms) == (2.99, 0.01)


def test_storage_is_the_median_of_the_rounds() -> None:
    storage = storage_of([turn(1.0, (1.0,))] * 3, (1 << 20, 4))
    assert (storage.request_bytes, storage.readers) == (1 << 20, 4)
    assert (storage.bytes_per_s, storage.busy_bytes_per_s, storage.latency_ms) == (2e9, 1e9, 0.25)
    assert storage.wake_ms == 0.05
