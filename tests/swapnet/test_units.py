from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import InputError
from swapnet.units import align_up, format_size, parse_size, told_apart


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        *(("4096", 4096), ("7B", 7), ("1KB", 1000), ("200MB", 200_000_000), ("1GB", 10**9)),
        *(("512M", 512 << 20), ("0.5G", 1 << 29), ("64m", 64 << 20), ("3k", 3072), ("9b", 9)),
        *(("1KiB", 1024), ("64MiB", 64 << 20), ("1.5GiB", 3 << 29), (" 2 MiB ", 2 << 20)),
    ],
)
def test_parses_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "MiB", "64 miles", "-1MiB", "1e6", "64MiB25%", "1.MiB", "1mib"]
)
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size") as caught:
        parse_size(text)
    assert repr(text) in caught.value.what
    assert "64MiB" in caught.value.hint


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (64 << 20, "64MiB"), (3 << 29, "1.5GiB")],
)
def test_prints_the_largest_unit(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 50))
def test_what_is_printed_can_be_parsed(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == pytest.approx(nbytes, rel=0.06)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 50), st.integers(1, 1 << 20))
def test_aligns_to_the_next_multiple(nbytes: int, alignment: int) -> None:
    aligned = align_up(nbytes, alignment)
    assert aligned % alignment == 0
    assert 0 <= aligned - nbytes < alignment


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1 << 40), st.integers(1, 1 << 20))
def test_two_sizes_are_told_apart_and_the_larger_is_enough(nbytes: int, more: int) -> None:
    size, larger = told_apart(nbytes, nbytes + more)
    assert parse_size(size) < parse_size(larger)
    assert parse_size(larger) >= nbytes + more - 1  # text is parsed as a float


def test_a_size_and_a_little_more_have_as_many_digits_as_they_need() -> None:
    assert told_apart(8 << 20, 9 << 20) == ("8MiB", "9MiB")
    assert told_apart(1085 << 20, 1086 << 20) == ("1085MiB", "1086MiB")  # not 1.1GiB
    assert told_apart(8_263_000, 8_283_000) == ("7.88MiB", "7.9MiB")
    assert told_apart(8_283_000, 8_283_001) == ("7.899MiB", "7.9MiB")
