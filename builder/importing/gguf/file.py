"""A GGUF file: its values by key and its tensors, mapped."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from swapnet.errors import BackendUnavailableError, ModelError

if TYPE_CHECKING:
    from gguf import ReaderTensor

__all__ = ["GGUF", "is_gguf", "missing"]

V = TypeVar("V")


def is_gguf(path: Path) -> bool:
    """Whether a file is one of llama.cpp, by its name or its first bytes."""
    if path.is_file():
        with suppress(OSError), path.open("rb") as file:
            return path.suffix.lower() == ".gguf" or file.read(4) == b"GGUF"
    return False


class GGUF:
    """An open GGUF file, read by the package `gguf`: ``tensors`` by name, their data mapped.

    Raises
    ------
    ModelError
        The file is damaged, cut short, or has tensors of a type that the package does not know.
    BackendUnavailableError
        The package is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise missing("gguf", error) from error

        class Reader(GGUFReader):
            """Keeps plain arrays: those of ``numpy.memmap`` take four times the memory."""

            def _get(self, *args: Any, **keywords: Any) -> Any:
                self.data: Any = np.asarray(self.data)
                return super()._get(*args, **keywords)

        self.path = path
        if not path.is_file():
            why = "it is a folder" if path.is_dir() else "there is no such file"
            raise self.refusal(why, "give the path of a .gguf file")
        try:
            reader = Reader(path)
        except (ValueError, KeyError, IndexError, OverflowError, OSError) as error:
            raise self.refusal(
                f"it is damaged, cut short, or has tensors of an unknown type: {error}",
                "fetch it again, or another file of this model, such as its Q4_0 or Q8_0",
            ) from error
        self._fields = reader.fields
        self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.value("general.architecture", str)

    def value(self, key: str, kind: type[V], default: V | None = None) -> V:
        """A value by its key; a `ModelError` without one and a default, or of another kind."""
        try:
            found = self._fields[key].contents() if key in self._fields else default
        except UnicodeDecodeError as error:
            raise self.refusal(f"its {key} is damaged: {error}", "fetch it again") from error
        if not isinstance(found, kind):
            raise self.refusal(f"its {key} is {found!r:.40}, not of the type {kind.__name__}")
        return found

    def size(self, key: str, default: int | None = None) -> int:
        """A size of the network, such as ``block_count``; raises as `value`, and for 0."""
        found = self.value(key := f"{self.architecture}.{key}", int, default)
        if found < 1:
            raise self.refusal(f"its {key} is {found}, which must be at least 1")
        return found

    def refusal(self, why: str, hint: str = "") -> ModelError:
        """The error for a file that can't be imported."""
        return ModelError(
            f"{self.path} can't be imported",
            why=why,
            hint=hint or "convert the model again with llama.cpp's convert_hf_to_gguf.py",
        )


def missing(package: str, error: ImportError) -> BackendUnavailableError:
    """The error for a package of the extra that is not installed."""
    return BackendUnavailableError(
        f"{package} is not installed", why=str(error), hint="pip install 'swapnet-trt[gguf]'"
    )
