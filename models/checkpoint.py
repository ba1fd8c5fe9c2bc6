"""Tensors out of PyTorch checkpoints, without PyTorch and without running what is in them.

A checkpoint is a pickle, and a pickle may call anything. This reader lets it name an ordered
dictionary, the rebuilding of a tensor and the kinds of storage, and nothing else. It knows both
layouts of ``torch.save``: the zip archive, and the row of pickles of PyTorch before 1.6.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import ModelError

__all__ = ["Checkpoint", "is_checkpoint"]

_ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OLD = pickle.dumps(_MAGIC, protocol=2)
_KINDS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


# Tuples, because a pickle can alter the attributes of any object that has a __dict__.
class _Storage(NamedTuple):
    key: str
    kind: str
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.kind).itemsize


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Checkpoint:
    """The tensors of a state dict by name, read from the file one at a time.

    Parameters
    ----------
    path
        A file of ``torch.save(model.state_dict(), path)``, in either layout.

    Raises
    ------
    ModelError
        The file is something else, is damaged, or asks for anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._views, self._places = (_read_old if _is_old(file) else _read_zip)(file)
        except ModelError as error:
            raise _refusal(path, error.what) from error
        except OSError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            raise _refusal(path, f"{type(error).__name__}: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, in the order of the file."""
        return tuple(self._views)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._views[name].shape

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return one tensor."""
        view = self._views[name]
        kind = np.dtype(view.storage.kind)
        content = np.fromfile(
            self._path, kind, view.storage.size, offset=self._places[view.storage.key]
        )
        strides = [step * kind.itemsize for step in view.strides]
        values = np.lib.stride_tricks.as_strided(content[view.offset :], view.shape, strides)
        return np.ascontiguousarray(values).reshape(view.shape)


def is_checkpoint(path: Path) -> bool:
    """Tell whether a file begins as a checkpoint does."""
    with path.open("rb") as file:
        return _is_old(file) or file.read(len(_ZIP)) == _ZIP


def _is_old(file: IO[bytes]) -> bool:
    """Tell whether a file has the layout before PyTorch 1.6; its position stays at the start."""
    start = file.read(len(_OLD))
    file.seek(0)
    return start == _OLD


class _Tensors(pickle.Unpickler):
    """Builds views of storages, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        raise ModelError(f"it names {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> _Storage:
        sort, kind, key, _, count, *view = pid
        if sort != "storage" or kind not in _KINDS.values() or any(view) or count < 0:
            raise ModelError(f"it refers to {pid!r:.80}, which is no plain storage")
        return _Storage(str(key), kind, int(count))


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _View:
    view = _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    steps = zip(view.shape, view.strides, strict=True)
    last = view.offset + sum((size - 1) * step for size, step in steps)
    if min(view.offset, *view.shape, *view.strides, 0) < 0 or (
        0 not in view.shape and last >= storage.size
    ):
        raise ModelError(
            f"a tensor of shape {view.shape} reaches beyond its {storage.size} elements"
        )
    return view


def _load(file: IO[bytes]) -> Any:
    return _Tensors(file).load()


def _views(state: object) -> dict[str, _View]:
    if not isinstance(state, Mapping):
        raise ModelError(f"it holds a {type(state).__name__}, not tensors by name")
    return {str(name): view for name, view in state.items() if isinstance(view, _View)}


def _read_old(file: IO[bytes]) -> tuple[dict[str, _View], dict[str, int]]:
    _load(file)
    protocol, system = _load(file), _load(file)
    if protocol != _PROTOCOL or not system["little_endian"]:
        raise ModelError("it is of another protocol or byte order")
    views = _views(_load(file))
    storages = {view.storage.key: view.storage for view in views.values()}
    places = {}
    for key in _load(file):
        count = int.from_bytes(file.read(8), "little")
        if key not in storages or storages[key].size != count:
            raise ModelError(f"storage {key} is of another size than its tensors say")
        places[key] = file.tell()
        file.seek(storages[key].nbytes, 1)
    _check(storages, places, file)
    return views, places


def _read_zip(file: IO[bytes]) -> tuple[dict[str, _View], dict[str, int]]:
    with zipfile.ZipFile(file) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = record.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ModelError("it is of another byte order")
        with archive.open(record) as pickled:
            views = _views(_load(pickled))
        storages = {view.storage.key: view.storage for view in views.values()}
        places = {}
        for key, storage in storages.items():
            entry = archive.getinfo(f"{folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < storage.nbytes:
                raise ModelError(f"storage {key} is compressed or too small")
            places[key] = _content(file, entry)
    _check(storages, places, file)
    return views, places


def _content(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where the content of an uncompressed entry begins: after its header, name and extra field."""
    file.seek(entry.header_offset)
    header = file.read(30)
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return entry.header_offset + len(header) + sum(lengths)


def _check(storages: dict[str, _Storage], places: dict[str, int], file: IO[bytes]) -> None:
    size = file.seek(0, 2)
    for key, storage in storages.items():
        if key not in places or places[key] + storage.nbytes > size:
            raise ModelError(f"storage {key} is missing or cut short")


def _refusal(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} can't be read as a PyTorch checkpoint",
        why=why,
        hint="save a plain state dict, or convert it with safetensors.torch.save_file",
    )
