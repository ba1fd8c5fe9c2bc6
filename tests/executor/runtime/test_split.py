"""Splits against every possible choice, on instances small enough to try them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.runtime.split import (
    RULES,
    Claim,
    Option,
    cost_of,
    split,
)

OPTIONS = st.lists(
    st.builds(Option, st.integers(0, 60), st.floats(0.1, 500)), min_size=1, max_size=5
)
CLAIMS = st.lists(
    st.tuples(
        OPTIONS,
        st.floats(0.1, 8),
        st.floats(0, 20),
        st.none() | st.floats(1, 400),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda claims: [
        Claim(
            str(at),
            tuple(options),
            priority=priority,
            rate_per_s=rate_per_s,
            deadline_ms=deadline_ms,
        )
        for at, (options, priority, rate_per_s, deadline_ms) in enumerate(claims)
    ]
)


def front(claim: Claim) -> list[Option]:
    """Options that are faster than all smaller ones."""
    return [
        option
        for option in sorted(claim.options, key=lambda o: (o.nbytes, o.latency_ms))
        if not any(
            other != option
            and other.nbytes <= option.nbytes
            and other.latency_ms <= option.latency_ms
            for other in claim.options
        )
    ]


def fronts(claims: Sequence[Claim]) -> list[list[Option]]:
    """By size, each once."""
    return [sorted(set(front(claim)), key=lambda o: o.nbytes) for claim in claims]


def optimum(claims: Sequence[Claim], available: int) -> float:
    names = [each.name for each in claims]
    return min(
        cost_of(claims, dict(zip(names, (option.nbytes for option in choice), strict=True)))
        for choice in product(*fronts(claims))
        if sum(option.nbytes for option in choice) <= available
    )


def smallest(claims: Sequence[Claim]) -> int:
    return sum(options[0].nbytes for options in fronts(claims))


def claim(
    name: str,
    *options: tuple[int, float],
    priority: float = 1.0,
    rate_per_s: float = 1.0,
    deadline_ms: float | None = None,
) -> Claim:
    points = tuple(Option(nbytes, latency_ms) for nbytes, latency_ms in options)
    return Claim(name, points, priority=priority, rate_per_s=rate_per_s, deadline_ms=deadline_ms)


@settings(max_examples=200, deadline=None)
@given(CLAIMS, st.integers(0, 240))
def test_is_the_optimum(claims: Sequence[Claim], more: int) -> None:
    available = smallest(claims) + more
    shares = split(claims, available)
    assert cost_of(claims, shares) == pytest.approx(optimum(claims, available), rel=1e-9)


@settings(deadline=None)
@given(CLAIMS, st.integers(0, 240), st.sampled_from(RULES))
def test_keeps_its_promises(claims: Sequence[Claim], more: int, rule: str) -> None:
    available = smallest(claims) + more
    shares = split(claims, available, rule=rule)
    assert shares == split(claims, available, rule=rule)
    assert list(shares) == [each.name for each in claims]
    assert sum(shares.values()) <= available
    for nbytes, options in zip(shares.values(), fronts(claims), strict=True):
        assert options[0].nbytes <= nbytes <= options[-1].nbytes


@settings(deadline=None)
@given(CLAIMS, st.integers(0, 240))
def test_leaves_nothing_over_that_would_help(claims: Sequence[Claim], more: int) -> None:
    available = smallest(claims) + more
    shares = split(claims, available)
    largest = sum(options[-1].nbytes for options in fronts(claims))
    used = sum(shares.values())
    assert used == min(available, largest)


@settings(deadline=None)
@given(CLAIMS, st.integers(0, 200), st.integers(0, 40))
def test_more_memory_costs_no_more(claims: Sequence[Claim], more: int, much: int) -> None:
    available = smallest(claims) + more
    less, enough = cost_of(claims, split(claims, available)), split(claims, available + much)
    assert cost_of(claims, enough) <= less * (1 + 1e-9)


@settings(deadline=None)
@given(CLAIMS, st.integers(0, 240), st.sampled_from(["equal", "proportional"]))
def test_no_other_rule_costs_less(claims: Sequence[Claim], more: int, rule: str) -> None:
    available = smallest(claims) + more
    ours, other = split(claims, available), split(claims, available, rule=rule)
    assert cost_of(claims, ours) <= cost_of(claims, other) * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1, 1 << 20])
def test_a_coarse_grid_is_nearly_exact(scale: int) -> None:
    claims = [
        claim(
            str(at),
            *((scale * (at + 3) * size, 900.0 / (size + at)) for size in range(1, 20)),
            rate_per_s=1 + at % 3,
        )
        for at in range(11)
    ]
    exact = [
        claim(each.name, *((o.nbytes // scale, o.latency_ms) for o in each.options), rate_per_s=r)
        for each, r in zip(claims, (c.rate_per_s for c in claims), strict=True)
    ]
    available = sum(each.options[9].nbytes for each in exact)
    found = cost_of(claims, split(claims, available * scale))
    assert found <= 1.01 * cost_of(exact, split(exact, available))


def test_equal_costs_are_decided_by_deadline() -> None:
    two = [(10, 40.0), (20, 20.0)]
    for late, early in ((0, 1), (1, 0)):
        claims = [claim("a", *two), claim("b", *two), claim("c", *two, deadline_ms=500)]
        claims[late], claims[early] = (
            claim(claims[late].name, *two, deadline_ms=90),
            claim(claims[early].name, *two, deadline_ms=80),
        )
        shares = split(claims, 40)
        assert list(shares.values()) == [20 if at == early else 10 for at in range(3)]


def test_late_answers_cost_more() -> None:
    curve = [(10, 100.0), (20, 50.0)]
    in_time, late = claim("a", *curve), claim("a", *curve, deadline_ms=50)
    costs = [[cost_of([each], {"a": nbytes}) for nbytes in (10, 20)] for each in (in_time, late)]
    assert costs == [[pytest.approx(100), pytest.approx(50)], [pytest.approx(200), costs[0][1]]]


def test_reading_keeps_others_waiting() -> None:
    """Storage is busy for an early deadline 40 % of the time: later ones take 1 / 0.6 times."""
    early = Claim(
        "early", (Option(1, 20.0, 40.0),), priority=1.0, rate_per_s=10.0, deadline_ms=100.0
    )
    late = Claim("late", (Option(1, 100.0, 30.0),), priority=3.0, rate_per_s=2.0, deadline_ms=None)
    found = cost_of([early, late], {"early": 1, "late": 1})
    assert found == pytest.approx(10 * 20 + 2 * 3 * 100 / 0.6)


def test_who_reads_often_is_kept_in_memory() -> None:
    """Both gain 10 ms by as many bytes; one reads ten times as often, before the other."""
    curve = (Option(10, 100.0, 80.0), Option(20, 90.0, 0.0))
    often = Claim("often", curve, priority=0.1, rate_per_s=10.0, deadline_ms=100.0)
    rare = Claim("rare", curve, priority=1.0, rate_per_s=1.0, deadline_ms=500.0)
    assert list(split([often, rare], 30).values()) == [20, 10]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(
                st.builds(Option, st.integers(0, 60), st.floats(1, 500), st.floats(0, 300)),
                min_size=1,
                max_size=5,
            ),
            st.floats(0.1, 8),
            st.floats(0, 20),
            st.none() | st.floats(1, 400),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 240),
)
def test_no_other_rule_is_better_where_all_read(
    drawn: list[tuple[list[Option], float, float, float | None]], more: int
) -> None:
    claims = [
        Claim(
            str(at),
            tuple(options),
            priority=priority,
            rate_per_s=rate_per_s,
            deadline_ms=deadline_ms,
        )
        for at, (options, priority, rate_per_s, deadline_ms) in enumerate(drawn)
    ]
    available = sum(min(o.nbytes for o in each.options) for each in claims) + more
    ours = split(claims, available)
    assert sum(ours.values()) <= available
    for rule in ("equal", "proportional"):
        other = split(claims, available, rule=rule)
        assert cost_of(claims, ours) <= cost_of(claims, other)


def test_what_never_runs_gets_the_least() -> None:
    curve = [(10, 40.0), (20, 20.0)]
    never = claim("never", *curve, rate_per_s=0, deadline_ms=1, priority=9)
    assert list(split([never, claim("runs", *curve)], 30).values()) == [10, 20]
    assert list(split([never], 100).values()) == [20]


def test_what_is_left_goes_part_of_the_way() -> None:
    claims = [claim("a", (10, 100.0), (30, 20.0)), claim("b", (10, 50.0), (40, 40.0))]
    assert split(claims, 25) == {"a": 15, "b": 10}


def test_options_that_are_no_faster_are_never_taken() -> None:
    shares = split([claim("a", (50, 30.0), (10, 40.0), (20, 30.0), (30, 60.0))], 100)
    assert shares == {"a": 20}


def test_equal_shares() -> None:
    claims = [
        claim("small", (1, 9.0), (10, 1.0)),
        claim("large", (50, 9.0), (90, 1.0)),
        claim("other", (5, 9.0), (45, 1.0)),
    ]
    assert list(split(claims, 90, rule="equal").values()) == [10, 50, 20]


def test_proportional_shares() -> None:
    claims = [
        claim("small", (1, 9.0), (10, 1.0)),
        claim("large", (60, 9.0), (90, 1.0)),
        claim("other", (5, 9.0), (50, 1.0)),
    ]
    assert list(split(claims, 75, rule="proportional").values()) == [2, 60, 12]
    assert list(split(claims, 500, rule="proportional").values()) == [10, 90, 50]


def test_no_engines() -> None:
    for rule in RULES:
        assert split([], 100, rule=rule) == {}


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="a has no option"):
        split([claim("a")], 1)
