"""What is kept of storage from one calibration to the next."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from swapnet.calibration.delays.cache import load_requests, save_requests
from swapnet.machine import filesystem_of
from swapnet.profile import Request

TABLE = (Request(4096, 2, 1e9, 0.5, True, 0.9),)


def test_what_was_saved_is_loaded_by_its_key() -> None:
    assert load_requests("here") == ()
    save_requests("here", TABLE)
    save_requests("there", TABLE * 2)
    assert load_requests("here") == TABLE
    assert load_requests("there") == TABLE * 2


@pytest.mark.parametrize(("age_s", "found"), [(3600, TABLE), (90000, ()), (-60, ())])
def test_it_is_good_for_a_day(
    monkeypatch: pytest.MonkeyPatch, age_s: float, found: tuple[Request, ...]
) -> None:
    now = time.time()
    save_requests("here", TABLE)
    monkeypatch.setattr(time, "time", lambda: now + age_s)
    assert load_requests("here") == found


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "swapnet-storage/9", "entries": {}}'])
def test_a_damaged_cache_is_an_empty_one(cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "storage.json").write_text(text)
    assert load_requests("here") == ()
    save_requests("here", TABLE)
    assert load_requests("here") == TABLE


def test_a_cache_that_can_not_be_written_is_left(cache: Path) -> None:
    cache.touch()
    save_requests("here", TABLE)
    assert load_requests("here") == ()


def test_a_filesystem_is_a_device_and_a_type(tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:99 / /proc rw shared:1 - proc proc rw\n"
        f"23 1 {device} / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    )
    assert filesystem_of(tmp_path, mounts) == f"{device} ext4"
    assert filesystem_of(tmp_path, tmp_path / "none") == device


def test_without_a_chosen_folder_it_is_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SWAPNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    save_requests("here", TABLE)
    assert (tmp_path / ".cache" / "swapnet" / "storage.json").exists()
