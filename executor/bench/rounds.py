"""Run sides in turn: machines drift, so only neighbours in time can be compared.

Between inferences is a pause, or as much time as the rate of a camera leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from statistics import median

import msgspec

from swapnet.errors import InputError, SwapnetError
from swapnet.executor.bench.statistics import is_stable
from swapnet.executor.bench.timing import Round
from swapnet.progress import Progress, silent

__all__ = ["Pacer", "Pauses", "Rounds", "Run", "Schedule", "check_duration", "run_rounds"]

_FEWEST_ROUNDS = 3
_ROUNDS_OF_SHORT = 30
"""Number of rounds of a model whose inferences are so short that a round of few takes less time
than changing sides: a second of a toy's came in 5,000 rounds, and took minutes."""


@dataclass(frozen=True)
class Schedule:
    """Number and duration of rounds.

    Attributes
    ----------
    iterations, duration_s
        Minimum of the first side's inferences, and of their time with pauses between them.
    warm_up_ms
        Duration of the warm-up before them, all sides in turn.
    rounds
        Minimum number of rounds; a ratio is the median over them.
    most_rounds
        Number of rounds up to which more are added while the first side is not stable
        (`swapnet.executor.bench.statistics.is_stable`); 0 adds none.
    turn_ms
        Longest round of one side: it has fewer inferences, at least one, where it would be longer.
    optional_rounds
        Upper limit of the rounds of sides that may fail.
    at_most_s
        Time after which three rounds are enough.

    Raises
    ------
    InputError
        The duration is below 0.
    """

    iterations: int = 10
    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    rounds: int = 5
    most_rounds: int = 0
    turn_ms: float = inf
    optional_rounds: int | None = None
    at_most_s: float = inf

    def __post_init__(self) -> None:
        check_duration(self.duration_s)


def check_duration(duration_s: float) -> None:
    """Check that a benchmark ends.

    Raises
    ------
    InputError
        The duration is below 0, such as trtexec's -1, which is endless.
    """
    if not duration_s >= 0:
        raise InputError(
            f"a duration of {duration_s:g} s is not for SwapNet",
            why="the report comes at the end; with -1 trtexec runs until it is killed and has none",
            hint="give a long one: --duration=86400 is a day",
        )


Run = Callable[[int], Round]
"""Runs one inference of a side that does not count, then as many as it is given that do."""


@dataclass
class Rounds:
    """Rounds of all sides.

    Attributes
    ----------
    rounds
        Rounds of each side, in order.
    notes
        Reason of each side that failed.
    warm_up_inferences, warm_up_ms
        Inferences of the first side in the warm-up, and the warm-up's duration.
    wall_s
        Duration of all rounds.
    """

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    warm_up_inferences: int = 0
    warm_up_ms: float = 0.0
    wall_s: float = 0.0

    def fail(self, name: str, error: SwapnetError) -> None:
        """Note the error of a side that does not go on."""
        self.notes[name] = f"{error.what}: {error.why}" if error.why else error.what


def run_rounds(
    schedule: Schedule,
    sides: Mapping[str, Run],
    optional: Collection[str] = (),
    progress: Progress = silent,
) -> Rounds:
    """Run all sides in turn; the first one sets the pace.

    ``optional`` ones drop out when they fail. ``progress`` is called with the rounds that are done,
    and the first side's inferences and median so far.

    Raises
    ------
    SwapnetError
        A side that is not optional failed.
    """
    taken = Rounds({name: [] for name in sides})
    latest: dict[str, Round] = {}

    def run(name: str, count: int) -> Round | None:
        if name in taken.notes:
            return None
        try:
            latest[name] = sides[name](count)
        except SwapnetError as error:
            if name not in optional:
                raise
            taken.fail(name, error)
            return None
        return latest[name]

    progress("warm up", 0, 1)
    begun = time.perf_counter()
    while True:
        for name in sides:
            run(name, 1)
        taken.warm_up_inferences += 2  # each call runs one more, which does not count
        taken.warm_up_ms = (time.perf_counter() - begun) * 1e3
        if taken.warm_up_ms >= schedule.warm_up_ms:
            break
    most = max(1, -(-schedule.iterations // schedule.rounds))
    pace = taken.rounds[next(iter(sides))]
    started = time.perf_counter()
    spent_ms = 0.0
    while not _is_enough(schedule, pace, spent_ms, taken.wall_s):
        progress(*_so_far(schedule, pace, spent_ms))
        for name in sides:
            done = taken.rounds[name]
            if name in optional and len(done) == schedule.optional_rounds:
                continue
            turn = run(name, _count(schedule, most, latest.get(name)))
            if turn is not None:
                done.append(turn)
        spent_ms += pace[-1].taken_ms
        taken.wall_s = time.perf_counter() - started
    return taken


def _is_enough(
    schedule: Schedule, pace: Sequence[Round], spent_ms: float, elapsed_s: float
) -> bool:
    rounds = len(pace)
    if elapsed_s > schedule.at_most_s and rounds >= min(_FEWEST_ROUNDS, schedule.rounds):
        return True
    if rounds < schedule.rounds or spent_ms < schedule.duration_s * 1e3:
        return False
    return rounds >= schedule.most_rounds or is_stable([turn.median_ms for turn in pace])


def _so_far(schedule: Schedule, pace: Sequence[Round], spent_ms: float) -> tuple[str, int, int]:
    """The first side's rounds for a `Progress`, with as many to come as its duration asks for."""
    times_ms = [ms for turn in pace for ms in turn.latency_ms]
    if not times_ms:
        return "measure", 0, schedule.rounds
    rounds = ceil(schedule.duration_s * 1e3 * len(pace) / spent_ms) if spent_ms else 0
    found = f"measure, median {median(times_ms):.1f} ms, {len(times_ms)} inferences"
    return found, len(pace), max(rounds, schedule.rounds, len(pace) + 1)


def _count(schedule: Schedule, most: int, latest: Round | None) -> int:
    taken_ms = latest.taken_ms if latest is not None else 0.0
    if latest is None or not taken_ms:
        return most
    turn_ms = schedule.duration_s * 1e3 / _ROUNDS_OF_SHORT
    spread = ceil(turn_ms * len(latest.timings) / taken_ms)
    return max(1, int(min(max(most, spread), schedule.turn_ms / latest.median_ms)))


class Pauses(msgspec.Struct, frozen=True):
    """Time between the inferences of a round.

    Attributes
    ----------
    idle_ms
        Pause before each inference.
    rate_hz
        Frames per second that inferences begin at; None to begin one after the other. A frame's
        deadline is the next frame.

    Raises
    ------
    InputError
        Both are given.
    """

    idle_ms: float = 0.0
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if self.idle_ms and self.rate_hz:
            raise InputError(
                "a pause and a rate do not go together",
                why=f"{self.idle_ms:g} ms and {self.rate_hz:g} Hz both set when inferences begin",
                hint="give one of --idle-time and --rate",
            )


class Pacer:
    """The pauses of one round."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self._due = time.perf_counter()

    def wait(self) -> float:
        """Wait for the begin of the next inference; milliseconds that it took."""
        begun = time.perf_counter()
        rate_hz = self._pauses.rate_hz
        self._due = self._due + 1 / rate_hz if rate_hz else begun + self._pauses.idle_ms / 1e3
        if self._due <= begun:
            return 0.0
        time.sleep(self._due - begun)
        return (time.perf_counter() - begun) * 1e3

    def is_late(self) -> bool:
        """Whether the deadline of the latest frame has passed; False without a rate."""
        rate_hz = self._pauses.rate_hz
        return bool(rate_hz) and time.perf_counter() > self._due + 1 / (rate_hz or 1.0)
