"""Extremes and histograms, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from swapnet.arrays import Array
from swapnet.calibration.ranges import collect
from swapnet.calibration.ranges.collect import (
    BINS,
    EXTREMES,
    Extreme,
    Extremes,
    Histograms,
    Means,
    extreme_name,
    mean_name,
)
from swapnet.errors import InputError

HistogramMethod = Literal["entropy", "percentile"]


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def outputs(*tensors: Sequence[float]) -> dict[str, Array]:
    """What reductions give of each tensor."""
    given: dict[str, Array] = {}
    for index, (low, high, total) in enumerate(tensors):
        for operator, value in zip(EXTREMES, (low, high, total), strict=True):
            given[extreme_name(index, operator)] = np.asarray(value, np.float32)
    return given


def test_extremes_are_of_all_samples() -> None:
    taken = Extremes(["a", "b"], ["x"])
    taken.add(0, {"x": floats(1, 2)}, outputs((-1, 2, 0), (5, 6, 11)))
    taken.add(1, {"x": floats(-3)}, outputs((-2, 1, 0), (4, 5, 9)))
    assert taken.found() == {"x": Extreme(-3, 2), "a": Extreme(-2, 2), "b": Extreme(4, 6)}


def test_no_elements_have_no_extremes() -> None:
    nothing = (np.inf, -np.inf, 0)
    taken = Extremes(["a", "b"], ["x"])
    taken.add(0, {"x": np.zeros((0, 2), np.float32)}, outputs(nothing, (1, 2, 3)))
    taken.add(1, {"x": floats(7)}, outputs(nothing, nothing))
    assert taken.found() == {"x": Extreme(7, 7), "a": Extreme(0, 0), "b": Extreme(1, 2)}


@pytest.mark.parametrize(
    "seen",
    [
        (np.nan, np.nan, np.nan),
        (0, 1, np.nan),
    ],
)
def test_nan_is_named(seen: Sequence[float]) -> None:
    taken = Extremes(["a", "b"], [])
    taken.add(0, {}, outputs((0, 1, 1), (0, 1, 1)))
    with pytest.raises(InputError, match="'b' has NaN for sample 1"):
        taken.add(1, {}, outputs((0, 1, 1), seen))


@pytest.mark.parametrize(
    "seen", [(0, np.inf, np.inf), (-np.inf, 1, -np.inf), (-np.inf, np.inf, np.nan)]
)
def test_infinite_tensors_are_told_apart(seen: Sequence[float]) -> None:
    taken = Extremes(["a", "b"], [])
    taken.add(0, {}, outputs((0, 1, 1), seen))
    taken.add(1, {}, outputs((0, 2, 1), (0, 3, 1)))
    assert taken.infinite == ("b",)
    assert taken.found()["a"] == Extreme(0, 2)


def test_inputs_have_the_extremes_of_their_finite_elements() -> None:
    taken = Extremes([], ["mask", "hidden"])
    hidden = floats(-np.inf, -np.inf)
    taken.add(0, {"mask": floats(-2, -np.inf, 3, np.inf), "hidden": hidden}, {})
    assert taken.found() == {"mask": Extreme(-2, 3), "hidden": Extreme(0, 0)}


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_histograms_leave_infinities_out(method: HistogramMethod) -> None:
    values = np.linspace(-4, 4, 999, dtype=np.float32)
    hidden = np.concatenate([values, np.full(500, -np.inf, np.float32), floats(np.inf)])
    found = []
    for given in (values, hidden):
        taken = Histograms(method, 90.0, {"a": Extreme(-4, 4), "b": Extreme(0, 0)})
        taken.add(0, {}, {"a": given, "b": floats(-np.inf)})
        found.append(taken.found()["a"])
    assert found[0] == found[1]


def test_a_large_finite_sum_is_no_error() -> None:
    taken = Extremes(["masked"], [])
    taken.add(0, {}, outputs((-3.4e38, 1, -np.inf)))
    assert taken.found()["masked"].high == 1


def test_means_are_of_all_samples() -> None:
    taken = Means({"a": 2, "b": 1})
    for first, second in (((1, 2), 3), ((2, 6), 4), ((6, 1), -1)):
        given = {mean_name(0): floats(*first), mean_name(1): floats(second), "other": floats(9)}
        taken.add(given)
        assert list(given) == ["other"]
    assert taken.found() == {"a": (3.0, 3.0), "b": (2.0,)}


def test_samples_without_means_do_not_count() -> None:
    taken = Means({"a": 2, "b": 1})
    for first in ((1, np.nan), (3, 4), (np.inf, 1)):
        taken.add({mean_name(0): floats(*first), mean_name(1): floats(np.nan)})
    assert taken.found() == {"a": (3.0, 4.0)}


def tensors(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    values = random.standard_normal((4, 300)).astype(np.float32) * (1 + seed)
    return {
        "a": values,
        "b": np.maximum(values, 0),
        "c": np.array([[0.25 + seed, 0.5, 0.75]], np.float32),
    }


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_histograms_are_those_of_all_samples_at_once(
    method: HistogramMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "PIECE", 100)
    monkeypatch.setitem(collect.BINS, method, 256)
    samples = [tensors(seed) for seed in (2, 0, 1)]
    together = {name: [s[name] for s in samples] for name in samples[0]}
    known = {
        name: Extreme(float(np.min(values)), float(np.max(values)))
        for name, values in together.items()
    }
    found = []
    for order in (samples, samples[::-1]):
        ours = Histograms(method, 99.37, known)
        for number, sample in enumerate(order):
            ours.add(number, {"a": sample["a"]}, {n: sample[n] for n in ("b", "c")})
        found.append(ours.found())
    whole = HistogramCollector(method, method == "percentile", 256, 128, 99.37, "same")
    whole.collect(together)
    expected = whole.compute_collection_result()
    assert found[0] == found[1]
    for name, (low, high, *_) in expected.items():
        seen = known[name]
        assert found[0][name].low == pytest.approx(max(float(low), seen.low), rel=5e-3), name
        assert found[0][name].high == pytest.approx(min(float(high), seen.high), rel=5e-3), name


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        pytest.param(np.linspace(0, 6, 999), 0, 5.4, id="of one sign"),
        pytest.param(np.linspace(-6, 0, 999), -5.4, 0, id="negative"),
        pytest.param(np.linspace(-0.2, 6, 999), -0.2, 5.38, id="hardly negative"),
        pytest.param(np.linspace(-6, 6, 999), -5.4, 5.4, id="even"),
        pytest.param(np.linspace(2, 6, 999), 2, 5.6, id="without zero"),
    ],
)
def test_a_percentile_stays_within_what_was_seen(
    values: NDArray[np.float64], low: float, high: float
) -> None:
    array = values.astype(np.float32)
    taken = Histograms("percentile", 90, {"a": Extreme(float(array.min()), float(array.max()))})
    taken.add(0, {}, {"a": array})
    found = taken.found()["a"]
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    assert array.min() <= found.low <= found.high <= array.max()


@pytest.mark.parametrize("method", ["entropy", "percentile"])
@pytest.mark.parametrize("value", [5.0, 0.0, -3e38])
def test_a_constant_keeps_its_range(method: HistogramMethod, value: float) -> None:
    low = np.float32(value)
    seen = {"a": Extreme(float(low), float(np.nextafter(low, np.float32(9)))), "b": Extreme(0, 1)}
    taken = Histograms(method, 99.99, seen)
    taken.add(
        0,
        {},
        {
            "a": np.array([seen["a"].low, seen["a"].high], np.float32),
            "b": floats(0, 1),
        },
    )
    assert taken.found()["a"].low == pytest.approx(value, rel=1e-2, abs=1e-30)
    assert taken.found()["b"].high == pytest.approx(1.0, rel=1e-2)


def test_a_dark_sample_first_takes_no_more_bins() -> None:
    taken = Histograms("percentile", 100.0, {"a": Extreme(0.0, 1.0)})
    taken.add(0, {}, {"a": np.full(10, 1e-7, np.float32)})
    taken.add(1, {}, {"a": np.linspace(0, 1, 100, dtype=np.float32)})
    counts = taken._collector.get_histogram_dict()["a"][0]
    assert len(counts) <= BINS["percentile"] + 1
    assert counts.sum() == 110
    assert taken.found()["a"].high == pytest.approx(1.0, rel=1e-3)


def test_only_constants() -> None:
    narrow = Extreme(5.0, float(np.nextafter(np.float32(5), np.float32(9))))
    taken = Histograms("percentile", 99.99, {"a": narrow})
    assert taken.found() == {"a": narrow}
