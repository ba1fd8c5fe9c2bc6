from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.executor.gpu import cuda
from tests.gpu_kit.rig import Rig, Setting, open_rig, simulated_gpu


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Folders of a rehearsal."""
    work = tmp_path_factory.mktemp("work")
    return Setting(work, tmp_path_factory.mktemp("out"), simulated=True, small=True)


@pytest.fixture
def on_simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated GPU in the place of CUDA's."""
    gpu = simulated_gpu()
    monkeypatch.setattr(cuda, "open_cuda", lambda *_: gpu)


@pytest.fixture
def rig(setting: Setting, on_simulated_gpu: None) -> Rig:
    """An engine of kernels on a simulated GPU."""
    del on_simulated_gpu
    return open_rig(setting)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A folder for a packed kit."""
    return tmp_path / "gpu-kit"
