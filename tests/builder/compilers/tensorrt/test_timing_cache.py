from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.builder.compilers.tensorrt.timing_cache import timing_cache_path


def test_times_belong_to_a_version_and_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWAPNET_CACHE", str(tmp_path))
    path = timing_cache_path("10.3.0", "NVIDIA Orin (nvgpu)/1")
    assert path == tmp_path / "timing" / "10.3.0_NVIDIA_Orin_nvgpu_1.cache"
    monkeypatch.delenv("SWAPNET_CACHE")
    assert timing_cache_path("1", "x").is_relative_to(Path.home() / ".cache" / "swapnet")
