from __future__ import annotations

import ctypes
import errno
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


@pytest.mark.parametrize(
    ("huge_bytes", "nbytes", "asked"),
    [(2 << 20, 2 << 20, True), (32 << 20, 2 << 20, False), (0, 2 << 20, False)],
)
def test_huge_pages_are_asked_for_where_one_fits(
    monkeypatch: pytest.MonkeyPatch, huge_bytes: int, nbytes: int, asked: bool
) -> None:
    said: list[int] = []

    class Watched(mmap.mmap):
        def madvise(self, option: int, *rest: int) -> None:
            said.append(option)
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("swapnet.executor.swapping.arena.huge_page_bytes", lambda: huge_bytes)
    monkeypatch.setattr(mmap, "mmap", Watched)
    assert Arena(nbytes).nbytes == nbytes
    assert said == [mmap.MADV_HUGEPAGE] * asked


def test_the_end_of_a_filled_arena_is_a_part_of_a_huge_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, huge = mmap.PAGESIZE, 2 << 20
    said: list[tuple[int, ...]] = []

    class Watched(mmap.mmap):
        def madvise(self, option: int, *rest: int) -> None:
            said.append((option, len(self), *rest))

    monkeypatch.setattr("swapnet.executor.swapping.arena.huge_page_bytes", lambda: huge)
    monkeypatch.setattr(mmap, "mmap", Watched)
    arena = Arena(3 * page + 1, is_filled=True)
    cold = (20, huge, 4 * page)
    assert said == [cold, (mmap.MADV_HUGEPAGE, huge), cold]
    assert bytes(arena.view(0, 3 * page + 1)).count(1) == 4
    arena.fill(0, arena.nbytes, 7)
    for nbytes, mapped in ((huge + page, 2 * huge), (2 * page, huge + page)):
        said.clear()
        arena.resize(nbytes)
        assert said[2] == (20, mapped, nbytes)
        kept = min(nbytes, 3 * page + 1)
        assert bytes(arena.view(0, kept)) == b"\7" * kept
    assert arena.view(0, 3 * page).nbytes == 2 * page


def test_no_part_of_a_huge_page_is_taken_where_no_memory_can_be_cold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swapnet.executor.swapping.arena._MADV_COLD", 9999)
    arena = Arena(3 * mmap.PAGESIZE, is_filled=True)
    assert bytes(arena.view(0, 3 * mmap.PAGESIZE)) == bytes(3 * mmap.PAGESIZE)


def test_too_much_is_a_budget_error() -> None:
    with pytest.raises(BudgetError, match="can't be reserved"):
        Arena(1 << 60)


def test_what_is_trimmed_is_given_back() -> None:
    arena = Arena(4 * mmap.PAGESIZE)
    arena.fill(0, 4 * mmap.PAGESIZE, 7)
    arena.trim(mmap.PAGESIZE + 1)
    assert bytes(arena.view(0, 2 * mmap.PAGESIZE)) == b"\7" * (2 * mmap.PAGESIZE)
    assert not any(arena.view(2 * mmap.PAGESIZE, 2 * mmap.PAGESIZE))
    arena.trim(4 * mmap.PAGESIZE)
    assert arena.view(0, 1)[0] == 7


def test_pages_outside_of_spans_are_given_back() -> None:
    page = mmap.PAGESIZE
    arena = Arena(8 * page)
    arena.fill(0, 8 * page, 1)
    arena.keep([(0, page), (3 * page, 5 * page)])
    arena.take_huge_pages()
    assert [arena.view(i * page, 1)[0] for i in range(8)] == [1, 0, 0, 1, 1, 0, 0, 0]
