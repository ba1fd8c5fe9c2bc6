"""An engine that is opened once: what it reads, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import swapnet
from swapnet.calibration import ensure_shapes
from swapnet.errors import EngineError, InputError
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.engine import Engine
from swapnet.executor.planning.usage import demand
from swapnet.profile import Need, assumed_profile, save_profile
from tests.helpers.engines import BuildToy
from tests.helpers.gpu import BuildGpu


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files of an engine are loaded."""
    counted: Counter[str] = Counter()
    for name in ("load_manifest", "load_profile", "at_shapes"):
        real: Callable[..., Any] = getattr(swapnet.executor.engine, name)

        def load(*given: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            counted[name] += 1
            return real(*given)

        monkeypatch.setattr(f"swapnet.executor.engine.{name}", load)
    return counted


def test_each_file_is_read_once(engine: BuildToy, reads: Counter[str]) -> None:
    toy = engine("images")
    opened = swapnet.Engine.open(toy.folder)
    assert reads == {"load_manifest": 1}
    assert opened.manifest == toy.manifest
    assert opened.demand == demand(toy.manifest)
    for budget in ("100%", toy.smallest):
        with swapnet.SwapExecutor(opened, budget) as executor:
            executor(toy.feeds())
            assert executor.engine is opened
    with swapnet.SwapRuntime("1GiB") as runtime:
        runtime.load(opened)(toy.feeds())
    assert reads == {"load_manifest": 1, "load_profile": 1}


def test_an_open_engine_is_moved_and_not_read_again(engine: BuildToy, reads: Counter[str]) -> None:
    opened = Engine.open(engine("images").folder)
    assert Engine.open(opened) is opened
    assert Engine.open(opened, device=Device()) is opened
    other = Engine.open(opened, device=Device(threads=1))
    assert other.device.threads == 1
    assert reads == {"load_manifest": 1}


def test_memory_is_counted_for_the_pool_of_the_device(engine: BuildToy) -> None:
    opened = Engine.open(engine("images").folder)
    pooled = opened.in_child()
    assert pooled.device.pool is ThreadPool.GLOBAL
    memory = opened.built.session_memory
    saved = opened.demand.other_bytes - pooled.demand.other_bytes
    assert saved == memory.process_bytes - memory.own_process_bytes >= 0
    assert pooled.on(opened.device).manifest == opened.manifest
    assert pooled.in_child() is pooled


def test_other_shapes_are_those_that_were_measured(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Engine.open(copy)
    with pytest.raises(EngineError, match="was not measured at"):
        opened.at({"x": (2, 9, 64)})
    with pytest.raises(InputError, match="names 'y'"):
        opened.at({"y": (1,)})
    larger = ensure_shapes(opened, {"x": (2, 9, 64)}, say=lambda _: None)
    assert larger.manifest.planned_shapes["x"] == (2, 9, 64)
    assert larger.built is opened.built
    assert larger.at(opened.built.planned_shapes).manifest == opened.manifest
    assert opened.at(opened.built.planned_shapes) is opened
    assert Engine.open(copy, shapes={"x": (2, 9, 64)}).manifest == larger.manifest
    monkeypatch.setattr(
        "swapnet.executor.shapes.ensure_packed", lambda engine, _: Engine.open(engine.folder)
    )
    assert ensure_shapes(larger).manifest == larger.manifest


@pytest.fixture
def toy(engine: BuildToy) -> Any:
    """With symbolic shapes."""
    return engine("dynamic")


def test_delays_of_this_process_count_where_they_could_not_be_kept(copy: Path) -> None:
    opened = Engine.open(copy)
    assert opened.delays.is_assumed
    measured = msgspec.structs.replace(opened.measured, device="here")
    known = opened.with_delays(measured)
    with swapnet.SwapExecutor(known, "100%") as executor:
        assert executor.engine.delays == measured
    assert known.on(replace(known.device, threads=7)).delays.is_assumed
    assert known.with_delays(None).delays.is_assumed


def test_needs_of_blocks_are_those_that_were_measured(gpu_engine: BuildGpu) -> None:
    folder = gpu_engine("images", "onnxruntime-cuda")
    opened = Engine.open(folder)
    assert opened.with_needs() is opened
    needs = tuple(Need(7, 9) for _ in opened.manifest.blocks)
    assumed = assumed_profile(opened.manifest)
    measured = msgspec.structs.replace(assumed, device=opened.device.fingerprint, needs=needs)
    found = opened.with_delays(measured).with_needs()
    assert {block.skeleton_bytes for block in found.manifest.blocks} == {7}
    assert found.measured == measured


def test_delays_of_another_device_are_not_taken(copy: Path) -> None:
    opened = Engine.open(copy)
    save_profile(copy, msgspec.structs.replace(opened.measured, device="another"))
    assert Engine.open(copy).measured.is_assumed
