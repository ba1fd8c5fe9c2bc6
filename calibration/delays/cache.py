"""Storage by size and number of requests, kept for a day: it belongs to the device, not to models.

``$SWAPNET_CACHE`` or ``~/.cache/swapnet``, file ``storage.json``. What can't be read is measured
again, what can't be written is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from swapnet.errors import StorageError
from swapnet.files import cache_folder, make_folder, replacing
from swapnet.profile import Request

__all__ = ["load_requests", "save_requests"]

FILE = "storage.json"
_SCHEMA: Final = "swapnet-storage/1"
_FRESH_S = 24 * 3600.0


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    measured_at: float
    requests: tuple[Request, ...]


class _Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["swapnet-storage/1"]
    entries: dict[str, _Entry]


def load_requests(key: str) -> tuple[Request, ...]:
    """What was measured in the last day; empty where nothing was."""
    entry = _read().entries.get(key)
    fresh = entry is not None and 0 <= time.time() - entry.measured_at < _FRESH_S
    return entry.requests if entry is not None and fresh else ()


def save_requests(key: str, requests: Sequence[Request]) -> None:
    """Keep what was measured now."""
    entries = _read().entries | {key: _Entry(time.time(), tuple(requests))}
    with suppress(StorageError):
        make_folder(_path().parent)
        with replacing(_path()) as temporary:
            temporary.write_bytes(msgspec.json.encode(_Cache(_SCHEMA, entries)) + b"\n")


def _path() -> Path:
    return cache_folder() / FILE


def _read() -> _Cache:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_path().read_bytes(), type=_Cache)
    return _Cache(_SCHEMA, {})
