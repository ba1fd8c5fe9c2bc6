"""The cost of a decision: ``python -m tests.evidence.decisions`` replays a rehearsal's events."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import pytest

from swapnet.executor.runtime.arrivals import poisson
from swapnet.executor.runtime.scheduler import Scheduler
from swapnet.executor.runtime.simulate import SimulatedModel, simulate

_ROUNDS = 10
_REQUESTS = 800

Facts = tuple[object, ...]


def events(models: int) -> list[tuple[str, Facts]]:
    """Events of a rehearsal: models of 20 ms and more that keep a lane busy for 70 % of the time.

    Parameters
    ----------
    models
        Their number.
    """
    simulated = [
        SimulatedModel(str(at), 20 + 10 * at, 15 + 8 * at, 8 + 2 * at, 4 + at)
        for at in range(models)
    ]
    log: list[tuple[str, Facts]] = []

    class Recorder:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._scheduler = Scheduler(*args, **options)

        def __getattr__(self, event: str) -> Any:
            return partial(self._note, event)

        def _note(self, event: str, *facts: object) -> Any:
            log.append((event, facts))
            return getattr(self._scheduler, event)(*facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swapnet.executor.runtime.simulate.Scheduler", Recorder)
        rates = [700 / (models * model.compute_ms) for model in simulated]
        simulate(simulated, poisson(rates, _REQUESTS, 0))
    return log


def main() -> None:
    """Print microseconds of a processor for each event, of the fastest round."""
    for models in (3, 11, 30):
        log = events(models)
        best = float("inf")
        for _ in range(_ROUNDS):
            scheduler, begun = Scheduler(), time.process_time()
            for event, facts in log:
                getattr(scheduler, event)(*facts)
            best = min(best, time.process_time() - begun)
        cost_us = best / len(log) * 1e6
        sys.stdout.write(f"{models} models: {cost_us:.2f} us an event, {len(log)} events\n")


if __name__ == "__main__":
    main()
