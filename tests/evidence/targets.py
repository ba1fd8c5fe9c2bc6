"""What the suite must show, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec

from swapnet.executor.bench.report import Report
from tests.evidence.cases import ABLATION, Case, Outline
from tests.helpers.verdicts import contradictions

__all__ = ["FLOOR_BYTES", "Target", "check_targets", "floor_ratio"]

FLOOR_BYTES = 2 * (4 << 20)
"""Two ring places: what weights should take at the smallest budget."""

_COMPUTE_BOUND = 0.6
"""Streaming takes less than this share of the execution time."""

_AT = "weights:25%"
_LARGE = ("resnet101", "yolov3", "vgg19")


class Target(msgspec.Struct, frozen=True):
    """One of them.

    Attributes
    ----------
    name
        Of what is compared.
    found
        The value.
    limit
        What it must not exceed, or not fall below; None for a value that is only shown.
    at_least
        Whether the limit is a lower one.
    where
        The case that gives the value, or how many do.
    """

    name: str
    found: float
    limit: float | None
    at_least: bool
    where: str

    @property
    def holds(self) -> bool | None:
        """None where there is no limit."""
        if self.limit is None:
            return None
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def floor_ratio(outline: Outline) -> float:
    """The smallest budget over ideal activations, skeletons and two ring places."""
    return outline.smallest_bytes / (outline.ideal_bytes + outline.skeleton_bytes + FLOOR_BYTES)


def check_targets(cases: Sequence[Case], outlines: Sequence[Outline]) -> tuple[Target, ...]:
    """All targets for which there is something measured.

    Parameters
    ----------
    cases
        All that were measured; those with something switched off are left out.
    outlines
        Of their models.
    """
    measured = [(c, c.report) for c in cases if c.report is not None and c.key.kind != ABLATION]
    return tuple(_targets(measured, outlines))


_Measured = Sequence[tuple[Case, Report]]


def _targets(measured: _Measured, outlines: Sequence[Outline]) -> Iterator[Target]:
    swapped = [(c, r) for c, r in measured if r.streamed_bytes]
    apart = [(c, r) for c, r in swapped if c.key.budget != "smallest"]
    yield from _middle("1. ratio_to_contended_bound, median", swapped, _contended, 1.05)
    yield from _middle("1. ratio_to_bound, median", swapped, _bound, 1.20)
    yield from _worst("1. ratio_to_contended_bound, worst but smallest", apart, _contended, 1.15)
    yield from _worst("1. ratio_to_bound, worst but smallest", apart, _bound, 1.35)
    compute = [(c, r) for c, r in measured if r.reading_ms < _COMPUTE_BOUND * r.execution_ms]
    compute = [(c, r) for c, r in compute if r.ratio_to_unswapped is not None]
    yield from _middle("2. ratio_to_unswapped, compute-bound, median", compute, _unswapped, None)
    yield from _worst("2. ratio_to_unswapped, compute-bound, worst", compute, _unswapped, 1.08)
    yield from _middle("3. off the prediction, median", measured, _error, 0.05)
    yield from _worst("3. off the prediction, worst", measured, _error, 0.15)
    yield from _middle("3. off the stored profile's prediction, median", measured, _stored, None)
    wrong = [case.title for case, report in measured if any(contradictions(report))]
    if measured:
        where = wrong[0] if wrong else f"{len(measured)} cases"
        yield Target("6. verdicts that contradict their figures", len(wrong), 0.0, False, where)
    for name in _LARGE:
        for case, report in measured:
            mapped = report.peers.get("mapped")
            if (case.model, case.key.budget) == (name, _AT) and mapped and mapped.ratio:
                yield Target(
                    f"4. memory-mapped over ours, {name}",
                    mapped.ratio,
                    4.0,
                    True,
                    case.key.budget,
                )
    for outline in outlines:
        if outline.model in _LARGE:
            yield Target(
                f"5. smallest budget over its ideal, {outline.model}",
                floor_ratio(outline),
                1.2,
                False,
                outline.reason,
            )


def _middle(
    name: str, measured: _Measured, value: Callable[[Report], float], limit: float | None
) -> Iterator[Target]:
    if measured:
        found = median(value(report) for _, report in measured)
        yield Target(name, found, limit, False, f"{len(measured)} cases")


def _worst(
    name: str, measured: _Measured, value: Callable[[Report], float], limit: float
) -> Iterator[Target]:
    if measured:
        case, report = max(measured, key=lambda pair: value(pair[1]))
        yield Target(name, value(report), limit, False, case.title)


def _contended(report: Report) -> float:
    return report.ratio_to_contended_bound


def _bound(report: Report) -> float:
    return report.ratio_to_bound


def _unswapped(report: Report) -> float:
    return report.ratio_to_unswapped or 0.0


def _error(report: Report) -> float:
    return abs(report.prediction_error)


def _stored(report: Report) -> float:
    return abs(report.latency_ms.median / report.predicted_ms - 1)
