"""Engines of the kit, on disk and in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu_kit import rig as rigs
from tests.gpu_kit.rig import Setting, in_memory, open_rig


@pytest.mark.usefixtures("on_simulated_gpu")
def test_a_large_engine_has_a_copy_in_memory(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, work = tmp_path / "memory", tmp_path / "work"
    for folder in (memory, work):
        folder.mkdir()
    monkeypatch.setattr(rigs, "_REAL", ((2, 3), 1024))
    monkeypatch.setattr(rigs, "_SHARED_MEMORY", tmp_path / "nowhere")
    large = replace(setting, work=work, small=False)
    assert open_rig(large).fast == work / "engine"
    monkeypatch.setattr(rigs, "_SHARED_MEMORY", memory)
    for _ in range(2):
        rig = open_rig(large)
        assert rig.fast == in_memory(rig.folder)
        with rig.executor("100%") as executor:
            assert rig.is_right(executor)
    assert [path.name for path in memory.iterdir()] == [rig.fast.name]
