from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swapnet.strips import Rows, Run, strips_of


@given(
    units=st.integers(1, 200),
    above=st.integers(0, 9),
    below=st.integers(0, 9),
    count=st.integers(1, 20),
    per_unit=st.integers(1, 8),
    left=st.integers(0, 7),
    planned=st.none() | st.integers(1, 200),
    planned_left=st.integers(0, 7),
)
def test_strips_give_each_row_once_and_no_wrong_one(
    units: int,
    above: int,
    below: int,
    count: int,
    per_unit: int,
    left: int,
    planned: int | None,
    planned_left: int,
) -> None:
    rows = Rows(per_unit)
    run = Run(0, 0, above, below, {"x": rows}, {"y": Rows(1)})
    height = units * per_unit + left % per_unit
    most = {"x": planned * per_unit + planned_left % per_unit if planned else height}
    strips = strips_of(run, {"x": height}, count, most)
    as_planned = strips_of(run, most, count)
    assert len(as_planned.strips) <= count
    if len(as_planned.strips) > 1:
        fewer = left % per_unit > planned_left % per_unit if planned else False
        whole = (
            units <= as_planned.crop_units - fewer or as_planned.crop_units - fewer <= above + below
        )
        assert strips.crop_units == (units if whole else as_planned.crop_units - fewer)
        if as_planned.crop_units > above + below + 1:
            crop = as_planned.crop(rows, most["x"], as_planned.strips[0])
            assert height - strips.left_out(rows) <= crop[1] - crop[0]
    assert strips.work >= 1
    given_rows = [strips.given(rows, height, strip) for strip in strips.strips]
    assert given_rows[0][0] == 0
    assert given_rows[-1][1] == height
    assert all(one[1] == other[0] for one, other in pairwise(given_rows))
    sizes = set()
    for strip in strips.strips:
        start, stop = strips.crop(rows, height, strip)
        sizes.add(stop - start)
        assert 0 <= start < stop <= height
        assert strip.start in (0, strip.first - above) or stop == height
        assert start == 0 or strip.start + above <= strip.first
        assert stop == height or strip.stop + below <= strip.start + strips.crop_units
    assert len(sizes) == 1


@given(
    planned=st.integers(2, 999),
    height=st.integers(0, 999),
    count=st.integers(2, 16),
    per_unit=st.integers(1, 16),
    beside=st.integers(0, 2),
)
def test_a_spare_unit_holds_rows_that_are_left_over(
    planned: int, height: int, count: int, per_unit: int, beside: int
) -> None:
    rows = Rows(per_unit)
    run = Run(0, 0, beside, beside, {"x": rows}, {"y": rows})
    most = {"x": planned}
    as_planned = strips_of(run, most, count)
    if len(as_planned.strips) > 1 and height <= planned:
        room = {"x": planned - as_planned.left_out(rows) + per_unit}
        strips = strips_of(run, {"x": height}, count, most, room=room)
        assert len(strips.strips) <= len(as_planned.strips)
        assert height - strips.left_out(rows) <= room["x"]


@given(st.integers(1, 400), st.integers(2, 16), st.integers(1, 64), st.integers(1, 64))
def test_narrower_rows_give_strips_of_as_many_pixels(
    height: int, count: int, planned_width: int, width: int
) -> None:
    run = Run(0, 0, 1, 1, {"x": Rows(1)}, {"y": Rows(1)})
    narrower = max(planned_width / width, 1.0)
    as_planned = strips_of(run, {"x": 400}, count)
    strips = strips_of(run, {"x": height}, count, {"x": 400}, None, narrower)
    wanted = int(as_planned.crop_units * narrower)
    assert strips.crop_units == (height if wanted >= height or wanted <= 2 else wanted)
