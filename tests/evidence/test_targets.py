"""What must be shown, of cases that were never measured."""

from __future__ import annotations

import pytest

from tests.evidence.cases import ABLATION
from tests.evidence.conftest import MIB, a_case, an_outline
from tests.evidence.targets import Target, check_targets, floor_ratio
from tests.executor.bench.conftest import a_peer


def found(targets: tuple[Target, ...], start: str) -> Target:
    (target,) = [target for target in targets if target.name.startswith(start)]
    return target


def test_all_hold() -> None:
    cases = [a_case(name) for name in ("resnet101", "vgg19", "yolov3")]
    outlines = [an_outline(name) for name in ("resnet101", "vgg19", "yolov3", "minilm")]
    targets = check_targets(cases, outlines)
    assert {target.name[0] for target in targets} == set("123456")
    assert all(target.holds is not False for target in targets)
    assert len([target for target in targets if target.name.startswith("5.")]) == 3


def test_smallest_budgets_are_apart_in_the_worst_case_only() -> None:
    cases = [a_case(), a_case(budget="smallest", ratio_to_bound=3.0)]
    targets = check_targets(cases, [])
    assert found(targets, "1. ratio_to_bound, worst").found == 1.05
    assert found(targets, "1. ratio_to_bound, median").found == pytest.approx((1.05 + 3.0) / 2)


def test_the_worst_case_is_named() -> None:
    cases = [a_case(), a_case("other", ratio_to_contended_bound=1.16)]
    target = found(check_targets(cases, []), "1. ratio_to_contended_bound, worst")
    assert target.where == "other at weights:25%"
    assert target.holds is False


def test_storage_bound_cases_need_not_be_as_fast_as_unswapped() -> None:
    cases = [a_case(), a_case(reading_ms=60.0, ratio_to_unswapped=2.0)]
    assert found(check_targets(cases, []), "2. ratio_to_unswapped, compute-bound, worst").holds


def test_being_faster_than_predicted_is_an_error_too() -> None:
    target = found(check_targets([a_case(prediction_error=-0.2)], []), "3. off the prediction, w")
    assert target.found == 0.2
    assert target.holds is False


def test_a_verdict_that_contradicts_its_figures_is_counted_and_named() -> None:
    cases = [a_case(), a_case("other", verdict="latency-bound")]
    target = found(check_targets(cases, []), "6.")
    assert (target.found, target.where, target.holds) == (1, "other at weights:25%", False)


def test_mapped_must_be_slow() -> None:
    targets = check_targets([a_case("vgg19", peers={"mapped": a_peer(3.9)})], [])
    assert found(targets, "4. memory-mapped over ours, vgg19").holds is False


def test_what_failed_or_was_switched_off_does_not_count() -> None:
    assert check_targets([a_case(note="killed"), a_case(kind=ABLATION)], []) == ()


def test_the_floor_is_activations_skeletons_and_two_places() -> None:
    assert floor_ratio(an_outline(smallest_bytes=27 * MIB)) == 1.5
    target = found(check_targets([], [an_outline("vgg19", smallest_bytes=27 * MIB)]), "5.")
    assert target.holds is False
    assert target.where == "activations take 8MiB"
