"""Input shapes other than those of the build, and the sizes that were measured at them.

``shapes/KEY.json`` in the engine directory, one file for each set of input shapes; written by
`swapnet.calibration.ensure_shapes`, read by `swapnet.manifest.load_manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import msgspec

from swapnet.errors import EngineError, InputError
from swapnet.files import make_folder, replacing
from swapnet.sealed_json import read_sealed, sha256_of, write_sealed
from swapnet.strips import Striping
from swapnet.symbols import (
    as_sizes,
    is_nameless,
    known_sizes,
    model_symbols,
    size_of,
    symbols_in,
)
from swapnet.tensors import ModelInput, as_dims

__all__ = [
    "SAMPLES",
    "SHAPES",
    "MeasuredShapes",
    "SessionMemory",
    "as_option",
    "as_planned",
    "as_title",
    "given_sizes",
    "input_shapes",
    "load_shapes",
    "names_of",
    "save_shapes",
    "shapes_key",
    "shapes_of",
    "sizes_option",
    "symbol_sizes",
]

SHAPES = "shapes"
_SCHEMA: Final = "swapnet-shapes/2"
SAMPLES = "samples"
"""Folder of the inputs that an engine was built with."""
_LONGEST_KEY = 120
_NUMBERED = re.compile(r"(.*?)(\d*)(\D*)", re.DOTALL)
_STRANGE = re.compile(r"[^A-Za-z0-9]+")

Size = Annotated[int, msgspec.Meta(ge=0)]


class SessionMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Measured memory of an engine's ONNX Runtime sessions, beside weights and placed values.

    Attributes
    ----------
    scratch_bytes
        Limit of ONNX Runtime's arena under which steps of one block and of several run. `Block` has
        the peak of each block alone.
    process_bytes
        Growth of a process of the user's beyond the skeletons' bytes: sessions, memory that kernels
        allocate outside of the arena, readers and bookkeeping.
    own_process_bytes
        The same in a process of ours: its sessions share one thread pool, and large allocations
        return to the system.
    """

    scratch_bytes: Size = 0
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
    stripings
        Ways to execute blocks in strips.
    """

    engine: str
    planned_shapes: dict[str, tuple[Size, ...]]
    nbytes: dict[str, Size]
    activation_bytes: tuple[Size, ...]
    session_memory: SessionMemory
    stripings: tuple[Striping, ...] = ()


def input_shapes(
    inputs: Sequence[ModelInput],
    given: Mapping[str, Sequence[int]],
    otherwise: Mapping[str, int] | None = None,
    option: str = "--shapes",
    dims: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The shape of each input.

    Parameters
    ----------
    inputs
        Inputs of the model.
    given
        Shapes by input, as the user wrote them.
    otherwise
        Sizes of the symbols that are left open; else they are 1.
    option
        The option that gave the shapes, for messages.
    dims
        Sizes by symbol, as the user wrote them.

    Raises
    ------
    InputError
        A given shape is for no input or does not fit it, or sizes of symbols contradict each other.
    """
    return shapes_of(inputs, symbol_sizes(inputs, given, otherwise, option, dims))


def symbol_sizes(
    inputs: Sequence[ModelInput],
    given: Mapping[str, Sequence[int]],
    otherwise: Mapping[str, int] | None = None,
    option: str = "--shapes",
    dims: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The size of each symbol; parameters and errors are those of `input_shapes`."""
    known = given_sizes(inputs, given, otherwise, option, dims)
    return {s: known.get(s, (otherwise or {}).get(s, 1)) for s in model_symbols(inputs)}


def given_sizes(
    inputs: Sequence[ModelInput],
    given: Mapping[str, Sequence[int]],
    otherwise: Mapping[str, int] | None = None,
    option: str = "--shapes",
    dims: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Sizes of the symbols that are not left open; otherwise as `symbol_sizes`."""
    by_input = _without_wildcards([taken.name for taken in inputs], given)
    _check_shapes(inputs, by_input, option)
    return known_sizes(inputs, by_input, dims or {}, otherwise or {}, option)


def shapes_of(inputs: Iterable[ModelInput], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each input at these sizes of all symbols.

    Raises
    ------
    InputError
        A dimension has no size at them.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for taken in inputs:
        shape = []
        for dim in taken.shape:
            size = size_of(dim, sizes)
            if size is None:
                used = {s: sizes[s] for s in symbols_in(dim)}
                raise InputError(
                    f"{dim!r} of input {taken.name!r} has no size",
                    why=f"it is not a number from 0 where {as_sizes(used)}",
                    hint="give other sizes: --dims",
                )
            shape.append(size)
        shapes[taken.name] = tuple(shape)
    return shapes


def _without_wildcards(
    names: Sequence[str], given: Mapping[str, Sequence[int]]
) -> dict[str, Sequence[int]]:
    """Shapes by input; a name with one ``*`` is for each input that it fits and no other names."""
    shapes: dict[str, Sequence[int]] = {}
    for pattern, shape in given.items():
        start, star, end = pattern.partition("*")
        fitting = [
            name
            for name in names
            if star and name not in given and len(name) >= len(start) + len(end)
            if name.startswith(start) and name.endswith(end)
        ]
        if pattern in names or not fitting:
            shapes[pattern] = shape
        for name in fitting:
            shapes.setdefault(name, shape)
    return shapes


def _check_shapes(
    inputs: Sequence[ModelInput], given: Mapping[str, Sequence[int]], option: str
) -> None:
    """Refuse shapes for no input, and those that do not fit what the model declares."""
    known = {value.name: tuple(value.shape) for value in inputs}
    for name, shape in given.items():
        if name not in known:
            raise InputError(
                f"{option} names {name!r}",
                why=f"the model takes {names_of(known)}",
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


def shapes_key(
    inputs: Iterable[ModelInput], planned: Mapping[str, Sequence[int]], conversations: int = 1
) -> str:
    """A file name for input shapes, such as ``x-1x3x48x640``; fixed shapes are left out.

    With several ``conversations`` it is that of inferences whose inputs are not all as large.
    """
    symbolic = [i.name for i in inputs if any(isinstance(dim, str) for dim in i.shape)]
    key = "_".join(f"{_STRANGE.sub('_', name)}-{as_dims(planned[name])}" for name in symbolic)
    key += f"_joined-{conversations}" if conversations > 1 else ""
    if len(key) > _LONGEST_KEY:
        key = f"{key[: _LONGEST_KEY - 17]}-{sha256_of(key.encode())[:16]}"
    return key


def as_option(shapes: Mapping[str, Sequence[int]]) -> str:
    """Shapes as ``--shapes`` takes them from a shell."""
    names = {name: f'"{name}"' if "," in name else name for name in shapes}
    return quote(",".join(f"{names[name]}:{_dims(shape)}" for name, shape in shapes.items()))


def sizes_option(inputs: Sequence[ModelInput], shapes: Mapping[str, Sequence[int]]) -> str:
    """The option that gives shapes: ``--dims batch=1,past=511`` where symbols say all of them.

    Parameters
    ----------
    inputs
        Inputs of the model.
    shapes
        Shapes by input, of some of them or of all.
    """
    kept = [i for i in inputs if i.name in shapes and model_symbols([i])]
    names, given = model_symbols(kept), {i.name: shapes[i.name] for i in kept}
    if names and not any(map(is_nameless, names)):
        with suppress(InputError):
            sizes = known_sizes(kept, given, {}, {})
            return f"--dims {quote(as_sizes({name: sizes[name] for name in names}))}"
    return f"--shapes {as_option(given or shapes)}"


def as_title(shapes: Mapping[str, Sequence[int]]) -> str:
    """Shapes for people: ``ids: 1x8, past.{0..29}.{key,value}: 1x3x128x64``."""
    alike: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        alike.setdefault(_dims(shape) or "scalar", []).append(name)
    families = {dims: _families(names) for dims, names in alike.items()}
    return ", ".join(f"{n}: {dims}" for dims, names in families.items() for n in names) or (
        "no inputs"
    )


def as_planned(
    inputs: Sequence[ModelInput],
    symbols: Mapping[str, int],
    given: Iterable[str],
) -> str:
    """Sizes that an engine is planned for, by symbol, and which of them nobody gave.

    Parameters
    ----------
    inputs, symbols
        Inputs of the model, and planned sizes of symbols.
    given
        Symbols that the user gave sizes of.

    Returns
    -------
    str
        Empty where all shapes are fixed.
    """
    names = model_symbols(inputs)
    chosen = set(given)
    known = ", ".join(f"{s}={symbols[s]}" for s in names if s in chosen)
    open_ = [s for s in names if s not in chosen]
    assumed = ", ".join(f"{s}={symbols[s]}" for s in open_)
    if not open_:
        return f"planned for {known}" if known else ""
    option = f"give --dims {open_[0]}=SIZE{',…' if len(open_) > 1 else ''}"
    if not known:
        return f"planned for {assumed} (assumed; {option})"
    return f"planned for {known}; {assumed} assumed ({option})"


def names_of(names: Iterable[str]) -> str:
    """Names of inputs for people: ``'ids', 'past.{0..29}.{key,value}'``."""
    return ", ".join(map(repr, _families(names))) or "nothing"


def _families(names: Iterable[str]) -> list[str]:
    """Names, with one for all that differ in a number, and in the word after it."""
    numbered: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = _NUMBERED.fullmatch(name)
        assert found is not None
        before, number, after = found.groups()
        numbered.setdefault((before, after), []).append(number)
    merged: dict[str, list[str]] = {}
    for (before, after), numbers in numbered.items():
        start = before + _braces(numbers)
        if len(numbers) > 1 and after[1:].isidentifier():
            merged.setdefault(start + after[0], []).append(after[1:])
        else:
            merged[start + after] = []
    return [
        start + (f"{{{','.join(words)}}}" if len(words) > 1 else "".join(words))
        for start, words in merged.items()
    ]


def _braces(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return numbers[0]
    if not all(numbers):
        return f"{{{','.join(numbers)}}}"
    low, high = min(map(int, numbers)), max(map(int, numbers))
    whole = sorted(map(int, numbers)) == list(range(low, high + 1))
    return f"{{{low}..{high}}}" if whole else f"{{{','.join(numbers)}}}"


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
