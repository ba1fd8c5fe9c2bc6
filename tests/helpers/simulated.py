"""Simulated engines for a runtime: blocks of ten milliseconds and more, one step each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swapnet.executor import Device, RuntimeModel, SwapRuntime
from swapnet.executor.engine import Engine
from swapnet.executor.planning.plan import Step
from swapnet.executor.runtime.division import divide
from swapnet.executor.runtime.engine_curve import with_curve
from swapnet.executor.runtime.memory import together
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.manifest import Manifest, save_manifest
from swapnet.profile import save_profile
from swapnet.testing.engine import SimulatedBackend, block_byte, write_engine
from tests.helpers.profiles import delays
from tests.helpers.threads import LIMIT_S, ended, started

__all__ = [
    "Engines",
    "Gate",
    "Outputs",
    "Simulated",
    "asking",
    "budget_for",
    "expected_shares",
    "hooked_steps",
    "load",
    "load_all",
    "simulated",
]

Outputs = dict[str, Any]


@dataclass(frozen=True)
class Simulated:
    """An engine and what it gives."""

    folder: Path
    manifest: Manifest

    def feeds(self, value: float = 0.0) -> dict[str, Any]:
        return {"x": np.array([float(value)])}

    def expected(self, value: float = 0.0) -> float:
        for block in self.manifest.blocks:
            value += block_byte(block.index)
        return value

    def check(self, outputs: Outputs, value: float = 0.0) -> None:
        assert outputs["y"].tolist() == [self.expected(value)]

    def ask(self, model: RuntimeModel, value: float = 0.0) -> Callable[[], None]:
        """Submit a request; what is returned waits for its answer and checks it."""
        future: Future[Outputs] = model.submit(self.feeds(value))
        return lambda: self.check(future.result(LIMIT_S), value)


def simulated(folder: Path, weights_bytes: Sequence[int], *, scratch_bytes: int = 0) -> Simulated:
    """An engine with the name of its folder, which steps are known by."""
    manifest = write_engine(folder, weights_bytes)
    manifest = msgspec.structs.replace(
        manifest,
        blocks=tuple(
            msgspec.structs.replace(b, activation_bytes=scratch_bytes) for b in manifest.blocks
        ),
    )
    source = msgspec.structs.replace(manifest.source, name=folder.name)
    manifest = msgspec.structs.replace(manifest, source=source)
    save_manifest(folder, manifest)
    times = [(20.0, 20.0)] * len(weights_bytes)
    profile = delays(manifest, times, bytes_per_s=1e6)
    profile = msgspec.structs.replace(profile, device=Device().fingerprint)
    save_profile(folder, profile)
    return Simulated(folder, manifest)


def budget_for(*engines: Simulated, share: float, lanes: int = 1) -> int:
    """Everything but weights, and that share of the weights."""
    demand = together([one.manifest for one in engines], lanes=lanes)
    return demand.other_bytes + int(share * demand.weights_bytes)


Engines = dict[str, Simulated]


def load(runtime: SwapRuntime, engine: Simulated, **objectives: Any) -> RuntimeModel:
    return ended(partial(runtime.load, engine.folder, **objectives))


def load_all(runtime: SwapRuntime, engines: Engines, **objectives: Any) -> dict[str, RuntimeModel]:
    return {name: load(runtime, one, **objectives) for name, one in engines.items()}


def expected_shares(runtime: SwapRuntime, engines: Engines, rule: str = "latency") -> Any:
    """What a division gives to the models that are loaded."""
    curves = {m.name: with_curve(Engine.open(engines[m.name].folder)) for m in runtime.models}
    objectives = {m.name: m.objectives for m in runtime.models}
    division = divide(ShareRule(rule), curves, objectives, runtime.budget_bytes)
    return dict(division.shares_bytes)


@contextmanager
def asking(
    engines: Engines, models: Mapping[str, RuntimeModel], *, least: int = 3
) -> Iterator[None]:
    """Threads that ask each model until the block has ended; all answers must be right."""
    enough = threading.Event()

    def ask(name: str) -> None:
        count = 0
        while count < least or not enough.is_set():
            engines[name].ask(models[name], count)()
            count += 1

    threads = [started(partial(ask, name)) for name in models for _ in range(2)]
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.result(LIMIT_S)
    assert not any(model.stats.failures for model in models.values())


def hooked_steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Step], None]]:
    """What is called before each step, by engine; to be filled."""
    hooks: dict[str, Callable[[Step], None]] = {}
    segments = SimulatedBackend.segments

    def hooked(self: SimulatedBackend, *given: object) -> object:
        name = self.manifest.source.name
        self._on_step = lambda step: hooks[name](step) if name in hooks else None
        return segments(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedBackend, "segments", hooked)
    return hooks


class Gate:
    """Stops an engine before a step until it is opened."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, step: Step) -> None:
        if step.first == self.at:
            self.reached.set()
            assert self.open.wait(LIMIT_S)
