"""Float32 values that are stored in two bytes each come back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from swapnet.executor.swapping import codecs
from swapnet.executor.swapping.codecs import expand, narrowed
from swapnet.manifest import Codec

HALVES = np.arange(1 << 16, dtype=np.uint16)
FINITE = HALVES[np.isfinite(HALVES.view(np.float16))]


def widened(halves: NDArray[np.uint16], codec: Codec) -> NDArray[np.uint8]:
    """Reference values, by numpy."""
    if codec == "planes":
        return (halves.astype(np.uint32) << 16).view(np.uint8)
    return halves.view(np.float16).astype(np.float32).view(np.uint8)


@pytest.mark.parametrize(("codec", "halves"), [("planes", HALVES), ("float16", FINITE)])
def test_every_value_of_the_narrow_type_comes_back(
    codec: Codec, halves: NDArray[np.uint16]
) -> None:
    values = widened(halves, codec)
    stored = narrowed(values, codec)
    assert stored is not None
    np.testing.assert_array_equal(stored.view(np.uint16), halves)
    place = np.concatenate([np.full_like(stored, 0xFF), stored])
    expand(place, codec)
    np.testing.assert_array_equal(place, values)


@pytest.mark.parametrize(
    "bits",
    [
        *(0x7F800000, 0xFF800000),  # infinities
        *(0x7FC00000, 0x7FC02000, 0xFF802000, 0x7F800001),  # NaNs
        *(0x477FF000, 0x33000001, 0x00000001, 0x3F801000),  # too large, too small, too fine
    ],
)
def test_what_float16_does_not_hold_is_refused(bits: int) -> None:
    values = np.array([0, bits], np.uint32).view(np.uint8)
    assert narrowed(values, "float16") is None
    assert (narrowed(values, "planes") is None) == bool(bits & 0xFFFF)


@given(
    st.lists(st.integers(0, (1 << 32) - 1), max_size=40),
    st.sampled_from(["planes", "float16"]),
    st.sampled_from([0xFFFFFFFF, 0xFFFF0000, 0xFFFFE000]),
)
def test_bits_come_back_or_are_refused(bits: list[int], codec: Codec, mask: int) -> None:
    values = (np.array(bits, np.uint32) & np.uint32(mask)).view(np.uint8)
    stored = narrowed(values, codec)
    if stored is None:
        return
    place = np.concatenate([np.zeros_like(stored), stored])
    expand(place, codec)
    np.testing.assert_array_equal(place, values)


@given(st.integers(0, 3000), st.integers(1, 5), st.sampled_from(["planes", "float16"]))
def test_no_stored_value_is_overwritten_before_it_is_read(
    count: int, most: int, codec: Codec
) -> None:
    halves = np.resize(FINITE[7::31], count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "_MOST_VALUES", most * 100)
        patch.setattr(codecs, "_OVERLAPPING_VALUES", most)
        place = np.concatenate([np.zeros(2 * count, np.uint8), halves.view(np.uint8)])
        expand(place, codec)
    np.testing.assert_array_equal(place, widened(halves, codec))


def test_threads_that_flush_subnormal_values_expand_them_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codecs, "_flushes", lambda: True)
    monkeypatch.delattr(codecs, "_widen")
    place = np.concatenate([np.zeros(2 * len(FINITE), np.uint8), FINITE.view(np.uint8)])
    expand(place, "float16")
    np.testing.assert_array_equal(place, widened(FINITE, "float16"))
