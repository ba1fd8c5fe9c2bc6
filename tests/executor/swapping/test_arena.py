from __future__ import annotations

import ctypes
import mmap

import pytest

from swapnet.errors import BudgetError
from swapnet.executor.swapping.arena import Arena


def test_bytes_lie_at_the_address() -> None:
    arena = Arena(3 * mmap.PAGESIZE)
    assert arena.address % mmap.PAGESIZE == 0
    arena.view(5000, 3)[:] = b"abc"
    assert ctypes.string_at(arena.address + 5000, 3) == b"abc"
    arena.fill(5001, 1, 0xFF)
    assert arena.view(4999, 5).tobytes() == b"\0a\xffc\0"


def test_nothing_is_a_page() -> None:
    assert Arena(0).nbytes == 0


def test_too_much_is_a_budget_error() -> None:
    with pytest.raises(BudgetError, match="can't be reserved"):
        Arena(1 << 60)
