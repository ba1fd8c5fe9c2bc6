from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from swapnet.errors import EngineError
from swapnet.manifest import Manifest
from swapnet.profile import PROFILE, Profile, assumed_profile, load_profile, save_profile
from swapnet.testing.engine import write_engine


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_engine(tmp_path, [8192, 4096])


@pytest.fixture
def measured(manifest: Manifest) -> Profile:
    return msgspec.structs.replace(assumed_profile(manifest), device="here", step_ms=0.5)


def test_what_was_saved_is_loaded(tmp_path: Path, manifest: Manifest, measured: Profile) -> None:
    save_profile(tmp_path, measured)
    assert load_profile(tmp_path, manifest, "here") == measured
    assert [path.name for path in tmp_path.glob("*profile*")] == [PROFILE]


def test_assumes_where_nothing_was_measured(tmp_path: Path, manifest: Manifest) -> None:
    profile = load_profile(tmp_path, manifest, "here")
    assert profile.device == "assumed"
    first, second = profile.blocks
    assert first.idle_ms == 2 * second.idle_ms > 0
    assert first.busy_ms > first.idle_ms


def test_a_measurement_of_another_device_is_left_out(
    tmp_path: Path, manifest: Manifest, measured: Profile
) -> None:
    save_profile(tmp_path, measured)
    assert load_profile(tmp_path, manifest, "there").device == "assumed"


def test_a_measurement_of_another_engine_is_left_out(
    tmp_path: Path, manifest: Manifest, measured: Profile
) -> None:
    save_profile(tmp_path, msgspec.structs.replace(measured, engine="another"))
    assert load_profile(tmp_path, manifest, "here").is_assumed


def test_a_measurement_of_another_format_is_left_out(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / PROFILE).write_text('{"schema": "swapnet-profile/1", "block_ms": [1.0]}')
    assert load_profile(tmp_path, manifest, "here").is_assumed


def test_a_measurement_of_other_blocks_is_left_out(
    tmp_path: Path, manifest: Manifest, measured: Profile
) -> None:
    save_profile(tmp_path, msgspec.structs.replace(measured, blocks=measured.blocks[:1]))
    assert load_profile(tmp_path, manifest, "here").device == "assumed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "swapnet-profile/2"}'])
def test_damage_is_named(tmp_path: Path, manifest: Manifest, text: str) -> None:
    (tmp_path / PROFILE).write_text(text)
    with pytest.raises(EngineError, match="damaged") as caught:
        load_profile(tmp_path, manifest, "here")
    assert "swapnet measure" in caught.value.hint
