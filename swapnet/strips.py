"""Strips of rows: consecutive blocks that are executed on some rows of their inputs at a time.

Each operator of such blocks computes a row of its output from a few rows of its input. All tensors
are measured in *units*: so many rows of each that a unit of one gives a unit of the others. A
session that gets rows of its inputs pads them as if they were an image of their own. So the rows
beside a cut are wrong, ``above`` and ``below`` say how many, and other strips give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec

__all__ = ["Rows", "Run", "Strip", "Striped", "Striping", "Strips", "strips_of", "units_of"]

Size = Annotated[int, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Rows(_Record, frozen=True):
    """Rows of a tensor of shape (N, C, H, …) in one unit, and channels that lie together.

    With several, as in ONNX Runtime's NCHWc layout, memory has the order (N, C / channels, H, …,
    channels). Tokens are rows too: their ``axis`` is 1 in (N, tokens, features), else 0.
    """

    per_unit: Annotated[int, msgspec.Meta(ge=1)]
    channels: Annotated[int, msgspec.Meta(ge=1)] = 1
    axis: Annotated[int, msgspec.Meta(ge=0, le=2)] = 2


class Run(_Record, frozen=True):
    """Blocks ``first`` to ``last``, which can be executed in strips."""

    first: Size
    last: Size
    above: Size
    below: Size
    """Units of the outputs that are wrong next to a cut, at the top and the bottom of a strip."""
    inputs: dict[str, Rows]
    outputs: dict[str, Rows]
    """Tensors that are cut. Other inputs are read whole by all strips."""


class Striped(_Record, frozen=True):
    """A run, from block ``first`` to ``last``, in ``count`` strips.

    ``apart``, each block of each strip is a step of its own, and the weights of streamed blocks are
    read for each strip. Else all weights of the run are in memory while its strips are executed.
    """

    first: Size
    last: Size
    count: Size
    nbytes: dict[str, Size]
    """Memory of the rows of a strip: of each tensor that is cut, and of values inside the run."""
    work: float
    """Rows that are computed, over the rows of the whole."""
    apart: bool = False

    def __hash__(self) -> int:
        return hash((self.first, self.last, self.count))


class Striping(_Record, frozen=True):
    """A way to execute an engine: some runs in strips, all other blocks one by one.

    Before block ``late_from`` the pages of values that have died are given back: large outputs that
    are written from there on take them, and ``late_bytes`` are counted once.
    """

    runs: tuple[Striped, ...]
    scratch_bytes: Size
    """Limit of ONNX Runtime's arena under which all steps have run."""
    late_from: Size = 0
    late_bytes: Size = 0


class Strip(NamedTuple):
    """One strip, in units: its inputs begin at ``start``, it gives ``first`` to ``stop`` - 1."""

    start: int
    first: int
    stop: int


class Strips(NamedTuple):
    """All strips of a run; each has the same number of rows.

    Attributes
    ----------
    units, crop_units
        Whole units of the inputs, and of each strip. Rows that are left belong to every strip.
    strips
        From top to bottom.
    """

    units: int
    crop_units: int
    strips: tuple[Strip, ...]

    @property
    def work(self) -> float:
        """Rows that are computed, over the rows of the whole."""
        return len(self.strips) * self.crop_units / self.units

    def left_out(self, rows: Rows) -> int:
        """Rows of a tensor that a strip does not have."""
        return (self.units - self.crop_units) * rows.per_unit

    def crop(self, rows: Rows, height: int, strip: Strip) -> tuple[int, int]:
        """First row of a strip's crop of a tensor of ``height`` rows, and the row after it."""
        start = strip.start * rows.per_unit
        return start, start + height - self.left_out(rows)

    def given(self, rows: Rows, height: int, strip: Strip) -> tuple[int, int]:
        """First row that a strip gives of an output, and the row after the last."""
        stop = height if strip.stop == self.units else strip.stop * rows.per_unit
        return strip.first * rows.per_unit, stop


def units_of(run: Run, heights: Mapping[str, int]) -> int:
    """Whole units of a run, from the rows of each of its inputs that is cut."""
    return min(heights[name] // rows.per_unit for name, rows in run.inputs.items())


def strips_of(
    run: Run,
    heights: Mapping[str, int],
    count: int,
    planned: Mapping[str, int] | None = None,
    rows: Mapping[str, Rows] | None = None,
    narrower: float = 1.0,
    room: Mapping[str, int] | None = None,
) -> Strips:
    """Cut a run into ``count`` strips; into fewer where these give all rows.

    Parameters
    ----------
    run
        The run.
    heights
        Rows of each of its inputs that is cut.
    count
        Number of strips.
    planned
        Heights that are cut into ``count``; by default ``heights``. Others are cut into strips of
        as many rows, or of a few less where more rows are left over: shorter ones would save no
        memory, and some kernels sum few pixels in another order.
    rows
        Tensors whose strips are as large as planned at most; by default the inputs.
    narrower
        Elements of a planned row over those of a row: strips get as many times the rows, and so as
        many pixels.
    room
        Rows of each tensor that a strip has memory for; by default those that were planned.

    Returns
    -------
    Strips
        A single strip, which is the whole, where several would each need all rows.

    Notes
    -----
    Strips begin at whole units, so operators meet the same phase of their strides. Those at the top
    and at the bottom reach the true borders, where padding is right.
    """
    units = units_of(run, heights)
    planned = planned or heights
    planned_units = units_of(run, planned)
    beside = run.above + run.below
    crop = beside + -(-max(planned_units - beside, 0) // count)
    rows = rows or run.inputs
    room = room or {
        name: int((planned[name] - (planned_units - crop) * each.per_unit) * narrower)
        for name, each in rows.items()
    }
    fitting = (units + (room[n] - heights[n]) // each.per_unit for n, each in rows.items())
    crop = min(int(crop * narrower), *fitting)
    if not beside < crop < units:
        return Strips(units, units, (Strip(0, 0, units),))
    strips: list[Strip] = []
    first = 0
    while first < units:
        start = max(0, min(first - run.above, units - crop))
        stop = units if start == units - crop else start + crop - run.below
        strips.append(Strip(start, first, stop))
        first = stop
    return Strips(units, crop, tuple(strips))
