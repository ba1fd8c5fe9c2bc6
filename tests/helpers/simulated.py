"""Simulated engines for a runtime: blocks of ten milliseconds and more, one step each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from swapnet.executor import Device, RuntimeModel
from swapnet.executor.planning.plan import Step
from swapnet.executor.runtime.memory import together
from swapnet.manifest import Manifest, save_manifest
from swapnet.profile import save_profile
from swapnet.testing.engine import block_byte, write_engine
from tests.helpers.profiles import delays
from tests.helpers.threads import LIMIT_S

__all__ = ["Gate", "Outputs", "Simulated", "budget_for", "simulated"]

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


def simulated(folder: Path, weights_bytes: Sequence[int]) -> Simulated:
    """An engine with the name of its folder, which steps are known by."""
    manifest = write_engine(folder, weights_bytes)
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
