"""Windows: where sessions map packed weights of ``weights.bin``, and pages of the arena go.

ONNX Runtime packs the constants of a kernel once. It saves what it packed beside the original, and
a session made from such a model maps it (``session.save_external_prepacked_constant_initializers``
in onnxruntime_session_options_config_keys.h). A kernel reads from that address for the life of the
session, so a block is swapped by moving pages there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swapnet.executor.swapping.arena import Borrower, can_lend, forget_pages, take
from swapnet.machine import FileMapping, mappings_of
from swapnet.manifest import Window, sha256_of

__all__ = ["BITS_SINCE", "Opened", "addresses_of", "drop_cached", "open_mapped", "packs_bits"]

BITS_SINCE = "1.32"
"""First ONNX Runtime that maps packed products of few bits, and compares them with its own."""


def packs_bits(version: str) -> bool:
    """Whether products of few bits get windows with a version of ONNX Runtime."""
    numbers = (tuple(map(int, v.split(".")[:2])) for v in (version, BITS_SINCE))
    return next(numbers) >= next(numbers)


@dataclass(frozen=True)
class Opened:
    """A session with the places where its kernels read, by the offset of a window.

    ``borrowers`` is empty where the session has no windows, or where the kernel moves no pages:
    weights are then read through the page cache. Of windows with equal bytes it has one.
    """

    session: Any
    borrowers: Mapping[int, Borrower] = field(default_factory=dict)


def open_mapped(path: Path, windows: Sequence[Window], make: Callable[[], Any]) -> Opened:
    """Make a session of blocks, and take their windows; the page cache keeps nothing of them.

    Parameters
    ----------
    path
        ``weights.bin``.
    windows
        Those of the blocks.
    make
        Makes the session; nothing else maps the file meanwhile.
    """
    session = make()
    mapped = mappings_of(path)
    for each in mapped:
        forget_pages(each.start, each.end - each.start)
    drop_cached(path, ((each.offset, each.end - each.start) for each in mapped))
    # Windows of other sessions were taken: what is mapped to the file is of this one.
    found = {window: addresses_of(window, mapped) for window in windows}
    lost = [window for window, addresses in found.items() if not addresses]
    if not can_lend() or any(len(addresses) > 1 for addresses in found.values()):
        return Opened(session)
    if lost and not _are_copies(path, lost, [w for w in windows if found[w]]):
        return Opened(session)
    borrowers = {
        window.offset: Borrower(address, window.nbytes, session)
        for window, addresses in found.items()
        for address in addresses
    }
    for borrower in borrowers.values():
        take(borrower)
    return Opened(session, borrowers)


def _are_copies(path: Path, lost: Sequence[Window], found: Sequence[Window]) -> bool:
    """Whether each lost window has the bytes of a found one: one blob is mapped for both."""
    with path.open("rb", buffering=0) as file:

        def digest(window: Window) -> str:
            return sha256_of(os.pread(file.fileno(), window.nbytes, window.offset))

        return {*map(digest, lost)} <= {*map(digest, found)}


def addresses_of(window: Window, mapped: Iterable[FileMapping]) -> list[int]:
    """Addresses at which a window is mapped."""
    return [
        each.start + window.offset - each.offset
        for each in mapped
        if each.offset <= window.offset and window.end <= each.offset + each.end - each.start
    ]


def drop_cached(path: Path, parts: Iterable[tuple[int, int]] = ((0, 0),)) -> None:
    """Give the page cache of a file back to the system, as far as nobody uses it.

    Parameters
    ----------
    path
        The file.
    parts
        Offset and length of each part; by default all of it.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset, nbytes in parts:
            os.posix_fadvise(file, offset, nbytes, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
