"""A scenario: which DNNs a device runs, how often they are asked, and by when they must answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated

import msgspec

from swapnet.errors import InputError
from swapnet.executor.runtime.arrivals import Arrivals

__all__ = ["Entry", "Scenario", "at_rates", "load_scenario"]

Positive = Annotated[float, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Dimension = Annotated[int, msgspec.Meta(gt=0)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One DNN of a scenario.

    Attributes
    ----------
    name
        Unique in the scenario.
    model, engine
        One of the zoo, or an engine directory, relative to the scenario's file.
    task
        Task of the DNN, in a few words.
    rate_per_s
        Requests in a second, on average.
    deadline_ms
        Time after a request; None where it can wait.
    priority
        Weight of its milliseconds.
    arrivals
        The process of its requests; see `swapnet.executor.runtime.arrivals`.
    shapes
        Input shapes; those of the engine where there are none.
    """

    name: Name
    rate_per_s: Positive
    model: Name | None = None
    engine: Name | None = None
    task: str = ""
    deadline_ms: Positive | None = None
    priority: Positive = 1.0
    arrivals: Arrivals = "poisson"
    shapes: dict[str, tuple[Dimension, ...]] = {}

    def __post_init__(self) -> None:
        if (self.model is None) == (self.engine is None):
            raise ValueError(f"{self.name!r} needs either a model of the zoo or an engine")
        numbers = (self.rate_per_s, self.priority, self.deadline_ms or 1.0)
        if not all(map(isfinite, numbers)):
            raise ValueError(f"the rate, priority and deadline of {self.name!r} must be finite")

    @property
    def source(self) -> str:
        """The model or the engine."""
        return self.model or self.engine or ""


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """DNNs of one device.

    Attributes
    ----------
    title
        The use of the device, in one line.
    models
        One DNN or more.
    """

    title: str
    models: Annotated[tuple[Entry, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"there are two models named {twice!r}")


def load_scenario(path: Path) -> Scenario:
    """A scenario from a TOML file; engines get the paths that they have from here.

    Raises
    ------
    InputError
        The file can't be read, or is no scenario.
    """
    hint = "see docs/multi-dnn.md for what a scenario says"
    try:
        scenario = msgspec.toml.decode(path.read_bytes(), type=Scenario)
    except OSError as error:
        raise InputError(
            f"{path} can't be read", why=error.strerror or str(error), hint=hint
        ) from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{path} is not a scenario", why=str(error), hint=hint) from error
    placed = (
        msgspec.structs.replace(entry, engine=str(path.parent / entry.engine))
        if entry.engine is not None
        else entry
        for entry in scenario.models
    )
    return msgspec.structs.replace(scenario, models=tuple(placed))


def at_rates(scenario: Scenario, rates_per_s: Mapping[str, float], speed: float = 1.0) -> Scenario:
    """The scenario with other rates for some DNNs, by name, then all multiplied; deadlines stay.

    Raises
    ------
    InputError
        There is no such DNN.
    """
    names = [entry.name for entry in scenario.models]
    if unknown := [name for name in rates_per_s if name not in names]:
        raise InputError(
            f"the scenario has no DNN {unknown[0]!r}",
            why=f"it has {', '.join(names)}",
            hint=f"give rates like --rates {names[0]}=2.5",
        )
    rates = {entry.name: entry.rate_per_s for entry in scenario.models} | dict(rates_per_s)
    models = (
        msgspec.structs.replace(entry, rate_per_s=speed * rates[entry.name])
        for entry in scenario.models
    )
    return msgspec.structs.replace(scenario, models=tuple(models))
