"""Windows: where sessions map packed weights of ``weights.bin``, and pages of the arena go.

ONNX Runtime packs the constants of a kernel once. It saves what it packed beside the original, and
a session made from such a model maps it (``session.save_external_prepacked_constant_initializers``
in onnxruntime_session_options_config_keys.h). A kernel reads from that address for the life of the
session, so a block is swapped by moving pages there.

Each move takes 10 us, so windows of a block lie in memory as in the file, and move together. ONNX
Runtime maps initializers in the order of their offsets, and what is packed of each after it; the
kernel puts each mapping below the one before. `gathered` makes use of both.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swapnet.executor.swapping.arena import Borrower, can_lend, forget_pages, side_by_side, take
from swapnet.machine import FileMapping, mappings_of
from swapnet.manifest import EXTENT_ALIGNMENT, WINDOW_ALIGNMENT, Window, sha256_of
from swapnet.protobuf import VARINT, edited, encoded, fields, number
from swapnet.units import align_up

__all__ = [
    "BITS_SINCE",
    "GAP",
    "Opened",
    "addresses_of",
    "drop_cached",
    "gathered",
    "open_mapped",
    "packs_bits",
    "window_alignment",
]

BITS_SINCE = "1.32"
"""First ONNX Runtime that maps packed products of few bits, and compares them with its own."""


GAP = "swapnet gap "
"""Begin of the names of initializers that are mapped between windows. They are outputs, for ONNX
Runtime drops what nobody reads; no inference asks for them."""

_GRAPH, _INITIALIZER, _OUTPUT, _EXTERNAL = 7, 5, 12, 13
"""Fields of ModelProto, GraphProto and TensorProto."""

_UINT8 = 2


def window_alignment() -> int:
    """Alignment of windows here: whole pages can be moved."""
    return max(WINDOW_ALIGNMENT, mmap.PAGESIZE)


def packs_bits(version: str) -> bool:
    """Whether products of few bits get windows with a version of ONNX Runtime."""
    numbers = (tuple(map(int, v.split(".")[:2])) for v in (version, BITS_SINCE))
    return next(numbers) >= next(numbers)


@dataclass(frozen=True)
class Opened:
    """A session with the places where its kernels read, by the offset in the file.

    A borrower has a window, or several of a block that lie beside each other. ``borrowers`` is
    empty where the session has no windows, or where the kernel moves no pages: weights are then
    read through the page cache. Of windows with equal bytes it has one.
    """

    session: Any
    borrowers: Mapping[int, Borrower] = field(default_factory=dict)


def open_mapped(path: Path, blocks: Sequence[Sequence[Window]], make: Callable[[], Any]) -> Opened:
    """Make a session of blocks, and take their windows; the page cache keeps nothing of them.

    Parameters
    ----------
    path
        ``weights.bin``.
    blocks
        Windows of each block.
    make
        Makes the session; nothing else maps the file meanwhile.
    """
    windows = [window for of_block in blocks for window in of_block]
    with side_by_side(4 * sum(window.nbytes for window in windows)):
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
    borrowers: dict[int, Borrower] = {}
    for of_block in blocks:
        ordered = sorted(of_block, key=lambda window: window.offset)
        pairs = [(window, address) for window in ordered for address in found[window]]
        for offset, address, end in _runs(pairs, mapped):
            borrowers[offset] = Borrower(address, end - offset, session)
    for borrower in borrowers.values():
        take(borrower)
    return Opened(session, borrowers)


def _are_copies(path: Path, lost: Sequence[Window], found: Sequence[Window]) -> bool:
    """Whether each lost window has the bytes of a found one: one blob is mapped for both."""
    with path.open("rb", buffering=0) as file:

        def digest(window: Window) -> str:
            return sha256_of(os.pread(file.fileno(), window.nbytes, window.offset))

        return {*map(digest, lost)} <= {*map(digest, found)}


def _runs(
    found: Sequence[tuple[Window, int]], mapped: Sequence[FileMapping]
) -> list[tuple[int, int, int]]:
    """Offset, address and end in the file of windows that lie in memory as in the file.

    All between them is mapped by this session, and is nothing but what aligns them in the file.
    """
    runs: list[tuple[int, int, int]] = []
    taken = [address for _, address in found]
    for window, address in found:
        if runs and _lies_behind(address, window, runs[-1], mapped, taken):
            runs[-1] = (*runs[-1][:2], window.end)
        else:
            runs.append((window.offset, address, window.end))
    return runs


def _lies_behind(
    address: int,
    window: Window,
    run: tuple[int, int, int],
    mapped: Iterable[FileMapping],
    taken: Iterable[int],
) -> bool:
    offset, start, end = run
    gap = align_up(start + end - offset, mmap.PAGESIZE)
    return (
        address - start == window.offset - offset
        and align_up(end, window_alignment()) == window.offset
        and any(each.start <= gap and address <= each.end for each in mapped)
        and not any(gap <= other < address for other in taken)
    )


def gathered(model: bytes, windows: Sequence[Window]) -> bytes:
    """The model with what is packed on initializers of its own, as long as the gaps between.

    Parameters
    ----------
    model
        An encoded ``ModelProto``.
    windows
        Those of its blocks.
    """
    packed: dict[int, bytes] = {}
    location = b""

    def without(tensor: bytes) -> bytes:
        nonlocal location
        kept = []
        for each in fields(tensor):
            if each.number == _EXTERNAL:
                found = fields(tensor, each.content, each.end)
                key, value = (tensor[f.content : f.end] for f in found)
                if key.startswith(b"prepacked_"):
                    blobs = [blob.split(b";") for blob in value.split(b"|")[1:] if blob]
                    begins = [int(blob[0]) for blob in blobs if int(blob[1])]
                    packed.update(dict.fromkeys(begins[:1], value))
                    continue
                location = value if key == b"location" else location
            kept.append(tensor[each.start : each.end])
        return b"".join(kept)

    model = edited(model, (_GRAPH, _INITIALIZER), without)
    ends = {window.offset: window.end for window in windows}
    begin = min(ends)
    gaps = [
        _gap(position, location, begin + position * EXTENT_ALIGNMENT, packed[offset], ends[offset])
        for position, offset in enumerate(sorted(packed, reverse=True))
    ]
    return model + encoded(_GRAPH, b"".join(gaps))


def _gap(position: int, location: bytes, offset: int, packed: bytes, end: int) -> bytes:
    """An initializer that is mapped before a blob, so behind it, and an output of its name."""
    name = f"{GAP}{position}".encode()
    nbytes = align_up(end, window_alignment()) - align_up(end, mmap.PAGESIZE)
    entries = {
        b"location": location,
        b"offset": str(offset).encode(),
        b"length": str(nbytes).encode(),
        b"prepacked_0": packed,
    }
    external = [encoded(_EXTERNAL, encoded(1, k) + encoded(2, v)) for k, v in entries.items()]
    size, uint8 = _varint(1, nbytes), _UINT8
    tensor = size + _varint(2, uint8) + encoded(8, name) + b"".join(external) + _varint(14, 1)
    shape = encoded(2, encoded(1, size))
    value = encoded(1, name) + encoded(2, encoded(1, _varint(1, uint8) + shape))
    return encoded(_INITIALIZER, tensor) + encoded(_OUTPUT, value)


def _varint(field: int, value: int) -> bytes:
    return number(field << 3 | VARINT) + number(value)


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
