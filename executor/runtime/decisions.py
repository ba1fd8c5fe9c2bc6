"""The log of a scheduler: kept, saved, replayed and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Instruction, Scheduler

__all__ = ["Decision", "OnDecision", "load_log", "replay", "save_log"]


class Decision(NamedTuple):
    """An event of the scheduler, and the instructions that it gave.

    Attributes
    ----------
    event, args
        A method of `Scheduler` by name, and its arguments. The first event of a log is ``opened``:
        policy, lanes and readers.
    instructions
        In order.
    at_s
        The moment, on the clock of `time.perf_counter`, in seconds.
    """

    event: str
    args: tuple[Any, ...]
    instructions: tuple[Instruction, ...] = ()
    at_s: float = 0.0

    def __str__(self) -> str:
        facts = (f"{a.model} {a.sequence}" if isinstance(a, Job) else str(a) for a in self.args)
        told = " -> " * bool(self.instructions) + "; ".join(map(str, self.instructions))
        return " ".join(f"{self.at_s:.6f} {self.event} {' '.join(facts)}".split()) + told


OnDecision = Callable[[Decision], object]


def save_log(log: Iterable[Decision], path: Path) -> None:
    """Write a log as JSON, one decision a line."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(log))


def load_log(path: Path) -> list[Decision]:
    """The log of a file.

    Raises
    ------
    InputError
        It is no log.
    """
    try:
        return [_decision(*line) for line in msgspec.json.Decoder().decode_lines(path.read_bytes())]
    except (OSError, TypeError, LookupError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{path} is no log of decisions", why=str(error), hint="save_log writes one"
        ) from error


def replay(log: Iterable[Decision]) -> Iterator[Decision]:
    """The same events at the same times, with the instructions that a new scheduler gives."""
    scheduler = Scheduler()
    for event, args, _, at_s in log:
        if event == "opened":
            policy, lanes, readers = args
            scheduler = Scheduler(policy, lanes=lanes, readers=readers)
            yield Decision(event, args, (), at_s)
        else:
            yield Decision(event, args, tuple(getattr(scheduler, event)(*args)), at_s)


def _decision(event: str, args: Any, instructions: Any, at_s: float) -> Decision:
    if event not in ("opened", *vars(Scheduler)) or event.startswith("_"):
        raise LookupError(f"there is no event {event}")
    facts = _frozen(args)
    return Decision(
        event,
        (Job(*facts[0]),) if event == "asked" else facts,
        tuple(Instruction(*each) for each in _frozen(instructions)),
        at_s,
    )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
