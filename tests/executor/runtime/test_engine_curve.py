"""An engine as the split sees it, and its curve, which is planned once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.planning import usage as memory
from swapnet.executor.planning.curve import Point, curve
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.runtime import engine_curve
from swapnet.executor.runtime.engine_curve import load_curve, with_curve
from swapnet.manifest import CURVE, Manifest
from swapnet.profile import assumed_profile, save_profile, with_storage
from swapnet.testing.engine import write_engine
from tests.helpers.engines import BuildToy
from tests.helpers.profiles import delays


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_engine(tmp_path, [40_000, 90_000, 10_000])


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """What curves were planned of."""
    asked: list[Manifest] = []

    def counted(*given: object, **options: object) -> tuple[Point, ...]:
        asked.append(given[0])  # type: ignore[arg-type]
        return curve(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_curve, "curve", counted)
    return asked


def test_a_curve_of_slower_storage_leaves_the_kept_one(
    tmp_path: Path, manifest: Manifest, planned: list[Manifest]
) -> None:
    profile = assumed_profile(manifest)
    slow = with_storage(profile, bytes_per_s=1e6, busy_bytes_per_s=1e6)
    kept = load_curve(tmp_path, manifest, profile)
    assert load_curve(tmp_path, manifest, slow, keep=False) != kept
    assert load_curve(tmp_path, manifest, profile) == kept
    assert len(planned) == 2


def test_a_curve_is_planned_once(
    tmp_path: Path, manifest: Manifest, planned: list[Manifest]
) -> None:
    profile = assumed_profile(manifest)
    points = load_curve(tmp_path, manifest, profile)
    assert load_curve(tmp_path, manifest, profile) == points
    assert len(planned) == 1
    assert [path.name for path in tmp_path.glob("*curve*")] == [CURVE]


def test_another_profile_shape_or_option_is_another_curve(
    tmp_path: Path,
    manifest: Manifest,
    planned: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = assumed_profile(manifest)
    measured = delays(manifest, [(3.0, 3.0)] * 3)
    larger = msgspec.structs.replace(manifest, planned_shapes={"x": (2,)})
    for one in ((manifest, profile), (manifest, measured), (larger, profile)):
        load_curve(tmp_path, *one)
    monkeypatch.setattr(engine_curve, "OPTIONS", PlanOptions(most_step_ms=1.0))
    for _ in range(2):
        load_curve(tmp_path, larger, profile)
    assert len(planned) == 4


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", b"{}", b'{"schema": "swapnet-latency-curve/9", "key": "", "curves": {}}'],
)
def test_a_damaged_curve_is_planned_again(
    tmp_path: Path, manifest: Manifest, planned: list[Manifest], data: bytes
) -> None:
    profile = assumed_profile(manifest)
    points = load_curve(tmp_path, manifest, profile)
    (tmp_path / CURVE).write_bytes(data)
    assert load_curve(tmp_path, manifest, profile) == points
    assert load_curve(tmp_path, manifest, profile) == points
    assert len(planned) == 2


def test_a_curve_of_the_schema_before_is_planned_again(
    tmp_path: Path, manifest: Manifest, planned: list[Manifest]
) -> None:
    """Whatever it says: that had two curves."""
    profile = assumed_profile(manifest)
    points = load_curve(tmp_path, manifest, profile)
    kept = (tmp_path / CURVE).read_bytes()
    (tmp_path / CURVE).write_bytes(kept.replace(b"latency-curve/3", b"latency-curve/2"))
    assert load_curve(tmp_path, manifest, profile) == points
    assert len(planned) == 2
    assert (tmp_path / CURVE).read_bytes() == kept


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder that refuses; root needs one that is not there."""
    if os.geteuid() == 0:
        yield tmp_path / "missing"
        return
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


def test_a_folder_that_can_not_be_written_costs_planning_only(
    unwritable: Path, manifest: Manifest, planned: list[Manifest]
) -> None:
    profile = assumed_profile(manifest)
    points = load_curve(unwritable, manifest, profile)
    assert load_curve(unwritable, manifest, profile) == points
    assert len(planned) == 2


def test_a_curve_of_other_memory_counts_is_planned_again(
    tmp_path: Path,
    manifest: Manifest,
    planned: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Written by another version, which counted more or less beside weights."""
    profile = assumed_profile(manifest)
    before = load_curve(tmp_path, manifest, profile)
    monkeypatch.setattr(memory, "PIPELINE_BYTES", memory.PIPELINE_BYTES + (1 << 20))
    after = load_curve(tmp_path, msgspec.structs.replace(manifest), profile)
    assert after[0].budget_bytes == before[0].budget_bytes + (1 << 20)
    assert len(planned) == 2


@pytest.fixture
def folder(engine: BuildToy, tmp_path: Path) -> Path:
    """An engine that a test may change."""
    return Path(shutil.copytree(engine("images").folder, tmp_path / "engine"))


def test_delays_that_are_assumed_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = with_curve(Engine.open(folder, device=Device(3)))
    (record,) = caplog.records
    assert f"swapnet measure {folder} --threads 3" in record.getMessage()
    measured = msgspec.structs.replace(
        assumed_profile(opened.engine.manifest), device=Device(3).fingerprint
    )
    save_profile(folder, measured)
    caplog.clear()
    with_curve(Engine.open(folder, device=Device(3)))
    assert caplog.records == []
