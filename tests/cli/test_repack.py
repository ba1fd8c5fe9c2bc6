"""``swapnet repack``, and the lines on weights that are stored in fewer bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from swapnet.cli.engine import about_weights
from swapnet.manifest import Extent, load_manifest
from tests.cli.conftest import Call
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.packed import pack_elsewhere


def test_what_has_no_windows_is_refused(call: Call, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert call("repack", copy).is_user_error("nothing to pack again", "swapnet verify")
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_what_is_no_engine_is_refused(call: Call, tmp_path: Path) -> None:
    assert call("repack", tmp_path).is_user_error("is not an engine directory")
    assert call("repack", tmp_path / "none").status == 2


@pytest.mark.xdist_group("packing")
def test_a_folder_that_holds_other_files_is_refused(
    call: Call, engine: BuildToy, tmp_path: Path
) -> None:
    folder = _foreign(engine, tmp_path)
    (folder / "notes.txt").write_text("mine")
    assert call("repack", folder).is_user_error("is in the way", "notes.txt")
    assert (folder / "notes.txt").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("packing")
def test_the_engine_is_packed_for_this_processor(
    call: Call, engine: BuildToy, tmp_path: Path
) -> None:
    folder = _foreign(engine, tmp_path)
    said = call("repack", folder)
    assert said.status == 0
    assert "windows of" in said.out
    assert load_manifest(folder).compiled == engine("packing-bits").manifest.compiled
    assert call("verify", folder).status == 0


def _foreign(engine: BuildToy, tmp_path: Path) -> Path:
    toy = engine("packing-bits")
    if not toy.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    pack_elsewhere(folder)
    return folder


def test_narrow_weights_are_named(toy: Engine) -> None:
    first, *rest = toy.manifest.blocks
    block = msgspec.structs.replace(first, extent=Extent(0, 4 << 20, "planes", 2 << 20))
    manifest = msgspec.structs.replace(toy.manifest, blocks=(block, *rest))
    assert next(iter(about_weights(manifest))) == (
        "Weights are bfloat16 in all but name: 4MiB are stored as 2MiB."
    )
