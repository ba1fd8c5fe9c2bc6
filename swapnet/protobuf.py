"""Fields of protocol-buffer messages, for ONNX files, without a library and without a copy.

The package `onnx` would take 12 MiB of an executing process, and reads a file whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["LENGTH", "VARINT", "Field", "edited", "encoded", "fields", "number", "varint"]

VARINT, _EIGHT, LENGTH, _FOUR = 0, 1, 2, 5
"""Wire types."""


class Field(NamedTuple):
    """A field of a message: ``start`` is that of its key, ``content`` that of its value."""

    number: int
    wire: int
    start: int
    content: int
    end: int


def fields(data: bytes | memoryview, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message from ``start`` to ``end``.

    Raises
    ------
    ValueError
        The message is cut short or has a wire type that ONNX does not use.
    """
    end = len(data) if end is None else end
    while start < end:
        key, content = varint(data, start)
        wire = key & 7
        if wire == VARINT:
            stop = varint(data, content)[1]
        elif wire == LENGTH:
            nbytes, content = varint(data, content)
            stop = content + nbytes
        elif wire in (_EIGHT, _FOUR):
            stop = content + (8 if wire == _EIGHT else 4)
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        if stop > end:
            raise ValueError(f"{stop - end} bytes are missing")
        yield Field(key >> 3, wire, start, content, stop)
        start = stop


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends.

    Raises
    ------
    ValueError
        It is cut short, or has more than ten bytes.
    """
    if at < len(data) and data[at] < 128:  # most are
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than ten bytes")


def encoded(field: int, content: bytes) -> bytes:
    """A field of bytes, with its key and length."""
    return number(field << 3 | LENGTH) + number(len(content)) + content


def edited(message: bytes, path: tuple[int, ...], edit: Callable[[bytes], bytes]) -> bytes:
    """The message with the fields on ``path`` changed by ``edit``."""
    if not path:
        return edit(message)
    return b"".join(
        encoded(f.number, edited(message[f.content : f.end], path[1:], edit))
        if f.number == path[0]
        else message[f.start : f.end]
        for f in fields(message)
    )


def number(value: int) -> bytes:
    """A number as `varint` reads it."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
