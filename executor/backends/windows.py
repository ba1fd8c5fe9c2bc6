"""Windows: where sessions map packed weights of ``weights.bin``, and pages of the arena go.

ONNX Runtime packs the constants of a kernel once. It saves what it packed beside the original, and
a session made from such a model maps it (``session.save_external_prepacked_constant_initializers``
in onnxruntime_session_options_config_keys.h). A kernel reads from that address for the life of the
session, so a block is swapped by moving pages there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swapnet.executor.swapping.arena import Borrower, can_lend, forget_pages
from swapnet.machine import FileMapping, mappings_of
from swapnet.manifest import Window

__all__ = ["Opened", "address_of", "new_mappings", "open_mapped"]


@dataclass(frozen=True)
class Opened:
    """A session with the places where its kernels read, in the order of the block's windows.

    ``borrowers`` is empty where the session has no windows, or where the kernel moves no pages:
    weights are then read through the page cache.
    """

    session: Any
    borrowers: tuple[Borrower, ...] = ()


def open_mapped(path: Path, windows: Sequence[Window], make: Callable[[], Any]) -> Opened:
    """Make a session of a block with windows, and find them; the cache keeps nothing of the file.

    Parameters
    ----------
    path
        ``weights.bin``.
    windows
        Those of the block.
    make
        Makes the session; nothing else maps the file meanwhile.
    """
    session, mapped = new_mappings(path, make)
    for each in mapped:
        forget_pages(each.start, each.end - each.start)
    _drop_cached(path)
    addresses = [address_of(window, mapped) for window in windows]
    found = [address for address in addresses if address is not None]
    if len(found) < len(windows) or not can_lend():
        return Opened(session)
    places = zip(found, windows, strict=True)
    return Opened(session, tuple(Borrower(a, w.nbytes, session) for a, w in places))


def new_mappings(path: Path, make: Callable[[], Any]) -> tuple[Any, list[FileMapping]]:
    """What ``make`` returns, and how it mapped the file."""
    before = mappings_of(path)
    made = make()
    return made, list(_without(mappings_of(path), before))


def _without(
    mappings: Iterable[FileMapping], known: Iterable[FileMapping]
) -> Iterable[FileMapping]:
    """Parts of mappings that are not known: the kernel joins a new one with its neighbours."""
    left = sorted(known)
    for each in mappings:
        start = each.start
        for other in left:
            if start < other.end and other.start < each.end:
                if start < other.start:
                    yield FileMapping(start, other.start, each.offset + start - each.start)
                start = max(start, other.end)
        if start < each.end:
            yield FileMapping(start, each.end, each.offset + start - each.start)


def address_of(window: Window, mapped: Iterable[FileMapping]) -> int | None:
    """Address of a window; None if no mapping has it."""
    for each in mapped:
        if each.offset <= window.offset and window.end <= each.offset + each.end - each.start:
            return each.start + window.offset - each.offset
    return None


def _drop_cached(path: Path) -> None:
    """Give the page cache of a file back to the system, as far as nobody uses it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
