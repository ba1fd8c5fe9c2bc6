"""JSON files with the name of their format and a checksum of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from swapnet.errors import EngineError

__all__ = ["read_sealed", "sha256_of", "write_sealed"]

R = TypeVar("R")


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    checksum: str
    engine: msgspec.Raw


class _Versioned(msgspec.Struct, frozen=True):
    schema: str = "(none)"


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: Path, schema: str, record: msgspec.Struct) -> None:
    """Write a record with the name of its format and its own checksum."""
    body = msgspec.json.format(msgspec.json.encode(record), indent=1)
    sealed = _Sealed(schema=schema, checksum=sha256_of(body), engine=msgspec.Raw(body))
    path.write_bytes(msgspec.json.encode(sealed) + b"\n")


def read_sealed(path: Path, schema: str, kind: type[R], again: str) -> R:
    """Read and validate a record that `write_sealed` wrote.

    ``again`` says how to make the file again, for hints.

    Raises
    ------
    EngineError
        The file is damaged, was changed, or has another format.
    OSError
        It can't be read.
    """
    data = path.read_bytes()
    try:
        version = msgspec.json.decode(data, type=_Versioned).schema
        if version != schema:
            raise EngineError(
                f"{path} has another format",
                why=f"it is {version}, this SwapNet reads {schema}",
                hint="use the SwapNet that wrote it, or " + again,
            )
        sealed = msgspec.json.decode(data, type=_Sealed)
    except msgspec.MsgspecError as error:
        raise EngineError(f"{path} is damaged", why=str(error), hint=again) from error
    if (found := sha256_of(bytes(sealed.engine))) != sealed.checksum:
        raise EngineError(
            f"{path} was changed after it was written",
            why=f"its checksum is {found[:12]}…, it should be {sealed.checksum[:12]}…",
            hint=again,
        )
    try:
        return msgspec.json.decode(sealed.engine, type=kind)
    except msgspec.MsgspecError as error:
        raise EngineError(f"{path} is damaged", why=str(error), hint=again) from error
