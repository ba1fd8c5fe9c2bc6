"""An engine as the split sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from swapnet.executor.device import Device
from swapnet.executor.runtime.engine import open_engine
from swapnet.profile import assumed_profile, save_profile
from tests.helpers.engines import BuildToy


@pytest.fixture
def folder(engine: BuildToy, tmp_path: Path) -> Path:
    """An engine that a test may change."""
    return Path(shutil.copytree(engine("images").folder, tmp_path / "engine"))


def test_delays_that_are_assumed_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = open_engine(folder, Device(3))
    (record,) = caplog.records
    assert f"swapnet measure {folder} --threads 3" in record.getMessage()
    measured = msgspec.structs.replace(
        assumed_profile(opened.manifest), device=Device(3).fingerprint
    )
    save_profile(folder, measured)
    caplog.clear()
    open_engine(folder, Device(3))
    assert caplog.records == []
