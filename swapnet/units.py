"""Sizes and times as text: parsed and printed one way everywhere."""

from __future__ import annotations

import re

from swapnet.errors import InputError

__all__ = ["align_up", "format_size", "parse_size", "rounded_up", "told_apart"]

_SCALE = {
    "B": 1,
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]i?B|[BKMGbkmg])?")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``64MiB``, ``1.5GiB``, ``200MB``, ``4096``, or trtexec's ``512M``.

    ``K``, ``M`` and ``G`` alone count in powers of two, as in trtexec; case does not matter then.

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
    unit = match[2] or "B"
    return int(float(match[1]) * _SCALE[unit.upper() if len(unit) == 1 else unit])


def format_size(nbytes: float) -> str:
    """``nbytes`` with the largest binary unit that leaves at least one: ``64MiB``, ``1.5GiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if abs(nbytes) >= _SCALE[unit]:
            return f"{nbytes / _SCALE[unit]:.1f}".removesuffix(".0") + unit
    return f"{int(nbytes)}B"


def rounded_up(nbytes: int, digits: int = 1) -> str:
    """A budget of at least ``nbytes`` in the words of an option, such as ``12.5MiB``."""
    return _mib(-(-nbytes * 10**digits // _SCALE["MiB"]) / 10**digits, digits)


def _mib(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").removesuffix(".") + "MiB"


def told_apart(nbytes: int, more: int) -> tuple[str, str]:
    """A size and one above it that is rounded up, with as many digits as tell them apart."""
    size, larger, digits = format_size(nbytes), rounded_up(more), 1
    while nbytes < more and parse_size(size) >= parse_size(larger):
        digits += 1
        size, larger = _mib(nbytes / _SCALE["MiB"], digits), rounded_up(more, digits)
    return size, larger


def align_up(nbytes: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` (bytes) that is not below ``nbytes``."""
    return -(-nbytes // alignment) * alignment
