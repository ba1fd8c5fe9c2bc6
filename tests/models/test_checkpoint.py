from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from swapnet.errors import ModelError
from swapnet.models.checkpoint import Checkpoint, is_checkpoint

KINDS = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}
VALUES: dict[str, NDArray[Any]] = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.turned": np.arange(6, dtype=np.float32).reshape(3, 2).T,
    "half": np.array([0.5, 1.5], np.float16),
    "count": np.array(7),
}

Write = Callable[[Path, object], None]


class Tensor:
    """Pickles as a tensor of PyTorch does."""

    def __init__(self, key: str, values: NDArray[Any], **changes: Any) -> None:
        self.key = key
        self.values = values
        self.changes = changes

    def __reduce__(self) -> tuple[Any, ...]:
        steps = tuple(step // self.values.itemsize for step in self.values.strides)
        fields = {"offset": 0, "shape": self.values.shape, "strides": steps} | self.changes
        rebuild = sys.modules["torch._utils"].__dict__["_rebuild_tensor_v2"]
        return rebuild, (Storage(self), *fields.values(), False, OrderedDict())


class Storage:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def content(self) -> bytes:
        return self.tensor.values.tobytes("A")

    def identity(self, *old: object) -> tuple[Any, ...]:
        kind = sys.modules["torch"].__dict__[KINDS[self.tensor.values.dtype.str]]
        return ("storage", kind, self.tensor.key, "cpu", self.tensor.values.size, *old)


def dump(state: object, *old: object) -> tuple[bytes, dict[str, Storage]]:
    found: dict[str, Storage] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            if not isinstance(obj, Storage):
                return None
            found[obj.tensor.key] = obj
            return obj.identity(*old)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(state)
    return file.getvalue(), found


def write_zip(path: Path, state: object) -> None:
    pickled, storages = dump(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.content)


def write_old(path: Path, state: object) -> None:
    pickled, storages = dump(state, None)
    with path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        file.write(pickled)
        pickle.dump(list(storages), file, protocol=2)
        for storage in storages.values():
            file.write(storage.tensor.values.size.to_bytes(8, "little") + storage.content)


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules that pickles may name while a test writes them."""
    utils = types.ModuleType("torch._utils")

    def rebuild(*_: object) -> None:
        pytest.fail("something of the checkpoint was run")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils.__dict__["_rebuild_tensor_v2"] = rebuild
    package = types.ModuleType("torch")
    for name in KINDS.values():
        package.__dict__[name] = type(name, (), {"__module__": "torch"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", package)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield


@pytest.fixture(params=[write_zip, write_old], ids=["zip", "old"])
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pth"


def state() -> OrderedDict[str, object]:
    return OrderedDict(
        (name, Tensor(str(index), values)) for index, (name, values) in enumerate(VALUES.items())
    )


def test_tensors_are_found_by_name(path: Path, write: Write) -> None:
    write(path, state())
    assert is_checkpoint(path)
    checkpoint = Checkpoint(path)
    assert checkpoint.names == tuple(VALUES)
    for name, values in VALUES.items():
        assert checkpoint.shape(name) == values.shape
        found = checkpoint.tensor(name)
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype


def test_a_view_of_a_part_is_that_part(path: Path, write: Write) -> None:
    values = np.arange(6, dtype=np.float32)
    write(path, {"part": Tensor("0", values, offset=2, shape=(2, 2), strides=(2, 1))})
    assert Checkpoint(path).tensor("part").tolist() == [[2, 3], [4, 5]]


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.parts = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def test_nothing_else_is_called(path: Path, write: Write, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    write(path, {"weight": Call(Path.touch, trace)})
    with pytest.raises(ModelError, match="which no tensor needs"):
        Checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "numpy.load"])
def test_every_other_name_is_refused(path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", f"c{module}\n{function}\n.".encode())
    with pytest.raises(ModelError, match=f"it names {name}") as caught:
        Checkpoint(path)
    assert str(path) in caught.value.what


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 3)},
        {"shape": (-2, 3)},
        {"strides": (4, 1)},
        {"strides": (-1, 1)},
    ],
)
def test_a_view_stays_in_its_storage(path: Path, write: Write, changes: dict[str, Any]) -> None:
    write(path, {"weight": Tensor("0", VALUES["fc.weight"], **changes)})
    with pytest.raises(ModelError, match="reaches beyond its 6 elements"):
        Checkpoint(path)


def test_a_checked_view_cannot_be_altered(path: Path, write: Write) -> None:
    class Altered(Tensor):
        def __reduce__(self) -> tuple[Any, ...]:
            return (*super().__reduce__(), {"shape": (1000, 1000), "offset": 99})

    write(path, {"weight": Altered("0", VALUES["fc.weight"])})
    with pytest.raises(ModelError, match="can't be read"):
        Checkpoint(path)


def test_what_is_no_state_dict_is_refused(path: Path, write: Write) -> None:
    write(path, [1, 2])
    with pytest.raises(ModelError, match="it holds a list"):
        Checkpoint(path)


def test_a_shorter_file_is_refused(path: Path, write: Write) -> None:
    write(path, state())
    content = path.read_bytes()
    for length in (len(content) - 9, len(content) // 2, 40):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match="can't be read"):
            Checkpoint(path)


def test_other_files_are_not_taken_for_one(path: Path) -> None:
    for content in (b"", b"a pickle, perhaps", pickle.dumps({})):
        path.write_bytes(content)
        assert not is_checkpoint(path)
