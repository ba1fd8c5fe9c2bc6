"""accelerate's side: with libraries that only look like them, and with the real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swapnet.arrays import save_npz
from swapnet.errors import BackendUnavailableError
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Program, Worker
from tests.evidence.offload import open_side, write_folder
from tests.helpers.state_dict import state_dict

PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


def request(folder: Path, path: str = "") -> Request:
    save_npz(folder / "inputs.npz", {"x": np.ones(3, np.float32)})
    return Request("offload", path, str(folder / "inputs.npz"), 1)


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BackendUnavailableError, match="accelerate is not here") as raised:
        open_side(request(tmp_path))
    assert "make peers" in raised.value.hint


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Tensor(np.ndarray[Any, Any]):
    def numpy(self) -> np.ndarray[Any, Any]:
        return np.asarray(self)


class _Model:
    def eval(self) -> None: ...

    def __call__(self, **given: Any) -> dict[str, Any]:
        return {name: (value + 1).view(_Tensor) for name, value in given.items()}


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Libraries that do nothing; what was offloaded."""
    calls: list[Any] = []
    torch: Any = ModuleType("torch")
    torch.set_num_threads = calls.append
    torch.inference_mode = _Nothing
    torch.device = str
    torch.ones = lambda *shape: np.ones(shape)
    torch.from_numpy = lambda array: array
    torch.nn = SimpleNamespace(Linear=lambda *_: lambda x: x.view(_Tensor))
    accelerate: Any = ModuleType("accelerate")
    accelerate.init_empty_weights = _Nothing
    accelerate.disk_offload = lambda _, path, **__: calls.append(path)
    utils: Any = ModuleType("accelerate.utils")
    utils.offload_state_dict = lambda folder, weights: calls.append((folder, sorted(weights)))
    bert: Any = ModuleType("bert")
    bert.Bert = _Model
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "accelerate", accelerate)
    monkeypatch.setitem(sys.modules, "accelerate.utils", utils)
    monkeypatch.setitem(sys.modules, "tests.evidence.bert", bert)
    return calls


def test_a_folder_is_offloaded(offloaded: list[Any], tmp_path: Path) -> None:
    side = open_side(request(tmp_path, "weights"))
    assert offloaded == [1, "weights"]
    assert len(side.run(3).latency_ms) == 3
    np.testing.assert_array_equal(side.outputs()["x"], np.full(3, 2))
    assert side.details()["resident_peak_bytes"] > 0
    side.close()


def test_without_a_folder_it_is_the_fixed_cost(offloaded: list[Any], tmp_path: Path) -> None:
    side = open_side(request(tmp_path))
    side.run(1)
    assert offloaded == [1]
    assert set(side.outputs()) == {"y"}


def test_weights_are_written(offloaded: list[Any], tmp_path: Path) -> None:
    save_npz(tmp_path / "weights.npz", {"b": np.ones(1), "a": np.ones(2)})
    write_folder(tmp_path / "weights.npz", tmp_path / "folder")
    assert offloaded == [(tmp_path / "folder", ["a", "b"])]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="no environment of peers: make peers")
def test_bert_is_the_zoo_s(tmp_path: Path) -> None:
    import onnxruntime

    from swapnet.executor.bench.difference import largest_difference
    from swapnet.models import bert_base

    model = tmp_path / "bert_base.onnx"
    bert_base.make(model, None)
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(0, 30522, (1, 128), np.int64),
        "attention_mask": (np.arange(128) < 100).astype(np.int64)[None],
        "token_type_ids": (np.arange(128) > 50).astype(np.int64)[None],
    }
    save_npz(tmp_path / "inputs.npz", inputs)
    save_npz(tmp_path / "weights.npz", state_dict(model))
    command = [PYTHON, "-m", "tests.evidence.offload"]
    subprocess.run(
        [*map(str, command), str(tmp_path / "weights.npz"), str(tmp_path / "weights")], check=True
    )
    asked = Request("offload", str(tmp_path / "weights"), str(tmp_path / "inputs.npz"), 2)
    with Worker(asked, program=Program("tests.evidence.offload", PYTHON)) as worker:
        assert len(worker.run(1).latency_ms) == 1
        theirs = worker.outputs(tmp_path)
    session = onnxruntime.InferenceSession(model)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(None, inputs), strict=True))
    assert set(theirs) == set(names)
    assert largest_difference(theirs, expected)[1] < 1e-4
