"""Reading that is slowed down takes at least the time that it should."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swapnet.errors import StorageError
from swapnet.executor import Device
from swapnet.executor.pace import Pace
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import load_manifest
from swapnet.profile import Profile, assumed_profile, with_storage
from tests.helpers.engines import BuildToy

NBYTES = 64 << 10


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * (NBYTES // 256))
    return path


def test_requests_take_their_turns(file: Path) -> None:
    """Four at once take four times as long; what they bring is the same."""
    storage = WeightFile(file, pace=Pace(NBYTES / 0.05))
    arena = Arena(4 * NBYTES)
    views = [arena.view(at * NBYTES, NBYTES) for at in range(4)]
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda view: storage.read_into(view, 0), views))
    assert time.perf_counter() - start >= 0.2
    assert all(bytes(view) == file.read_bytes() for view in views)


def test_what_was_not_used_is_lost() -> None:
    pace = Pace(1000.0)
    with pace.request(1):
        pass
    time.sleep(0.05)
    start = time.perf_counter()
    for _ in range(2):
        with pace.request(10):
            pass
    assert time.perf_counter() - start >= 0.02


def test_a_failed_read_lets_others_go_on(file: Path) -> None:
    pace = Pace(1e9)
    gone, storage = WeightFile(file, pace=pace), WeightFile(file, pace=pace)
    view = Arena(NBYTES).view(0, NBYTES)
    gone.close()
    with pytest.raises(StorageError, match="can't be read"):
        gone.read_into(view, 0)
    storage.read_into(view, 0)
    assert bytes(view) == file.read_bytes()


def test_delays_follow_the_pace(engine: BuildToy) -> None:
    """Storage that is slower than the pace stays as it is, alone and beside the model."""
    profile = with_storage(
        assumed_profile(load_manifest(engine("images").folder)),
        bytes_per_s=2e9,
        busy_bytes_per_s=1e9,
    )

    def paced(bytes_per_s: float) -> Profile:
        return Device(pace=Pace(bytes_per_s)).paced(profile)

    def rates(bytes_per_s: float) -> tuple[float, float]:
        storage = paced(bytes_per_s).storage
        return storage.bytes_per_s, storage.busy_bytes_per_s

    assert rates(5e8) == (5e8, 5e8)
    assert rates(1.5e9) == (1.5e9, 1e9)
    assert paced(3e9) == profile
    assert paced(5e8).blocks == profile.blocks
    assert Device().paced(profile) is profile
