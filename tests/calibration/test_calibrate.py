"""The profile of an engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swapnet.calibration import calibrate
from swapnet.calibration.storage import BackgroundReader
from swapnet.executor.device import Device
from swapnet.executor.storage import WeightFile
from swapnet.profile import load_profile
from tests.helpers.engines import BuildToy


@pytest.mark.parametrize("name", ["images", "weightless", "dynamic"])
def test_profile_is_written_and_read_back(engine: BuildToy, tmp_path: Path, name: str) -> None:
    toy = engine(name)
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    profile = calibrate(folder, device=Device(threads=1))
    assert load_profile(folder, toy.manifest, Device(threads=1).fingerprint) == profile
    assert load_profile(folder, toy.manifest, "another").device == "assumed"
    assert len(profile.block_ms) == len(toy.manifest.blocks)
    assert min(profile.block_ms) >= 0
    assert profile.busy_slowdown >= 1


def test_reader_reads_all_bytes_once(engine: BuildToy) -> None:
    toy = engine("images")
    storage = WeightFile(toy.folder / "weights.bin")
    reader = BackgroundReader(storage, [block.extent for block in toy.manifest.blocks])
    assert reader.once() > 0
    assert reader.read_bytes == reader.total_bytes == toy.manifest.swappable_bytes
    with reader.reading():
        while reader.read_bytes < 3 * reader.total_bytes:
            pass
    storage.close()
