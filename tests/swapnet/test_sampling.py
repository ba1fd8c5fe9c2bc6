from __future__ import annotations

from typing import Any

import numpy as np

from swapnet.sampling import assumed_values, sample_inputs

INPUTS = [
    *(("ids", "int64", (40,)), ("mask", "int64", (3,)), ("x", "float16", (2, 3))),
    *(("y", "bfloat16", (500,)), ("flag", "bool", ()), ("image", "uint8", (2,))),
]


def test_samples_are_valid_and_typed() -> None:
    sample = sample_inputs(INPUTS, {"ids": 7})
    assert {n: (a.dtype.name, a.shape) for n, a in sample.items()} == {
        name: ("uint16" if dtype == "bfloat16" else dtype, shape) for name, dtype, shape in INPUTS
    }
    assert set(sample["ids"].tolist()) == set(range(7))
    assert sample["mask"].tolist() == [1, 1, 1]
    assert sample["flag"].item() is True
    wide = (sample["y"].astype(np.uint32) << 16).view(np.float32)
    assert 0.8 < wide.std() < 1.2


def test_the_seed_decides() -> None:
    first, again, other = (sample_inputs(INPUTS, {"ids": 7}, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["ids"], other["ids"])


def values(*inputs: tuple[str, str, tuple[int, ...]], **declared: tuple[int | str, ...]) -> Any:
    """Samples without a table, as lists."""
    sample = sample_inputs(inputs, {}, shapes=declared)
    return {name: array.tolist() for name, array in sample.items()}


def test_lengths_are_those_of_the_axis_that_they_measure() -> None:
    text = values(("x", "int64", (1, 50)), ("x_lengths", "int64", (1,)))
    assert text["x_lengths"] == [50]
    sound = ("audio", "float32", (2, 80, 33)), ("audio_len", "int64", (2,))
    assert values(*sound, audio=("b", 80, "t"))["audio_len"] == [33, 33]
    assert values(*sound)["audio_len"] == [80, 80]
    pair = values(
        ("text", "int64", (1, 7)),
        ("speech", "float32", (1, 90, 4)),
        ("speech_lengths", "int32", (1,)),
        ("text_length", "int64", ()),
        ("wav_lens", "float32", (1,)),
    )
    assert (pair["speech_lengths"], pair["text_length"], pair["wav_lens"]) == ([90], 7, [1.0])
    assert values(("length", "int64", (1,)))["length"] == [1]


def test_decoders_get_masks_positions_and_no_cache() -> None:
    decoder = (
        ("attention_mask", "int64", (1, 6)),
        ("position_ids", "int64", (1, 2)),
        ("use_cache_branch", "bool", (1,)),
    )
    past = ("past.0.key", "float32", (1, 2, 4, 8))
    later = values(*decoder, past)
    assert later["attention_mask"] == [[1] * 6]
    assert later["position_ids"] == [[4, 5]]
    assert later["use_cache_branch"] == [True]
    assert values(*decoder, ("past.0.key", "float32", (1, 2, 0, 8)))["use_cache_branch"] == [False]
    limited = sample_inputs(decoder, {"position_ids": 5})
    assert limited["position_ids"].tolist() == [[4, 0]]
    assert values(("positions", "int64", (0,)))["positions"] == []


def test_scales_speeds_rates_and_speakers_are_usual_ones() -> None:
    found = values(
        ("scales", "float32", (3,)),
        ("length_scale", "float32", ()),
        ("speed", "float16", (1,)),
        ("sr", "int64", ()),
        ("sid", "int64", (1,)),
        ("durations", "int64", (1, 2)),
        ("key_padding_mask", "float32", (1, 2)),
    )
    assert found == {
        "scales": [1.0] * 3,
        "length_scale": 1.0,
        "speed": [1.0],
        "sr": 16000,
        "sid": [0],
        "durations": [[10, 10]],
        "key_padding_mask": [[1.0, 1.0]],
    }
    assert len(set(values(("scale", "float32", (100,)))["scale"])) > 90


def test_what_is_assumed_is_told() -> None:
    inputs = (
        *(("ids", "int64", (1, 5)), ("mask", "int64", (1, 5)), ("x", "float32", (4,))),
        *(("position_ids", "int64", (1, 5)), ("x_length", "int64", (1,)), ("flag", "bool", ())),
        *(("image", "uint8", (1, 4, 4, 3)), ("speed", "float32", ()), ("empty", "int64", (1, 0))),
    )
    assert assumed_values(inputs, {"ids": 7}, {}) == {
        "ids": "below 7",
        "mask": "1",
        "position_ids": "0 to 4",
        "x_length": "5",
        "flag": "True",
        "image": "1",
        "speed": "1.0",
        "empty": "1",
    }
