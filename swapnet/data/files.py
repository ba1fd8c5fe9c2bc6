"""Arrays of a model in files that users have: NumPy's, ONNX's, Polygraphy's, or raw bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from swapnet.arrays import Array, load_npy, load_npz
from swapnet.errors import InputError
from swapnet.shapes import names_of
from swapnet.tensors import ModelInput, as_dims, numpy_dtype

__all__ = ["FORMATS", "is_data_set", "load_data_set", "load_polygraphy", "read_arrays"]

FORMATS = (
    ".npy, .npz, ONNX's .pb, .json of Polygraphy or of --export-output, a folder "
    "test_data_set_0, or raw bytes"
)


class _Exported(msgspec.Struct):
    """One output in the file of trtexec's ``--exportOutput``."""

    name: str
    dimensions: str
    values: list[Any]


_BEGINNINGS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PK\x05\x06": ".npz"}
_NUMBERED = re.compile(r"(input|output)_(\d+)\.pb")


def read_arrays(
    pairs: Iterable[tuple[str, Path]],
    tensors: Sequence[ModelInput],
    shapes: Mapping[str, Sequence[int]],
    kind: str = "input",
) -> dict[str, Array]:
    """Arrays by name out of files.

    Parameters
    ----------
    pairs
        Name and file of each; a file or folder of several arrays has the name ``""``.
    tensors
        Inputs or outputs of the model.
    shapes
        Shapes of raw bytes: planned ones. Raw bytes without a shape stay one axis.
    kind
        ``"input"`` or ``"output"``: what ``tensors`` are.

    Raises
    ------
    InputError
        A file can't be read, has another size than its tensor, or a tensor is given twice.
    """
    known = {tensor.name: tensor for tensor in tensors}
    arrays: dict[str, Array] = {}
    origins: dict[str, Path] = {}
    for name, path in pairs:
        if is_data_set(path, kind):
            read = load_data_set(path, tensors, kind)
        elif name:
            read = {name: _load_one(path, name, known, shapes, kind)}
        elif path.suffix.lower() == ".json":
            read = _load_json(path, known)
        elif path.is_file() and not _suffix(path):
            raise InputError(
                f"{path} has no name of an {kind}",
                why="it is not an .npz, so it holds the raw bytes of one array",
                hint=f"write NAME:{path}, with a name of {names_of(known)}",
            )
        else:
            read = load_npz(path)
        for key, array in read.items():
            if key in arrays:
                raise InputError(
                    f"{kind} {key!r} is given twice",
                    why=f"by {origins[key]} and by {path}",
                    hint="give each of them once",
                )
            arrays[key], origins[key] = array, path
    return arrays


def _load_one(
    path: Path,
    name: str,
    known: Mapping[str, ModelInput],
    shapes: Mapping[str, Sequence[int]],
    kind: str,
) -> Array:
    """The array of one tensor; the suffix of the file decides, else its first bytes."""
    suffix = _suffix(path)
    if suffix in (".npy", ".npz"):
        return load_npy(path)
    if suffix == ".pb":
        return _load_tensor(path)[1]
    if suffix == ".json":
        arrays = _load_json(path, known)
        if name not in arrays:
            raise _unknown(kind, name, str(path), arrays)
        return arrays[name]
    if name not in known:
        raise _unknown(kind, name, "the model", known)
    return _from_raw(_content(path), path, known[name], shapes.get(name), kind)


def _suffix(path: Path) -> str:
    """The suffix of a known format, else that of the file's first bytes; empty for raw bytes."""
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz", ".pb", ".json"):
        return suffix
    content = _content(path)
    return next((s for begin, s in _BEGINNINGS.items() if content.startswith(begin)), "")


def _load_json(path: Path, known: Mapping[str, ModelInput]) -> dict[str, Array]:
    """Arrays of trtexec's ``--exportOutput``, else of Polygraphy."""
    try:
        rows = msgspec.json.decode(_content(path), type=list[_Exported])
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = []
    if not rows:
        return load_polygraphy(path)[0]
    arrays: dict[str, Array] = {}
    for row in rows:
        dtype = known[row.name].dtype if row.name in known else "float32"
        shape = [int(size) for size in row.dimensions.split("x") if size]
        try:
            values = np.array([np.nan if v is None else v for v in row.values])
            values = values.reshape(shape)
        except ValueError as error:
            raise InputError(
                f"{path} can't be read",
                why=f"{row.name!r} is {row.dimensions} and has {len(row.values)} values",
                hint="write it again: --export-output, or --exportOutput of trtexec",
            ) from error
        if dtype == "bfloat16":
            values = values.astype(np.float32).view(np.uint32) >> 16
        arrays[row.name] = values.astype(numpy_dtype(dtype))
    return arrays


def _unknown(kind: str, name: str, where: str, names: Iterable[str]) -> InputError:
    return InputError(
        f"unknown {kind} {name!r}", why=f"{where} has {names_of(names)}", hint="correct the name"
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _from_raw(
    raw: bytes, path: Path, tensor: ModelInput, shape: Sequence[int] | None, kind: str
) -> Array:
    """Little-endian bytes of a tensor, as trtexec reads them."""
    dtype = numpy_dtype(tensor.dtype)
    needed = None if shape is None else prod(shape) * dtype.itemsize
    if len(raw) % dtype.itemsize or (needed is not None and len(raw) != needed):
        takes = f"{tensor.dtype} takes a multiple of {dtype.itemsize} bytes"
        if shape is not None:
            takes = f"{tensor.dtype} {as_dims(shape)} takes {needed} bytes"
        raise InputError(
            f"{path} has the wrong size for {kind} {tensor.name!r}",
            why=f"it has {len(raw)} bytes, {takes}",
            hint="raw bytes must have the type and the planned shape: give --shapes, or .npy",
        )
    array = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
    return array if shape is None else array.reshape(tuple(shape))


def is_data_set(path: Path, kind: str = "input") -> bool:
    """Whether a folder holds ``input_0.pb`` and so on, as ONNX's ``test_data_set_0`` does."""
    return (path / f"{kind}_0.pb").is_file()


def load_data_set(
    path: Path, tensors: Sequence[ModelInput], kind: str = "input"
) -> dict[str, Array]:
    """The arrays of an ONNX test data set: by the name in the file, else in the model's order.

    Raises
    ------
    InputError
        A file can't be read, or there are more than the model has.
    """
    known = [tensor.name for tensor in tensors]
    matches = [(_NUMBERED.fullmatch(file.name), file) for file in path.iterdir()]
    found = {int(match[2]): file for match, file in matches if match and match[1] == kind}
    arrays: dict[str, Array] = {}
    for number, file in sorted(found.items()):
        name, array = _load_tensor(file)
        if name not in known:
            if number >= len(known):
                raise InputError(
                    f"{file} is for no {kind}",
                    why=f"the model has {len(known)} {kind}s: {names_of(known)}",
                    hint="remove the file, or give arrays by name",
                )
            name = known[number]
        arrays[name] = array
    return arrays


def _load_tensor(path: Path) -> tuple[str, Array]:
    """Name and array of an ONNX ``TensorProto``."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        tensor = onnx.TensorProto.FromString(_content(path))
        array: Any = onnx.numpy_helper.to_array(tensor)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} can't be read", why=str(error), hint="give an ONNX TensorProto"
        ) from error
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        array = array.view(np.uint16)
    return tensor.name, array


def load_polygraphy(path: Path) -> list[dict[str, Array]]:
    """The samples of a JSON file of Polygraphy: inputs, or outputs of its first runner.

    Raises
    ------
    InputError
        The file can't be read, or is of another kind.
    """
    from polygraphy.json import load_json

    hint = "give what polygraphy run writes with --save-inputs or --save-outputs"
    try:
        loaded: Any = load_json(str(path))
        samples = loaded if isinstance(loaded, list) else loaded[0][1]
        arrays = [{name: np.asarray(sample[name]) for name in sample} for sample in samples]
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # Polygraphy raises its own errors, and those of JSON
        raise InputError(f"{path} can't be read", why=str(error), hint=hint) from error
    if not arrays:
        raise InputError(f"{path} has no samples", why="its list is empty", hint=hint)
    return arrays


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} can't be read", why=error.strerror or str(error), hint=f"give {FORMATS}"
    )
