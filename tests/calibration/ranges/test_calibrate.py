"""Ranges through the swap executor are those of the model run whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.selection import Channels, channelled
from swapnet.builder.rewriting.optimise import TYPES, Operators, optimise
from swapnet.calibration.ranges import calibrate, collect, groups
from swapnet.calibration.ranges.calibrate import calibrate_ranges
from swapnet.calibration.ranges.collect import BINS, EXTREMES, extreme_name
from swapnet.calibration.ranges.graph import open_model
from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.device import Device
from swapnet.process.failure import ProcessDied
from swapnet.ranges import Range
from tests.calibration.ranges.conftest import Toy, one_thread, toy_of
from tests.helpers import measuring
from tests.helpers.engines import Arrays
from tests.helpers.zoo import Net

pytestmark = pytest.mark.slow

ONE = Device(threads=1)

_AGAIN_BYTES = 64 << 10
"""Skeletons are measured in each build, and differ by so much."""


def smallest(toy: Toy, **options: Any) -> int:
    """The budget that an error names, and a little more."""
    with pytest.raises(BudgetError, match="can't be calibrated in") as caught:
        calibrate_ranges(toy.path, toy.samples, budget=1 << 20, **options)
    assert caught.value.smallest_bytes is not None
    assert f"needs {caught.value.smallest_bytes} bytes" in caught.value.why
    assert f"allows {1 << 20}" in caught.value.why
    return caught.value.smallest_bytes + _AGAIN_BYTES


def close(found: Range, expected: Range, rel: float = 1e-5) -> bool:
    """Within a share of the larger bound."""
    limit = rel * max(-expected.low, expected.high, 1e-6)
    return abs(found.low - expected.low) < limit and abs(found.high - expected.high) < limit


def seen(name: str, runs: Sequence[Arrays]) -> Range:
    """The least and greatest value, by NumPy."""
    low = min(float(run[name].min()) for run in runs)
    high = max(float(run[name].max()) for run in runs)
    return Range(min(low, 0.0), max(high, 0.0))


def test_extremes_are_those_of_every_value(convolutions: Toy) -> None:
    before = convolutions.left()
    cache = calibrate_ranges(convolutions.path, convolutions.samples, device=ONE)
    runs = convolutions.values()
    assert set(cache.ranges) == set(runs[0])
    for name, found in cache.ranges.items():
        assert close(found, seen(name, runs)), name
    assert cache.model_sha256 == open_source(convolutions.path).identity
    assert (cache.model, cache.method, cache.samples) == ("optimised.onnx", "minmax", 3)
    assert cache.percentile is None
    assert convolutions.left() == before


def test_swapped_equals_whole_and_unswapped(convolutions: Toy, tmp_path: Path) -> None:
    given: dict[str, Any] = {"source_sha256": "ab" * 32, "source_name": "net.onnx", "device": ONE}
    budget = smallest(convolutions)
    swapped = calibrate_ranges(
        convolutions.path, iter(convolutions.samples), budget=budget, **given
    )
    unswapped = calibrate_ranges(convolutions.path, convolutions.samples, budget="100%", **given)
    assert swapped == unswapped
    assert (swapped.model_sha256, swapped.model) == ("ab" * 32, "net.onnx")

    (tmp_path / "work").mkdir()
    opened = open_model(convolutions.path, tmp_path / "work")
    tensors = opened.activations()[1:]
    variant = opened.with_extremes(tensors, {}, "extremes")
    optimise(open_source(variant.path), tmp_path, operators=Operators.HARDWARE)
    options = quiet_options(optimise=False)
    options.intra_op_num_threads = 1
    session = open_session(tmp_path / TYPES, options)
    for index, tensor in enumerate(tensors):
        names = [extreme_name(index, operator) for operator in EXTREMES[:2]]
        values = np.array([session.run(names, sample) for sample in convolutions.samples])
        assert swapped.ranges[tensor].low == min(values.min(), 0.0), tensor
        assert swapped.ranges[tensor].high == max(values.max(), 0.0), tensor


def channels_in(toy: Toy) -> dict[str, Channels]:
    return channelled(onnx.load_model(toy.path, load_external_data=False).graph)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_means_are_those_of_every_value_at_any_budget(convolutions: Toy, method: Any) -> None:
    channels = channels_in(convolutions)
    options: dict[str, Any] = {"channels": channels, "method": method, "device": ONE}
    whole = calibrate_ranges(convolutions.path, convolutions.samples, **options)
    budget = smallest(convolutions, **options)
    small = calibrate_ranges(convolutions.path, convolutions.samples, budget=budget, **options)
    assert small.means == whole.means
    assert set(whole.means) == set(channels)
    assert len(channels) == 3
    runs = convolutions.values()
    for name, given in channels.items():
        values = np.concatenate(
            [np.moveaxis(run[name], given.axis, -1).reshape(-1, given.count) for run in runs]
        )
        expected = values.mean(axis=0, dtype=np.float64)
        limit = 1e-5 * np.abs(values).max()
        np.testing.assert_allclose(whole.means[name], expected, rtol=0, atol=limit, err_msg=name)


def test_no_means_where_none_are_asked_for(convolutions: Toy) -> None:
    assert calibrate_ranges(convolutions.path, convolutions.samples, device=ONE).means == {}


@pytest.mark.parametrize(
    ("method", "theirs", "options"),
    [
        ("entropy", CalibrationMethod.Entropy, {"num_bins": BINS["entropy"]}),
        ("percentile", CalibrationMethod.Percentile, {"percentile": 99.37}),
    ],
)
def test_histograms_are_those_of_the_librarys_calibrator(
    convolutions: Toy, tmp_path: Path, method: Any, theirs: CalibrationMethod, options: Any
) -> None:
    cache = calibrate_ranges(
        convolutions.path, convolutions.samples, method=method, percentile=99.37, device=ONE
    )
    path = tmp_path / "augmented.onnx"
    # The onnx package reads no weights that have a second link, as other tests give them.
    model = tmp_path / "model.onnx"
    onnx.save_model(onnx.load_model(convolutions.path, load_external_data=False), model)
    data = convolutions.path.with_suffix(".data").name
    (tmp_path / data).write_bytes(convolutions.path.with_name(data).read_bytes())
    calibrator = create_calibrator(model, None, str(path), theirs, extra_options=options)
    calibrator.infer_session = one_thread(path)
    calibrator.collect_data(Reader(convolutions.samples))
    expected = calibrator.compute_data()
    assert set(cache.ranges) == set(expected.keys())
    runs = convolutions.values()
    for name, found in cache.ranges.items():
        low, high = map(float, expected[name].range_value)
        bounds = seen(name, runs)
        within = Range(max(min(low, 0.0), bounds.low), min(max(high, 0.0), bounds.high))
        assert close(found, within, 5e-4), name
    assert cache.percentile == (99.37 if method == "percentile" else None)


class Reader:
    """What a calibrator reads."""

    def __init__(self, samples: Any) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Any:
        return next(self._samples, None)


@pytest.mark.parametrize(
    ("share", "spare_bytes"),
    [pytest.param(200, 1 << 20, id="by the limit"), pytest.param(4, 0, id="for they do not fit")],
)
def test_groups_find_what_one_group_finds(
    convolutions: Toy, monkeypatch: pytest.MonkeyPatch, share: int, spare_bytes: int
) -> None:
    monkeypatch.setattr(groups, "_SHARE", share)
    # So much is planned for that histograms of all tensors do not fit.
    monkeypatch.setitem(collect.BINS, "percentile", 8192)
    path, samples = convolutions.path, convolutions.samples
    options: dict[str, Any] = {"percentile": 99.37, "device": ONE}
    passes: list[int] = []

    def count(stage: str, done: int, total: int) -> None:
        if stage == "observe" and done == total:
            passes.append(done)

    options |= {"method": "percentile", "progress": count}
    together = calibrate_ranges(path, samples, **options)
    assert passes == [3, 3]
    budget = smallest(convolutions, device=ONE) + (128 << 10) + spare_bytes
    apart = calibrate_ranges(path, samples, **options, budget=budget)
    assert len(passes) > 4
    assert list(apart.ranges) == list(together.ranges)
    for name, found in apart.ranges.items():
        assert close(found, together.ranges[name], 1e-4), name


def test_samples_of_several_shapes(products: Toy) -> None:
    budget = smallest(products)
    cache = calibrate_ranges(products.path, products.samples, budget=budget, device=ONE)
    runs = products.values()
    for name, found in cache.ranges.items():
        assert close(found, seen(name, runs)), name
    larger = {"x": (9, 64), "ids": (9,)}
    planned = calibrate_ranges(products.path, products.samples, shapes=larger, device=ONE)
    assert planned.ranges.keys() == cache.ranges.keys()


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_only_inputs(products: Toy, method: Any) -> None:
    cache = calibrate_ranges(
        products.path, products.samples, tensors=["x"], method=method, device=ONE
    )
    assert list(cache.ranges) == ["x"]
    assert cache.ranges["x"].high == pytest.approx(0.05)


def test_an_activation_that_is_not_finite(products: Toy) -> None:
    before = products.left()
    bad = products.samples[0] | {"x": np.full((2, 64), -1e3, np.float32)}
    with pytest.raises(InputError, match="has NaN for sample 3"):
        calibrate_ranges(products.path, [*products.samples, bad], device=ONE)
    assert products.left() == before


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_of_a_model_with_a_mask_are_of_finite_values(tmp_path: Path, method: Any) -> None:
    """One mask is an input, the other one is made in the model."""
    net = Net()
    x, mask = net.input("x", (4, 64)), net.input("mask", (4, 64))
    scores = net("Add", net.dense(x, 64, 64), mask)
    hidden = net("Where", net("Less", scores, net.constant(np.array(0, np.float32))), mask, scores)
    both = net("Sub", hidden, net("Neg", hidden))
    net.output(net.dense(net("Softmax", hidden), 64, 64))
    net.output(both)
    random = np.random.default_rng(2)
    samples: list[Arrays] = []
    for _ in range(3):
        hides = random.random((4, 64)) < 0.3
        hides[:, 0] = False
        samples.append(
            {
                "x": random.standard_normal((4, 64)).astype(np.float32),
                "mask": np.where(hides, -np.inf, 0).astype(np.float32),
            }
        )
    toy = toy_of(net, tmp_path, samples)
    cache = calibrate_ranges(toy.path, samples, method=method, percentile=100, device=ONE)
    runs = [
        {name: value[np.isfinite(value)] for name, value in run.items()} for run in toy.values()
    ]
    assert cache.ranges["mask"] == Range(0, 0)
    assert any(np.isneginf(run[scores]).any() for run in toy.values())
    for name, range_ in cache.ranges.items():
        expected = seen(name, runs)
        assert expected.low - 1e-6 <= range_.low <= 0 <= range_.high <= expected.high + 1e-6, name
        assert method == "entropy" or close(range_, expected, rel=1e-2), name


def test_an_interrupt_leaves_nothing(convolutions: Toy) -> None:
    before = convolutions.left()

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "observe" and 0 < done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_ranges(convolutions.path, convolutions.samples, device=ONE, progress=interrupt)
    assert convolutions.left() == before
    measuring.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_weights_inside_the_model(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Relu", net.dense(net.input("x", (1, 64)), 64, 64)))
    toy = toy_of(net, tmp_path, [{"x": np.ones((1, 64), np.float32)}])
    inline = tmp_path / "inline.onnx"
    onnx.save_model(onnx.load_model(toy.path), inline)
    found = calibrate_ranges(inline, toy.samples, device=ONE).ranges
    assert found == calibrate_ranges(toy.path, toy.samples, device=ONE).ranges


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "mean"}, "no method 'mean'"),
        ({"percentile": 0}, "a percentile of 0 is invalid"),
        ({"percentile": 100.5}, "a percentile of 100.5 is invalid"),
        ({"percentile": float("nan")}, "a percentile of nan is invalid"),
        ({"budget": "much"}, "'much' is not a budget"),
        ({"tensors": ["nothing"]}, "'nothing' can't be observed"),
        ({"samples": []}, "the data has no samples"),
    ],
)
def test_bad_arguments(convolutions: Toy, options: dict[str, Any], what: str) -> None:
    before = convolutions.left()
    with pytest.raises(InputError, match=what):
        calibrate_ranges(convolutions.path, **{"samples": convolutions.samples, **options})
    assert convolutions.left() == before


@pytest.mark.parametrize("who", ["builds", "calibrates"])
def test_a_process_that_the_kernel_kills_is_told(
    convolutions: Toy, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    died = ProcessDied(f"the process that {who} was killed by signal 9 (Killed)", why="why")
    died.was_killed = True

    def killed(*_: object, **given: object) -> None:
        if who == "calibrates":
            raise died
        assert given["process_per_block"]
        raise BackendError("engine could not be built", why="1MiB is available") from died

    monkeypatch.setattr(calibrate, "build" if who == "builds" else "observe_in_child", killed)
    with pytest.raises(BackendError, match=f"conv could not be calibrated.* {who}") as caught:
        calibrate_ranges(
            convolutions.path, convolutions.samples, device=ONE, source_name="conv", apart=True
        )
    assert "is available" in caught.value.why
    assert "--calibration" in caught.value.hint


def test_other_refusals_of_the_backend_stay_as_they_are(
    convolutions: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BackendError("it is refused")

    monkeypatch.setattr(calibrate, "build", refused)
    with pytest.raises(BackendError, match="it is refused"):
        calibrate_ranges(convolutions.path, convolutions.samples, device=ONE)
