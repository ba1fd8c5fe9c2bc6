"""Caches of other models are refused."""

from __future__ import annotations

import pytest

from swapnet.errors import InputError
from swapnet.ranges import Range, RangeCache, check_ranges

CACHE = RangeCache(
    schema="swapnet-ranges/1",
    model_sha256="ab" * 32,
    model="net.onnx",
    method="minmax",
    samples=3,
    onnxruntime="1.32.0",
    ranges={"a": Range(0.0, 1.0)},
)


def test_a_cache_of_this_model() -> None:
    check_ranges(CACHE, "ab" * 32, ["a"])


def test_a_cache_of_another_model() -> None:
    with pytest.raises(InputError, match="of another model") as caught:
        check_ranges(CACHE, "cd" * 32, ["a"])
    assert "ab" * 6 in caught.value.why
    assert "cd" * 6 in caught.value.why


def test_a_cache_without_some_tensors() -> None:
    with pytest.raises(InputError, match="lacks 2 of 3") as caught:
        check_ranges(CACHE, "ab" * 32, ["a", "b", "c"])
    assert "'b'" in caught.value.why
    assert "quantize" in caught.value.hint
