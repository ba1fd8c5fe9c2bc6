"""Values kept of activations: extremes, means, and histograms to take ranges from."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from math import isinf, isnan
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.arrays import Array
from swapnet.errors import InputError

__all__ = [
    "BINS",
    "EXTREMES",
    "PIECE",
    "Collector",
    "Extreme",
    "Extremes",
    "Histograms",
    "Means",
    "extreme_name",
    "histogram_bytes",
    "mean_name",
    "means_bytes",
]

EXTREMES = ("ReduceMin", "ReduceMax", "ReduceSum")
"""Reductions of each tensor: the sum shows NaN, which the first two may hide."""

BINS: Mapping[str, int] = {"entropy": 512, "percentile": 2048}
"""Bins of a histogram: of values from ``-t`` to ``t``, and of absolute values."""

PIECE = 1 << 18
"""Elements that are sorted into bins at once: the collector copies them."""

_QUANTISED_BINS = 128

_NOTHING = (float("inf"), float("-inf"))
"""Extremes of no elements."""


class Extreme(msgspec.Struct, frozen=True):
    """The least and the greatest value."""

    low: float
    high: float


class Collector(Protocol):
    """Takes the values of one sample after the other."""

    @property
    def infinite(self) -> Collection[str]:
        """Computed tensors with infinite elements: their extremes are not known yet."""

    def add(self, sample: int, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        """Take the inputs and outputs of one inference; outputs are used up.

        Raises
        ------
        InputError
            A value is NaN.
        """

    def found(self) -> dict[str, Extreme]:
        """Extremes of all tensors, by name."""


def extreme_name(index: int, operator: str) -> str:
    """Name of the output with an extreme of tensor ``index``."""
    return f"swapnet.ranges.{index}.{operator}"


def mean_name(index: int) -> str:
    """Name of the output with the means of tensor ``index``'s channels."""
    return f"swapnet.means.{index}"


def means_bytes(channels: int) -> int:
    """Bytes of the means of channels: sums of 8 bytes, and those of one sample."""
    return channels * 12


def histogram_bytes(method: str, tensors: int) -> int:
    """Bytes of histograms: counts of 8 bytes, edges of 4, and one more in turn."""
    return tensors * BINS[method] * 12 + BINS[method] * 12


class Extremes:
    """Extremes of the finite elements of model inputs, and of computed tensors by their `EXTREMES`.

    A computed tensor with infinite elements is in `infinite`: the engine reduces all of them.
    """

    def __init__(self, tensors: Sequence[str], inputs: Sequence[str]) -> None:
        self._tensors = tuple(tensors)
        self._found: dict[str, Extreme] = dict.fromkeys((*inputs, *tensors), Extreme(*_NOTHING))
        self._inputs = tuple(inputs)
        self._infinite: dict[str, None] = {}

    @property
    def infinite(self) -> Collection[str]:
        return tuple(self._infinite)

    def add(self, sample: int, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        for name in self._inputs:
            value = inputs[name]
            if value.size and not np.isfinite([value.min(), value.max()]).all():
                value = value[np.isfinite(value)]
            if value.size:
                self._take(sample, name, float(value.min()), float(value.max()), 0.0)
        for index, name in enumerate(self._tensors):
            low, high, total = (
                float(outputs.pop(extreme_name(index, operator))) for operator in EXTREMES
            )
            if (low, high) != _NOTHING:
                self._take(sample, name, low, high, total)

    def _take(self, sample: int, name: str, low: float, high: float, total: float) -> None:
        # The sum of infinities of both signs is NaN too: a pass without them tells.
        if isinf(low) or isinf(high):
            self._infinite[name] = None
            return
        if isnan(low) or isnan(high) or isnan(total):
            raise InputError(
                f"{name!r} has NaN for sample {sample}",
                why="NaN has no range",
                hint="leave the sample out, or exclude the operator: --exclude",
            )
        before = self._found[name]
        self._found[name] = Extreme(min(before.low, low), max(before.high, high))

    def found(self) -> dict[str, Extreme]:
        """By name; a tensor that is empty in all samples has zeros."""
        return {
            name: seen if seen.low <= seen.high else Extreme(0.0, 0.0)
            for name, seen in self._found.items()
        }


class Means:
    """The mean of each channel: of a sample, then over samples.

    ``channels`` has the number of channels by tensor; outputs with means are named by `mean_name`.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        self._sums = {name: np.zeros(count, np.float64) for name, count in channels.items()}
        self._samples = dict.fromkeys(channels, 0)

    def add(self, outputs: dict[str, Array]) -> None:
        """Take the outputs of one inference; means are used up.

        A sample with an empty tensor, or a sum that exceeds float32, does not count.
        """
        for index, name in enumerate(self._sums):
            means = outputs.pop(mean_name(index)).astype(np.float64)
            if np.isfinite(means).all():
                self._sums[name] += means
                self._samples[name] += 1

    def found(self) -> dict[str, tuple[float, ...]]:
        """By name; a tensor without a counted sample is left out."""
        return {
            name: tuple((sums / self._samples[name]).tolist())
            for name, sums in self._sums.items()
            if self._samples[name]
        }


class Histograms:
    """ONNX Runtime's collector with known extremes: bins stay, so samples have no order.

    A percentile ``t`` is of absolute values: a range is the part of the observed one between ``-t``
    and ``t``. All of ``-t`` to ``t`` would leave half the steps of one-sided values unused.
    Infinite values are left out.
    """

    def __init__(
        self,
        method: Literal["entropy", "percentile"],
        percentile: float,
        known: Mapping[str, Extreme],
    ) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self.infinite: Collection[str] = ()

        self._collector = HistogramCollector(
            method=method,
            symmetric=method == "percentile",
            num_bins=BINS[method],
            num_quantized_bins=_QUANTISED_BINS,
            percentile=percentile,
            scenario="same",
        )
        self._known = known
        self._whole: dict[str, Extreme] = {}
        """Ranges too narrow or too wide for bins of float32: taken whole."""
        for name, seen in known.items():
            nearest = max(seen.low, -seen.high, 0.0)
            try:
                self._collect(name, np.array([nearest, seen.low, seen.high], np.float32))
            except ValueError:
                self._whole[name] = seen
            else:
                self._collector.get_histogram_dict()[name][0][:] = 0

    def add(self, sample: int, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        for name in self._collector.get_histogram_dict():
            value = outputs.pop(name) if name in outputs else inputs[name]
            flat = value.reshape(-1)
            for start in range(0, flat.size, PIECE):
                piece = flat[start : start + PIECE]
                if (finite := piece[np.isfinite(piece)]).size:
                    self._collect(name, finite)

    def _collect(self, name: str, values: npt.NDArray[Any]) -> None:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            self._collector.collect({name: values})

    def found(self) -> dict[str, Extreme]:
        if not self._collector.get_histogram_dict():
            return self._whole
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            results = self._collector.compute_collection_result()
        taken = {
            name: Extreme(
                max(float(range_[0]), self._known[name].low),
                min(float(range_[1]), self._known[name].high),
            )
            for name, range_ in results.items()
        }
        return taken | self._whole
