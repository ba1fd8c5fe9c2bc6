"""Engines that compute nothing, and runtimes of which a deadlock fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest

from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.engine import Engine
from swapnet.executor.planning.plan import Step
from swapnet.executor.runtime.engine_curve import with_curve
from swapnet.executor.runtime.scheduler import Scheduler
from tests.helpers.engines import Arrays, BuildToy
from tests.helpers.simulated import Simulated, hooked_steps, simulated
from tests.helpers.threads import ended

KIB = 1 << 10

SIZES = {"a": [40 * KIB] * 4, "b": [24 * KIB] * 5, "c": [64 * KIB, 8 * KIB, 32 * KIB]}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Simulated]:
    """Three, with their curves; tests must not change them."""
    folder = tmp_path_factory.mktemp("simulated")
    made = {name: simulated(folder / name, sizes) for name, sizes in SIZES.items()}
    for one in made.values():
        with_curve(Engine.open(one.folder))
    return made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Step], None]]:
    """What is called before each step, by engine; may raise or wait."""
    return hooked_steps(monkeypatch)


@pytest.fixture(scope="session")
def answers(
    engine: BuildToy, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], tuple[Arrays, Arrays]]:
    """Inputs and outputs of a toy's whole model, by name and seed."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def answered(name: str, seed: int) -> tuple[Arrays, Arrays]:
        feeds = engine(name).feeds(seed)
        return feeds, engine(name).whole(feeds, folder)

    return answered


@pytest.fixture
def expectations(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Rates that are seen, by model; those expected where a test does not say."""
    seen: dict[str, float] = {}
    monkeypatch.setattr(
        RuntimeModel, "rate_per_s", lambda self: seen.get(self.name, self.objectives.rate_per_s)
    )
    monkeypatch.setattr(
        Scheduler, "rate_per_s", lambda self, model, _: seen.get(model, self._rates_per_s[model])
    )
    return seen


Open = Callable[..., SwapRuntime]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens runtimes that are closed after the test."""
    made: list[SwapRuntime] = []

    def opened(*given: object, **options: object) -> SwapRuntime:
        made.append(SwapRuntime(*given, **options))  # type: ignore[arg-type]
        return made[-1]

    yield opened
    for runtime in made:
        ended(runtime.close)
