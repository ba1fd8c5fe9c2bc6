"""Two engines of one model over budgets."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from swapnet.errors import InputError
from swapnet.executor.planning.comparison import (
    Lead,
    check_comparable,
    compare,
    crossovers,
    verdict,
)
from swapnet.executor.planning.curve import Point
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.manifest import Manifest, Source
from tests.helpers.profiles import delays

MIB = 1 << 20
NAMES = ("engines/x", "engines/x-int8")


def points(*latencies_ms: float | None) -> tuple[Point, ...]:
    """At 1, 2, 3 … MiB; None for a budget that is too small."""
    return tuple(
        Point(number * MIB, ms, ms, 0, 0)
        for number, ms in enumerate(latencies_ms, 1)
        if ms is not None
    )


@pytest.mark.parametrize(
    ("first", "second", "leads", "said"),
    [
        pytest.param(
            (9.0, 6.0, 4.0, 3.0),
            (6.0, 5.0, 5.0, 5.0),
            [(1, 1), (3, 0)],
            "engines/x-int8 is faster below 3MiB, engines/x above",
            id="one crossing",
        ),
        pytest.param(
            (9.0, 6.0),
            (6.0, 5.0),
            [(1, 1)],
            "engines/x-int8 is faster at every budget, engines/x never",
            id="second",
        ),
        pytest.param(
            (6.0, 5.0),
            (9.0, 6.0),
            [(1, 0)],
            "engines/x is faster at every budget, engines/x-int8 never",
            id="first",
        ),
        pytest.param(
            (None, None, 4.0, 4.0),
            (90.0, 80.0, 50.0, 40.0),
            [(1, 1), (3, 0)],
            "engines/x-int8 is faster below 3MiB, engines/x above",
            id="where one does not run it loses",
        ),
        pytest.param(
            (5.0, 9.0),
            (None, 9.0),
            [(1, 0)],
            "engines/x is faster at every budget, engines/x-int8 never",
            id="the other too",
        ),
        pytest.param(
            (9.0, 4.0, 9.0),
            (6.0, 6.0, 6.0),
            [(1, 1), (2, 0), (3, 1)],
            "engines/x-int8 is faster below 2MiB, engines/x below 3MiB, engines/x-int8 above",
            id="twice",
        ),
        pytest.param(
            (9.0, 6.0, 6.0, 5.0),
            (6.0, 6.05, 6.3, 5.04),
            [(1, 1), (3, 0)],
            "engines/x-int8 is faster below 3MiB, engines/x above",
            id="ties change nothing",
        ),
        pytest.param(
            (6.0, 5.0),
            (6.0, 4.0),
            [(1, 1)],
            "engines/x-int8 is faster at every budget, engines/x never",
            id="a tie first",
        ),
        pytest.param(
            (6.0, 5.0),
            (6.0, 5.0),
            [(1, None)],
            "engines/x and engines/x-int8 are equally fast at every budget",
            id="equal",
        ),
    ],
)
def test_leads(
    first: tuple[float | None, ...],
    second: tuple[float | None, ...],
    leads: list[tuple[int, int | None]],
    said: str,
) -> None:
    found = crossovers(points(*first), points(*second))
    assert found == tuple(Lead(number * MIB, engine) for number, engine in leads)
    assert verdict(NAMES, found) == said


def test_plans_of_both_at_the_budgets_of_both(
    simulated_manifest: Callable[..., Manifest],
) -> None:
    """A quarter of the bytes, slower to compute: better while storage is what takes the time."""
    wide, narrow = simulated_manifest([4 * MIB] * 3), simulated_manifest([MIB] * 3)
    profiles = [
        delays(wide, [(1.0, 1.0)] * 3, bytes_per_s=1e9),
        delays(narrow, [(2.0, 2.0)] * 3, bytes_per_s=1e9),
    ]
    compared = compare([wide, narrow], profiles)
    assert [lead.engine for lead in compared.leads] == [1, 0]
    smallest = [smallest_budget(manifest)[0] for manifest in (wide, narrow)]
    assert compared.budgets[0] == smallest[1] < smallest[0]
    assert len(compared.budgets) <= 24 + 3
    change = compared.leads[1].from_bytes
    before = max(nbytes for nbytes in compared.budgets if nbytes < change)
    assert change - before < 0.01 * change
    for nbytes in compared.budgets:
        for manifest, profile, least, found in zip(
            (wide, narrow), profiles, smallest, compared.latencies_ms(nbytes), strict=True
        ):
            if nbytes < least:
                assert found is None
            else:
                assert found == make_plan(manifest, profile, nbytes).predicted_ms


def test_engines_of_other_models(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    sources = [Source("one", "11ab", ""), Source("two", "22cd", "")]
    others = [msgspec.structs.replace(manifest, source=source) for source in sources]
    check_comparable(NAMES, [others[0], others[0]])
    with pytest.raises(InputError, match=r"(?s)not engines of one model.*11ab.*22cd"):
        check_comparable(NAMES, others)


def test_engines_at_other_shapes(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    other = msgspec.structs.replace(manifest, planned_shapes={"x": (2,)})
    with pytest.raises(InputError, match=r"(?s)other input shapes.*\(1,\).*\(2,\).*--shapes"):
        check_comparable(NAMES, [manifest, other])
