"""The calibration cache."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import InputError, StorageError
from swapnet.ranges import (
    Range,
    RangeCache,
    check_means,
    check_ranges,
    load_ranges,
    save_ranges,
)


@pytest.fixture
def cache() -> RangeCache:
    return RangeCache(
        schema="swapnet-ranges/1",
        model_sha256="0123456789abcdef",
        model="toy",
        method="minmax",
        samples=3,
        onnxruntime="1.32.0",
        ranges={"image": Range(-2.5, 0.1), "relu/out:0": Range(0.0, 6.0)},
    )


def edited(cache: RangeCache, path: Path, **fields: object) -> Path:
    """A file with other fields; those that are None are left out."""
    content: dict[str, Any] = {**msgspec.to_builtins(cache), **fields}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


@pytest.mark.parametrize("means", [{}, {"image": (0.1, -2.5e-7, 3.0)}], ids=["none", "means"])
@pytest.mark.parametrize("percentile", [None, 99.9])
def test_what_was_saved_is_loaded(
    tmp_path: Path,
    cache: RangeCache,
    percentile: float | None,
    means: dict[str, tuple[float, ...]],
) -> None:
    path = tmp_path / "new" / "toy.json"
    cache = msgspec.structs.replace(cache, percentile=percentile, means=means)
    save_ranges(path, cache)
    save_ranges(path, cache)
    assert load_ranges(path) == cache
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_cache_can_be_read_and_edited(tmp_path: Path, cache: RangeCache) -> None:
    path = tmp_path / "toy.json"
    save_ranges(path, cache)
    text = path.read_text()
    assert '"low": -2.5' in text
    assert "percentile" not in text
    assert "means" not in text
    path.write_text(text.replace("-2.5", "-3"))
    assert load_ranges(path).ranges["image"] == Range(-3.0, 0.1)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.5, 1.0), (-1.0, -0.5), (1.0, -1.0), (-math.inf, 0.0), (0.0, math.inf), (math.nan, 1.0)],
)
def test_a_range_holds_zero_and_is_finite(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low <= 0 <= high"):
        Range(low, high)


def test_zero_alone_is_a_range() -> None:
    assert Range(0.0, 0.0) == Range(0.0, 0.0)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json can't be read") as caught:
        load_ranges(tmp_path / "none.json")
    assert "swapnet quantize" in caught.value.hint


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"schema": "swapnet-ranges/2"}, "schema"),
        ({"model_sha256": None}, "model_sha256"),
        ({"samples": "three"}, "samples"),
        ({"method": "guess"}, "guess"),
        ({"extra": 1}, "extra"),
        ({"ranges": {"image": {"low": 1.0, "high": 2.0}}}, "low <= 0 <= high"),
        ({"means": {"image": [0.5, 1e39]}}, "means of 'image' are not all finite in float32"),
        ({"means": {"image": [0.5, math.nan]}}, "malformed"),
        ({"means": {"image": [0.5, math.inf]}}, "malformed"),
        ({"means": {"image": [0.5, None]}}, "means"),
        ({"means": {"image": 0.5}}, "means"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_follow_the_schema_is_refused(
    tmp_path: Path, cache: RangeCache, fields: dict[str, object], word: str
) -> None:
    path = edited(cache, tmp_path / "toy.json", **fields)
    with pytest.raises(InputError, match="is not a calibration cache") as caught:
        load_ranges(path)
    assert word in caught.value.why


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b"\xff\xfe"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.json").write_bytes(content)
    with pytest.raises(InputError, match="is not a calibration cache"):
        load_ranges(tmp_path / "toy.json")


def test_ranges_of_the_model_pass(cache: RangeCache) -> None:
    check_ranges(cache, cache.model_sha256, ["image"])
    check_ranges(cache, cache.model_sha256, [])


def test_ranges_of_another_model_are_refused(cache: RangeCache) -> None:
    with pytest.raises(InputError, match="of another model: toy") as caught:
        check_ranges(cache, "fedcba9876543210", [])
    assert "0123456789ab" in caught.value.why
    assert "fedcba987654" in caught.value.why


def test_lacking_ranges_are_counted_and_named(cache: RangeCache) -> None:
    with pytest.raises(InputError, match="lacks 2 of 3 values") as caught:
        check_ranges(cache, cache.model_sha256, ["image", "second", "third"])
    assert "'second'" in caught.value.why
    assert "1.32.0" in caught.value.why


def test_a_place_that_refuses(tmp_path: Path, cache: RangeCache) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        save_ranges(tmp_path / "file" / "toy.json", cache)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="can't be written"):
        save_ranges(tmp_path / "folder", cache)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_means_of_every_channel_or_none_pass(cache: RangeCache) -> None:
    cache = msgspec.structs.replace(cache, means={"image": (0.5, -1.0)})
    check_means(cache, {"image": 2, "relu/out:0": 9})
    check_means(cache, {})


@pytest.mark.parametrize("count", [1, 3])
def test_means_of_too_few_or_too_many_channels_are_refused(cache: RangeCache, count: int) -> None:
    cache = msgspec.structs.replace(cache, means={"image": (0.5, -1.0)})
    with pytest.raises(InputError, match="has 2 means of 'image'") as caught:
        check_means(cache, {"image": count})
    assert f"{count} channels" in caught.value.why
