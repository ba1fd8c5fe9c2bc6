"""Sides take taken: machines drift, and only neighbours in time can be compared."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Protocol

from swapnet.errors import SwapnetError
from swapnet.executor.bench.sides import Round

__all__ = ["Rounds", "Runner", "Schedule", "run_rounds"]

_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Schedule:
    """How many taken, and how long.

    Attributes
    ----------
    iterations, warm_up_ms, duration_s
        At least so many inferences of the first side and so long, after such a warm-up.
    rounds
        At least so many taken; a ratio is the median of their pairs.
    turn_ms
        A turn has fewer inferences, at least one, where they take longer than this.
    optional_rounds
        Sides that may fail have no more taken than this.
    at_most_s
        After so long three rounds are enough.
    """

    iterations: int = 10
    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    rounds: int = 5
    turn_ms: float = inf
    optional_rounds: int | None = None
    at_most_s: float = inf


class Runner(Protocol):
    """A side as the schedule sees it."""

    def run(self, count: int) -> Round:
        """One inference that does not count, then ``count`` that do."""


@dataclass
class Rounds:
    """What each side gave.

    Attributes
    ----------
    rounds
        By side, in order.
    notes
        By side that failed: why.
    """

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: SwapnetError) -> None:
        """Remember why a side does not go on."""
        self.notes[name] = f"{error.what}: {error.why}" if error.why else error.what


def run_rounds(
    schedule: Schedule, sides: Mapping[str, Runner], optional: Collection[str] = ()
) -> Rounds:
    """Run all sides in turn.

    Parameters
    ----------
    schedule
        How long.
    sides
        By name; the first one sets the pace.
    optional
        Sides that drop out where they fail, instead of failing the whole.

    Raises
    ------
    SwapnetError
        A side failed that is not optional.
    """
    taken = Rounds({name: [] for name in sides})
    latest: dict[str, Round] = {}

    def run(name: str, count: int) -> Round | None:
        if name in taken.notes:
            return None
        try:
            latest[name] = sides[name].run(count)
        except SwapnetError as error:
            if name not in optional:
                raise
            taken.fail(name, error)
            return None
        return latest[name]

    until = time.perf_counter() + schedule.warm_up_ms / 1e3
    while True:
        for name in sides:
            run(name, 1)
        if time.perf_counter() >= until:
            break
    most = max(1, -(-schedule.iterations // schedule.rounds))
    pace = taken.rounds[next(iter(sides))]
    started = time.perf_counter()
    spent_ms = 0.0
    while not _is_enough(schedule, len(pace), spent_ms, time.perf_counter() - started):
        for name in sides:
            done = taken.rounds[name]
            if name in optional and len(done) == schedule.optional_rounds:
                continue
            turn = run(name, _count(schedule, most, latest.get(name)))
            if turn is not None:
                done.append(turn)
        spent_ms += sum(pace[-1].latency_ms)
    return taken


def _is_enough(schedule: Schedule, rounds: int, spent_ms: float, elapsed_s: float) -> bool:
    if elapsed_s > schedule.at_most_s and rounds >= min(_FEWEST_ROUNDS, schedule.rounds):
        return True
    return rounds >= schedule.rounds and spent_ms >= schedule.duration_s * 1e3


def _count(schedule: Schedule, most: int, latest: Round | None) -> int:
    if latest is None or schedule.turn_ms == inf:
        return most
    return max(1, min(most, int(schedule.turn_ms / median(latest.latency_ms))))
