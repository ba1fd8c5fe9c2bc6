"""Sizes and times as text: parsed and printed one way everywhere."""

from __future__ import annotations

import re

from swapnet.errors import InputError

__all__ = ["align_up", "format_size", "parse_size"]

_SCALE = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]i?B|B)?")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``64MiB``, ``1.5GiB``, ``200MB`` or ``4096``.

    Raises
    ------
    InputError
        The text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a size",
            why=f"a size is a number and one of {', '.join(_SCALE)}",
            hint="write it like 64MiB or 1.5GiB",
        )
    return int(float(match[1]) * _SCALE[match[2] or "B"])


def format_size(nbytes: float) -> str:
    """``nbytes`` with the largest binary unit that leaves at least one: ``64MiB``, ``1.5GiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if abs(nbytes) >= _SCALE[unit]:
            return f"{nbytes / _SCALE[unit]:.1f}".removesuffix(".0") + unit
    return f"{int(nbytes)}B"


def align_up(nbytes: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` (bytes) that is not below ``nbytes``."""
    return -(-nbytes // alignment) * alignment
