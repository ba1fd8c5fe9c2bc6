"""Host memory for weights and values: page-aligned, anonymous, reserved once."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np

from swapnet.errors import BudgetError
from swapnet.executor.planning.layout import OWN_PAGES_BYTES
from swapnet.machine import address_holes, huge_page_bytes
from swapnet.manifest import Tensor
from swapnet.tensors import Array, numpy_dtype
from swapnet.units import align_up, format_size

__all__ = ["Arena", "Borrower", "can_lend", "forget_pages", "new_array", "side_by_side", "take"]

_MAP_FIXED, _MAP_NORESERVE, _MAP_FIXED_NOREPLACE = 0x10, 0x4000, 0x100000
_MADV_COLD = 20
_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4

_LARGEST_DIVIDED_BYTES = 2 << 20
"""Largest huge page that is taken for a part of it: all of it is in memory for a moment."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_void_p),
]


@dataclass(frozen=True, eq=False)
class Borrower:
    """Addresses at which a kernel reads pages of an arena.

    Attributes
    ----------
    address, nbytes
        Whole pages that are mapped, whatever to.
    owner
        Its life keeps them mapped.
    """

    address: int
    nbytes: int
    owner: Any


class Arena:
    """Anonymous memory whose address stays fixed; pages are taken when they are first written.

    Pages are huge where the kernel has them and one fits: direct reads pin fewer of them. On x86-64
    that made ResNet-101 at a quarter of its weights 1.2 to 1.5 times faster (docs/performance.md).

    Parameters
    ----------
    nbytes
        Size; rounded up to whole pages.
    is_filled
        All of it will be read into: its last pages, which are no huge page, are taken as a part of
        one. A direct read of pages that lie anywhere takes twice as long.

    Raises
    ------
    BudgetError
        The system can't reserve ``nbytes`` of address space.

    Notes
    -----
    Addresses handed out are valid until the arena is resized or the last reference to it is gone.
    A forked process has neither the arena nor what was lent.

    Pages can be lent to other addresses. The kernel moves their entries in the page table, 10 us
    for each call, and copies nothing. A lent place has no pages: nothing may be read into it.
    """

    def __init__(self, nbytes: int, *, is_filled: bool = False) -> None:
        self._is_filled = is_filled and 0 < huge_page_bytes() <= _LARGEST_DIVIDED_BYTES
        try:
            self._memory = mmap.mmap(
                -1, self._mapped_bytes(nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except OSError as error:
            raise _unreserved(nbytes, error) from error
        self._lent: dict[Borrower, int] = {}
        self._settled_bytes = 0
        self._end_at(nbytes, 0)
        self._use(nbytes)
        # Pages that a forked process shares are copied when they are read into, beside the budget.
        _madvise(self.address, len(self._memory), mmap.MADV_DONTFORK)

    def lend(self, places: Iterable[tuple[Borrower, int]]) -> None:
        """Move the pages at each offset to the borrower; those that have them already keep them.

        Raises
        ------
        BudgetError
            The kernel refuses: the process has too many mappings.
        """
        for borrower, offset in places:
            if borrower not in self._lent:
                _move_pages(self.address + offset, borrower.address, borrower.nbytes)
                self._lent[borrower] = offset

    def take_back(self, borrowers: Iterable[Borrower] | None = None) -> None:
        """Move lent pages back to their places; by default all. Raises as `lend`."""
        for borrower in tuple(self._lent) if borrowers is None else borrowers:
            if borrower in self._lent:
                home = self.address + self._lent[borrower]
                _move_pages(borrower.address, home, borrower.nbytes)
                del self._lent[borrower]

    def settle(self) -> None:
        """Take all pages now, and no huge ones later: those would fill lent places beside them."""
        self._advise(mmap.MADV_HUGEPAGE)
        self._bytes[self._settled_bytes :: mmap.PAGESIZE] |= 0
        self._settled_bytes = self.nbytes // mmap.PAGESIZE * mmap.PAGESIZE
        self._advise(mmap.MADV_NOHUGEPAGE)

    def _mapped_bytes(self, nbytes: int) -> int:
        """Size of a new mapping: the kernel aligns those of whole huge pages."""
        return align_up(max(nbytes, mmap.PAGESIZE), huge_page_bytes() if self._is_filled else 1)

    def _end_at(self, nbytes: int, old_bytes: int) -> None:
        """Cut the mapping behind ``nbytes``, of which all behind ``old_bytes`` are new."""
        end = align_up(max(nbytes, mmap.PAGESIZE), mmap.PAGESIZE)
        if self._is_filled and end < len(self._memory):
            # The kernel divides a huge page that is cold in part, and takes back at once what is
            # not mapped any more, and each part that is zero. Where no memory can be cold (before
            # Linux 5.4, or while it is locked), no part of a page is taken: the rest would stay.
            with suppress(OSError):
                self._memory.madvise(_MADV_COLD, end)
                self._memory.madvise(mmap.MADV_HUGEPAGE)
                if old_bytes <= (start := len(self._memory) - huge_page_bytes()):
                    pages = range(start, end, mmap.PAGESIZE)
                    self._memory[start : end : mmap.PAGESIZE] = len(pages) * b"\1"
                self._memory.madvise(_MADV_COLD, end)
        self._memory.resize(end)

    def _advise(self, advice: int) -> None:
        if 0 < huge_page_bytes() <= self.nbytes:
            with suppress(OSError):
                self._memory.madvise(advice)

    def _use(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._settled_bytes = min(self._settled_bytes, nbytes // mmap.PAGESIZE * mmap.PAGESIZE)
        self._advise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.address: int = self._bytes.ctypes.data
        """Address of the first byte."""

    def resize(self, nbytes: int) -> None:
        """Give memory at the end back, or reserve more; the address may change, the bytes do not.

        Raises
        ------
        BudgetError
            The system can't reserve ``nbytes`` of address space.
        BufferError
            A `view` still exists, for example in the exception of a failed request.
        """
        self.take_back()
        del self._bytes
        try:
            old_bytes = len(self._memory)
            if nbytes > old_bytes:
                self._memory.resize(self._mapped_bytes(nbytes))
            self._end_at(nbytes, old_bytes)
        except OSError as error:
            raise _unreserved(nbytes, error) from error
        finally:
            self._use(min(nbytes, len(self._memory)))

    def discard(self) -> None:
        """Give all memory back; the address stays, the bytes are gone."""
        self.take_back()
        self._settled_bytes = 0
        self._memory.madvise(mmap.MADV_DONTNEED)

    def keep(self, spans: Iterable[tuple[int, int]]) -> None:
        """Give back all pages outside of these spans of whole pages, which are in order."""
        # A huge page that is taken later would reach beyond a span.
        self._advise(mmap.MADV_NOHUGEPAGE)
        self._settled_bytes = end = 0
        for start, stop in (*spans, (len(self._memory) // mmap.PAGESIZE * mmap.PAGESIZE, 0)):
            if start > end:
                self._memory.madvise(mmap.MADV_DONTNEED, end, start - end)
            end = stop

    def take_huge_pages(self) -> None:
        """Let pages be huge again after `keep`."""
        self._advise(mmap.MADV_HUGEPAGE)

    def trim(self, nbytes: int) -> None:
        """Give back all memory behind the first ``nbytes``."""
        start = align_up(nbytes, mmap.PAGESIZE)
        if start < len(self._memory):
            self._settled_bytes = min(self._settled_bytes, start)
            self._memory.madvise(mmap.MADV_DONTNEED, start)

    def move(self, source: int, target: int, nbytes: int) -> None:
        self.take_back()
        self._memory.move(target, source, nbytes)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes ``offset`` to ``offset + nbytes``."""
        return memoryview(self._memory)[offset : offset + nbytes]

    def fill(self, offset: int, nbytes: int, byte: int) -> None:
        self._bytes[offset : offset + nbytes] = byte


def new_array(tensor: Tensor, shape: Sequence[int]) -> Array:
    """An uninitialised array for a tensor, of this shape.

    A large array has pages of its own, which return to the system with it. On the heap it would
    leave holes, and huge pages that reach beyond it.
    """
    dtype = numpy_dtype(tensor.dtype)
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < OWN_PAGES_BYTES:
        return np.empty(shape, dtype)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array: Array = np.frombuffer(memory, dtype).reshape(shape)
    return array


@cache
def can_lend() -> bool:
    """Whether this kernel moves pages and keeps their place (since Linux 5.7)."""
    source, target = Arena(mmap.PAGESIZE), Arena(mmap.PAGESIZE)
    source.fill(0, 1, 1)
    try:
        source.lend([(Borrower(target.address, mmap.PAGESIZE, target), 0)])
    except BudgetError:
        return False
    return bool(target.view(0, 1)[0])


def take(borrower: Borrower) -> None:
    """Put memory without pages in the place of whatever is mapped there.

    Raises
    ------
    BudgetError
        The kernel refuses: the process has too many mappings.
    """
    nbytes = align_up(borrower.nbytes, mmap.PAGESIZE)
    access = mmap.PROT_READ | mmap.PROT_WRITE
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    if _libc.mmap(borrower.address, nbytes, access, kind, -1, 0) != borrower.address:
        raise _unreserved(nbytes, OSError(ctypes.get_errno(), "mmap"))
    _madvise(borrower.address, nbytes, mmap.MADV_DONTFORK)


@contextmanager
def side_by_side(nbytes: int) -> Iterator[None]:
    """Have the kernel put mappings of up to ``nbytes`` below each other, as far as it can be had.

    It takes the highest hole that is large enough, so smaller ones are filled meanwhile.
    """
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
    filled = []
    for start, end in address_holes(nbytes):
        address = _libc.mmap(start, end - start, 0, kind, -1, 0)
        if address not in (None, ctypes.c_void_p(-1).value):
            filled.append((address, end - start))
    try:
        yield
    finally:
        for address, length in filled:
            _libc.munmap(address, length)


def forget_pages(address: int, nbytes: int) -> None:
    """Give back what was read of a file that is mapped; it is read again when it is used."""
    _madvise(address, nbytes, mmap.MADV_DONTNEED)


def _madvise(address: int, nbytes: int, advice: int) -> None:
    _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), advice)


def _move_pages(source: int, target: int, nbytes: int) -> None:
    nbytes = align_up(nbytes, mmap.PAGESIZE)
    how = _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP
    if _libc.mremap(source, nbytes, nbytes, how, target) != target:
        raise _unreserved(nbytes, OSError(ctypes.get_errno(), "mremap"))


def _unreserved(nbytes: int, error: OSError) -> BudgetError:
    return BudgetError(
        f"{format_size(nbytes)} of memory can't be reserved",
        why=str(error),
        hint="give a smaller budget",
    )
