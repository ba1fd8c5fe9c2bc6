"""Representative inputs: what ``--data FILE.npz|FOLDER|module:function`` gives."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from swapnet.arrays import Array, load_npz
from swapnet.data.files import is_data_set, load_data_set, load_polygraphy
from swapnet.data.images import IMAGENET, Preprocessing, image_files, read_image
from swapnet.errors import InputError
from swapnet.input_checks import check_feed, check_names, fits, wrong_shape
from swapnet.tensors import ModelInput, as_dims

__all__ = ["Data", "Samples", "image_size", "open_samples", "samples_of"]

Data: TypeAlias = "str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]"
"""What `samples_of` takes."""

_WAYS = (
    "give an .npz file, a folder of images or .npz files, ONNX's test_data_set_0, Polygraphy's "
    ".json, or module:function"
)
_MODULE = "swapnet_data_{}"
"""Name of a module from a file, so that it hides no other."""


Source: TypeAlias = "Callable[[], Iterator[tuple[str, Mapping[str, Any]]]]"
"""Reads samples from the first on: the name of each in errors, and its arrays by input."""


@dataclass(frozen=True)
class Samples:
    """Representative inputs of a model: one feed per sample, checked when it is read.

    Each iteration starts again, and holds one sample of a folder or a function in memory at a time.
    ``name`` is that of the data in errors.
    """

    name: str
    read: Source
    inputs: tuple[ModelInput, ...]
    limit: int | None = None

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """C-contiguous arrays by input, in the order of the model's inputs.

        Raises
        ------
        InputError
            A sample does not fit the model, has NaN or can't be read, or there are none.
        """
        where = ""
        for where, sample in islice(self.read(), self.limit):
            yield check_feed(sample, self.inputs, where)
        if not where:
            raise InputError(
                f"no samples in {self.name}",
                why="it yields nothing",
                hint="yield at least one dict of an array for each input",
            )


def open_samples(
    data: str,
    inputs: Sequence[ModelInput],
    *,
    limit: int | None = None,
    preprocessing: Preprocessing = IMAGENET,
    size: tuple[int, int] | None = None,
) -> Samples:
    """Representative inputs from a folder, a file or a function.

    Parameters
    ----------
    data
        An ``.npz`` of arrays by input, each with a leading sample axis or for a single sample; a
        folder of such files, or of images; a folder ``test_data_set_0`` of ONNX, or of such
        folders; a ``.json`` of Polygraphy; or ``module:function`` or ``file.py:function``, called
        without arguments in each iteration, which yields one dict of arrays per sample.
    inputs
        Inputs of the model.
    limit
        Largest number of samples, from the first.
    preprocessing
        Way to resize and scale images.
    size
        Height and width of images in pixels, where the model leaves them open.

    Raises
    ------
    InputError
        The data is missing, is empty, or does not fit the model.
    """
    if limit is not None and limit < 1:
        raise InputError(
            f"a limit of {limit} samples is invalid", why="it must be at least 1", hint="raise it"
        )
    if not data:
        raise InputError("the data has no name", why="its name is empty", hint=_WAYS)
    path = Path(data)
    taken = tuple(inputs)
    read: Source
    if path.is_dir() and (files := sorted(path.glob("*.npz"))):
        read = partial(_files, files, taken)
    elif path.is_dir() and (sets := _data_sets(path)):
        read = partial(_data_set_arrays, sets, taken)
    elif path.is_dir():
        images = image_files(path)
        read = partial(_pictures, images, preprocessing, *_image_input(taken, data, size))
    elif path.is_file() and path.suffix.lower() == ".json":
        read = partial(_numbered, data, load_polygraphy(path))
    elif path.exists():
        read = _open_npz(path, taken)
    elif ":" in data:
        read = _open_function(data)
    else:
        raise InputError(f"{data} can't be read", why="there is no such file or folder", hint=_WAYS)
    return Samples(data, read, taken, limit)


def samples_of(
    data: Data, inputs: Sequence[ModelInput], shapes: Mapping[str, Sequence[int]]
) -> Iterable[Mapping[str, Any]]:
    """Samples from what `swapnet.build` takes as ``data``.

    Parameters
    ----------
    data
        What `open_samples` takes; a dict of arrays like an ``.npz``; or one dict for each sample.
    inputs
        Inputs of the model.
    shapes
        Shapes of inputs that were asked for: they give the size of images.

    Raises
    ------
    InputError
        The data is missing, is empty, or does not fit the model.
    """
    if isinstance(data, (str, Path)):
        return open_samples(str(data), inputs, size=image_size(shapes))
    if isinstance(data, Mapping):
        check_names(data, inputs, "the data")
        try:
            arrays = {taken.name: np.asarray(data[taken.name]) for taken in inputs}
        except ValueError as error:
            raise InputError(
                "the data is not arrays", why=str(error), hint="give a NumPy array for each input"
            ) from error
        return Samples("the data", _split("the data", arrays, inputs), tuple(inputs))
    if not isinstance(data, Iterable):
        raise InputError(
            "the data can't be read",
            why=f"it is {type(data).__name__}",
            hint="give a dict of an array for each input, several of them, or the name of a file",
        )
    return data


def image_size(shapes: Mapping[str, Sequence[int]]) -> tuple[int, int] | None:
    """Height and width in shapes of inputs that a user gave; None where none is of an image."""
    height_width = next((tuple(s[-2:]) for s in shapes.values() if len(s) == 4), None)
    return (height_width[0], height_width[1]) if height_width else None


def _pictures(
    images: Iterable[Path], preprocessing: Preprocessing, taken: ModelInput, size: tuple[int, int]
) -> Iterator[tuple[str, dict[str, Array]]]:
    for path in images:
        planes = read_image(path, preprocessing, int(taken.shape[1]), size)
        yield f"the image {path}", {taken.name: planes[None]}


def _image_input(
    inputs: Sequence[ModelInput], data: str, size: tuple[int, int] | None
) -> tuple[ModelInput, tuple[int, int]]:
    """The only input, and its height and width."""
    taken = inputs[0] if len(inputs) == 1 else None
    if (
        taken is None
        or taken.dtype != "float32"
        or len(taken.shape) != 4
        or taken.shape[1] not in (1, 3)
        or (taken.shape[0] != 1 and not isinstance(taken.shape[0], str))
    ):
        found = ", ".join(f"{t.name!r} {t.dtype} {as_dims(t.shape)}" for t in inputs) or "nothing"
        raise InputError(
            f"the model can't be given the images in {data}",
            why=f"it takes {found}; images are one float32 input of 1x3xHEIGHTxWIDTH or "
            "1x1xHEIGHTxWIDTH",
            hint="give its inputs as an .npz file or module:function",
        )
    height, width = taken.shape[2:]
    if size is None and not (isinstance(height, int) and isinstance(width, int)):
        raise InputError(
            f"the size of the images in {data} is not known",
            why=f"the model takes {as_dims(taken.shape)}: any height or width",
            hint=f"give the shape that it is used with: --shapes {taken.name}:1x3x640x640; or "
            "inputs as .npz or module:function",
        )
    chosen = size or (int(height), int(width))
    if min(chosen) < 1 or not fits(chosen, (height, width)):
        raise InputError(
            f"the images in {data} can't be made {as_dims(chosen)}",
            why=f"the model takes {as_dims(taken.shape)}",
            hint="give another size, or none if the model's is fixed",
        )
    return taken, chosen


def _files(
    paths: Iterable[Path], inputs: Sequence[ModelInput]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in paths:
        yield from _open_npz(path, inputs)()


def _data_sets(path: Path) -> tuple[Path, ...]:
    """The folder itself or those in it that are test data sets of ONNX."""
    if is_data_set(path):
        return (path,)
    return tuple(sorted(filter(is_data_set, path.iterdir())))


def _data_set_arrays(
    folders: Iterable[Path], inputs: Sequence[ModelInput]
) -> Iterator[tuple[str, dict[str, Array]]]:
    for folder in folders:
        yield str(folder), load_data_set(folder, inputs)


def _numbered(
    where: str, samples: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, sample in enumerate(samples, 1):
        yield f"sample {number} of {where}", sample


def _open_npz(path: Path, inputs: Sequence[ModelInput]) -> Source:
    """The arrays of a file; they stay in memory."""
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path} can't be read", why="it is a file, but not an .npz", hint=_WAYS)
    arrays = load_npz(path)
    check_names(arrays, inputs, str(path))
    return _split(str(path), arrays, inputs)


def _split(where: str, arrays: Mapping[str, Array], inputs: Sequence[ModelInput]) -> Source:
    """The samples of arrays, which have a leading sample axis or are a single sample."""
    leading = {taken.name: arrays[taken.name].ndim - len(taken.shape) for taken in inputs}
    for taken in inputs:
        if leading[taken.name] not in (0, 1):
            raise wrong_shape(arrays[taken.name].shape, taken, where)
    if not any(leading.values()):
        return partial(_numbered, where, [arrays])
    counts = {name: arrays[name].shape[0] if axes else 1 for name, axes in leading.items()}
    if not all(leading.values()) or len(set(counts.values())) > 1:
        raise InputError(
            f"the arrays of {where} differ in their number of samples",
            why=", ".join(
                f"{name!r} has {counts[name]}" + ("" if axes else " without an axis of samples")
                for name, axes in leading.items()
            ),
            hint="give each the same leading axis of samples",
        )
    samples = next(iter(counts.values()))
    if not samples:
        raise InputError(
            f"no samples in {where}",
            why=f"{inputs[0].name!r} is {as_dims(arrays[inputs[0].name].shape)}",
            hint="give at least one sample",
        )
    rows = [{name: array[index] for name, array in arrays.items()} for index in range(samples)]
    return partial(_numbered, where, rows)


def _called(
    name: str, folder: str, call: Callable[[], Iterable[Mapping[str, Any]]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Samples of a function, which may import from ``folder``."""
    samples: Iterator[Any] | None = None
    for number in count(1):
        where = f"sample {number} of {name}"
        try:
            with _importing_from(folder):
                samples = iter(call()) if samples is None else samples
                sample = next(samples)
        except StopIteration:
            return
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{where} can't be made",
                why=f"{type(error).__name__}: {error}",
                hint="correct the function: it takes no arguments and yields dicts of arrays",
            ) from error
        if not isinstance(sample, Mapping):
            raise InputError(
                f"{where} is not a dict",
                why=f"the function yields {type(sample).__name__}",
                hint="yield one dict per sample, of an array for each input",
            )
        yield where, sample


def _open_function(data: str) -> Source:
    target, _, name = data.rpartition(":")
    is_file = target.endswith(".py")
    folder = str(Path(target).absolute().parent) if is_file else os.getcwd()
    try:
        with _importing_from(folder):
            module = _load(Path(target)) if is_file else importlib.import_module(target)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{data} can't be imported",
            why=f"{type(error).__name__}: {error}",
            hint=f"{_WAYS}; a module lies in this folder or is installed",
        ) from error
    call = getattr(module, name, None)
    if not callable(call):
        raise InputError(
            f"{data} is not a function",
            why=f"{target} has {'no' if call is None else 'another'} {name!r}",
            hint="name a function that takes no arguments and yields dicts of arrays",
        )
    return partial(_called, data, folder, call)


def _load(path: Path) -> Any:
    """Load a module from a file again, under a name of its own."""
    spec = importlib.util.spec_from_file_location(_MODULE.format(path.stem), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
