from __future__ import annotations

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from swapnet.models.checkpoint import read_checkpoint

KINDS = {"<f4": "FloatStorage", "<i8": "LongStorage"}


class Tensor:
    """Pickles as a tensor of PyTorch does: a view of a storage."""

    def __init__(
        self, key: str, storage: NDArray[Any], offset: int, shape: tuple[int, ...], *strides: int
    ) -> None:
        self.key, self.storage = key, storage
        self.view = offset, shape, strides

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = sys.modules["torch._utils"].__dict__["_rebuild_tensor_v2"]
        return rebuild, (Storage(self.key, self.storage), *self.view, False, OrderedDict())


class Storage:
    def __init__(self, key: str, values: NDArray[Any]) -> None:
        self.key, self.values = key, values


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = sys.modules["torch"].__dict__[KINDS[obj.values.dtype.str]]
        return ("storage", kind, obj.key, "cpu", obj.values.size, None)


def write(path: Path, state: object, storages: dict[str, NDArray[Any]]) -> None:
    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump(state)
    with path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        file.write(pickled.getvalue())
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(values.size.to_bytes(8, "little") + values.tobytes())


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules that pickles may name while a test writes them."""
    utils, package = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def rebuild(*_: object) -> None:
        pytest.fail("something of the checkpoint was run")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils.__dict__["_rebuild_tensor_v2"] = rebuild
    for name in KINDS.values():
        package.__dict__[name] = type(name, (), {"__module__": "torch"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", package)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield


def test_tensors_are_found_by_name(tmp_path: Path) -> None:
    floats, count = np.arange(8, dtype=np.float32), np.array([7])
    state = OrderedDict(
        [
            ("fc.weight", Tensor("0", floats, 0, (2, 3), 1, 2)),
            ("fc.bias", Tensor("0", floats, 6, (2,), 1)),
            ("fc.count", Tensor("1", count, 0, ())),
        ]
    )
    write(tmp_path / "state.pth", state, {"1": count, "0": floats})
    found = read_checkpoint(tmp_path / "state.pth")
    assert {name: array.tolist() for name, array in found.items()} == {
        "fc.weight": [[0, 2, 4], [1, 3, 5]],
        "fc.bias": [6, 7],
        "fc.count": 7,
    }


def test_nothing_but_tensors_is_named(tmp_path: Path) -> None:
    write(tmp_path / "state.pth", {"path": tmp_path}, {})
    with pytest.raises(pickle.UnpicklingError, match="which no tensor needs"):
        read_checkpoint(tmp_path / "state.pth")
