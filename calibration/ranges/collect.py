"""What is kept of activations: their extremes, or histograms that a range is taken from."""

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
"""What is asked of each tensor: of the first two NaN is not always to be seen, in the sum it is."""

BINS: Mapping[str, int] = {"entropy": 512, "percentile": 2048}
"""Of a histogram: of values from ``-t`` to ``t``, and of absolute values."""

PIECE = 1 << 18
"""Elements that are sorted into bins at once: the collector copies them."""

_QUANTISED_BINS = 128

_NOTHING = (float("inf"), float("-inf"))
"""What the extremes of no elements are."""


class Extreme(msgspec.Struct, frozen=True):
    """The least and the greatest value that was seen."""

    low: float
    high: float


class Collector(Protocol):
    """Takes what one sample gave after the other."""

    @property
    def infinite(self) -> Collection[str]:
        """Computed tensors whose extremes are not known, for they are infinite."""

    def add(self, sample: int, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        """Take the inputs and outputs of one inference; outputs are used up.

        Raises
        ------
        InputError
            A value is NaN.
        """

    def found(self) -> dict[str, Extreme]:
        """By name of a tensor; none is left out."""


def extreme_name(index: int, operator: str) -> str:
    """The output that says so of tensor ``index``."""
    return f"swapnet.ranges.{index}.{operator}"


def mean_name(index: int) -> str:
    """The output that has the means of tensor ``index``'s channels."""
    return f"swapnet.means.{index}"


def means_bytes(channels: int) -> int:
    """What the means of so many channels take: sums of 8 bytes, and those of one sample."""
    return channels * 12


def histogram_bytes(method: str, tensors: int) -> int:
    """What the histograms of so many tensors take: counts of 8 bytes, edges of 4, one in turn."""
    return tensors * BINS[method] * 12 + BINS[method] * 12


class Extremes:
    """The least and greatest of each tensor, of finite elements for inputs.

    A computed tensor with infinite elements is in `infinite`: the engine reduces all of them.

    Parameters
    ----------
    tensors
        Computed ones, of which the engine gives the `EXTREMES`.
    inputs
        Model inputs.
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
                hint="leave the sample out if it is bad, or do not observe the tensor",
            )
        before = self._found[name]
        self._found[name] = Extreme(min(before.low, low), max(before.high, high))

    def found(self) -> dict[str, Extreme]:
        """By name; a tensor without elements in all samples has zeros."""
        return {
            name: seen if seen.low <= seen.high else Extreme(0.0, 0.0)
            for name, seen in self._found.items()
        }


class Means:
    """The mean of each channel: of a sample, then over samples.

    Parameters
    ----------
    channels
        Of each tensor; the engine gives their means, number ``i`` as `mean_name`.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        self._sums = {name: np.zeros(count, np.float64) for name, count in channels.items()}
        self._samples = dict.fromkeys(channels, 0)

    def add(self, outputs: dict[str, Array]) -> None:
        """Take the outputs of one inference; means are used up.

        A sample with no elements of a tensor, or whose sum exceeds float32, does not count.
        """
        for index, name in enumerate(self._sums):
            means = outputs.pop(mean_name(index)).astype(np.float64)
            if np.isfinite(means).all():
                self._sums[name] += means
                self._samples[name] += 1

    def found(self) -> dict[str, tuple[float, ...]]:
        """By name; a tensor that no sample counts for is left out."""
        return {
            name: tuple((sums / self._samples[name]).tolist())
            for name, sums in self._sums.items()
            if self._samples[name]
        }


class Histograms:
    """ONNX Runtime's collector, given the extremes first: bins stay, so samples have no order.

    A percentile is of absolute values, ``t``: a range is what was seen between ``-t`` and ``t``.
    All of that would leave half of the steps of uint8 to values of one sign that have none.
    Infinite values are left out.

    Parameters
    ----------
    method
        How a range is taken from a histogram.
    percentile
        Of absolute values, for that method.
    known
        Extremes of the tensors, model inputs among them.
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
        """Too narrow or too wide for bins of float32: all of it is the range."""
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
        """By name."""
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
