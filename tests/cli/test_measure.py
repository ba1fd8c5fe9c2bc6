"""``swapnet measure``, and what other commands say of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from swapnet.calibration.delays import measure as measuring
from swapnet.calibration.delays.worker import Job
from swapnet.executor.device import Device
from swapnet.manifest import load_manifest
from swapnet.profile import PROFILE, Profile, Request, assumed_profile
from swapnet.progress import Progress
from tests.cli.conftest import Call
from tests.helpers.engines import BuildToy


@pytest.fixture
def toy(engine: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a small engine; what is measured of it is made up."""
    table = tuple(Request(2 << 20, 3, 1e9, 0.5, busy, 0.9) for busy in (False, True))

    def measured(job: Job, progress: Progress) -> Profile:
        progress("storage", 0, 50)
        assumed = assumed_profile(load_manifest(Path(job.folder), job.shapes))
        storage = msgspec.structs.replace(assumed.storage, requests=table)
        return msgspec.structs.replace(
            assumed, device=Device(job.threads).fingerprint, storage=storage
        )

    monkeypatch.setattr(measuring, "measure_in_child", measured)
    return Path(shutil.copytree(engine("dynamic").folder, tmp_path / "toy"))


def test_shows_what_was_measured(call: Call, toy: Path) -> None:
    shown = call("measure", toy)
    assert shown.status == 0
    assert "storage (50 parts) …" in shown.err
    assert "1500 MB/s idle, 1300 MB/s while computing, requests of 4MiB, 1 in flight" in shown.out
    assert (toy / PROFILE).exists()
    table = call("measure", toy, "--requests", "--fresh").out
    assert "compute speed" in table
    assert table.count("1000") == 2


@pytest.mark.slow
def test_other_shapes_are_measured_beside(call: Call, toy: Path) -> None:
    shown = call("measure", toy, "--shapes", "x:2x9x64")
    assert "measuring activations at x: 2x9x64, mask: 2x9" in shown.err
    assert not (toy / PROFILE).exists()
    assert (toy / "shapes" / "profile-x-2x9x64_mask-2x9.json").exists()


def test_run_says_once_how_to_measure(call: Call, toy: Path) -> None:
    said = call("run", toy, "--budget", "100%").err
    assert said == f"delays are assumed, not measured: swapnet measure {toy}\n"
    call("measure", toy)
    assert call("run", toy, "--budget", "100%").err == ""


@pytest.mark.slow
def test_an_engine_that_was_measured_can_be_built_again(
    call: Call, engine: BuildToy, toy: Path
) -> None:
    call("measure", toy)
    call("measure", toy, "--shapes", "x:2x9x64")
    built = call("build", engine("dynamic").model, "-o", toy, "--no-calibrate")
    assert built.status == 0
    assert not (toy / PROFILE).exists()
    assert not (toy / "shapes").exists()


def test_the_former_name_works_with_a_notice(call: Call, toy: Path) -> None:
    shown = call("calibrate", toy)
    assert shown.status == 0
    assert "swapnet calibrate is now called swapnet measure" in shown.err
    assert (toy / PROFILE).exists()
