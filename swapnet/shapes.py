"""Input shapes other than those of the build, and the sizes that were measured at them.

``shapes/KEY.json`` in the engine directory, one file for each set of input shapes; written by
`swapnet.calibration.ensure_shapes`, read by `swapnet.manifest.load_manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import msgspec

from swapnet.errors import EngineError, InputError
from swapnet.files import make_folder, replacing
from swapnet.sealed_json import read_sealed, sha256_of, write_sealed
from swapnet.tensors import ModelInput, as_dims

__all__ = [
    "SAMPLES",
    "SHAPES",
    "MeasuredShapes",
    "SessionMemory",
    "as_option",
    "as_title",
    "input_shapes",
    "load_shapes",
    "save_shapes",
    "shapes_key",
]

SHAPES = "shapes"
_SCHEMA: Final = "swapnet-shapes/2"
SAMPLES = "samples"
"""Folder of the inputs that an engine was built with."""
_LONGEST_KEY = 120
_STRANGE = re.compile(r"[^A-Za-z0-9]+")

Size = Annotated[int, msgspec.Meta(ge=0)]


class SessionMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Measured memory of an engine's ONNX Runtime sessions, beside weights and placed values.

    Attributes
    ----------
    merged_scratch_bytes
        Limit of ONNX Runtime's arena under which steps of several blocks run. `Block` has the peak
        of each block alone, which is often smaller.
    process_bytes
        Growth of a process of the user's beyond the skeletons' bytes: sessions, memory that kernels
        allocate outside of the arena, readers and bookkeeping.
    own_process_bytes
        The same in a process of ours: its sessions share one thread pool, and large allocations
        return to the system.
    """

    merged_scratch_bytes: Size = 0
    process_bytes: Size = 0
    own_process_bytes: Size = 0


class MeasuredShapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes that depend on the input shapes.

    Attributes
    ----------
    engine
        `Manifest.identity` of the engine at the shapes that it was built for.
    planned_shapes
        Shape of each input.
    nbytes
        Bytes of each input, output and value of symbolic shape.
    activation_bytes
        Bytes by block.
    session_memory
        Memory of all sessions.
    """

    engine: str
    planned_shapes: dict[str, tuple[Size, ...]]
    nbytes: dict[str, Size]
    activation_bytes: tuple[Size, ...]
    session_memory: SessionMemory


def input_shapes(
    inputs: Iterable[ModelInput],
    given: Mapping[str, Sequence[int]],
    otherwise: Mapping[str, Sequence[int]] | None = None,
    option: str = "--shapes",
) -> dict[str, tuple[int, ...]]:
    """The shape of each input.

    Parameters
    ----------
    inputs
        Inputs of the model.
    given
        Shapes by input, as the user wrote them.
    otherwise
        Shapes by input that give the symbolic dimensions that ``given`` leaves open; else they
        are 1.
    option
        The option that gave the shapes, for messages.

    Raises
    ------
    InputError
        A given shape is for no input, or does not fit it.
    """
    known = {value.name: tuple(value.shape) for value in inputs}
    symbols: dict[str, int] = {}
    for name, shape in given.items():
        if name not in known:
            raise InputError(
                f"{option} names {name!r}",
                why=f"the model takes {', '.join(map(repr, known)) or 'nothing'}",
                hint="correct the name",
            )
        declared = known[name]
        if len(declared) != len(shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(declared, shape, strict=False)
        ):
            raise InputError(
                f"{option} gives {name!r} {as_dims(shape)}",
                why=f"the model takes {as_dims(declared)}",
                hint="correct the shape",
            )
        for dim, size in zip(declared, shape, strict=True):
            if isinstance(dim, str):
                symbols.setdefault(dim, size)
    default = otherwise or {}
    return {
        name: tuple(given[name])
        if name in given
        else tuple(
            symbols.get(dim, default[name][axis] if name in default else 1)
            if isinstance(dim, str)
            else dim
            for axis, dim in enumerate(declared)
        )
        for name, declared in known.items()
    }


def shapes_key(inputs: Iterable[ModelInput], planned: Mapping[str, Sequence[int]]) -> str:
    """A file name for input shapes, such as ``x-1x3x48x640``; fixed shapes are left out."""
    symbolic = [i.name for i in inputs if any(isinstance(dim, str) for dim in i.shape)]
    key = "_".join(f"{_STRANGE.sub('_', name)}-{as_dims(planned[name])}" for name in symbolic)
    if len(key) > _LONGEST_KEY:
        key = f"{key[: _LONGEST_KEY - 17]}-{sha256_of(key.encode())[:16]}"
    return key


def as_option(shapes: Mapping[str, Sequence[int]]) -> str:
    """Shapes as ``--shapes`` takes them from a shell."""
    names = {name: f'"{name}"' if "," in name else name for name in shapes}
    return quote(",".join(f"{names[name]}:{_dims(shape)}" for name, shape in shapes.items()))


def as_title(shapes: Mapping[str, Sequence[int]]) -> str:
    """Shapes for people."""
    parts = (f"{name}:{_dims(shape) or 'scalar'}" for name, shape in shapes.items())
    return ",".join(parts) or "no inputs"


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def load_shapes(folder: Path, key: str) -> MeasuredShapes | None:
    """The sizes that were measured, or None where there are none.

    Raises
    ------
    EngineError
        The file is damaged.
    """
    path = folder / SHAPES / f"{key}.json"
    again = f"remove it: rm '{path}'"
    try:
        return read_sealed(path, _SCHEMA, MeasuredShapes, again)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineError(
            f"{path} can't be read",
            why=error.strerror or str(error),
            hint=f"make it readable, or {again}",
        ) from error


def save_shapes(folder: Path, key: str, measured: MeasuredShapes) -> None:
    """Write ``shapes/KEY.json`` at once.

    Raises
    ------
    StorageError
        The engine directory can't be written.
    """
    path = folder / SHAPES / f"{key}.json"
    make_folder(path.parent)
    with replacing(path) as temporary:
        write_sealed(temporary, _SCHEMA, measured)
