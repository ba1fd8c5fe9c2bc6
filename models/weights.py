"""Where the weights of a network come from: a seed, or a file of tensors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import InputError, ModelError
from swapnet.models.checkpoint import Checkpoint, is_checkpoint

__all__ = ["Weights", "missing_weights"]


class Weights:
    """Gives the tensors of a network by name, one in memory at a time.

    Parameters
    ----------
    path
        A ``.safetensors`` file or a PyTorch checkpoint; None for seeded weights. Further tensors in
        it are ignored.
    seed
        Seed of the weights, which are the same for the same seed and order of calls.

    Raises
    ------
    InputError
        There is no such file.
    ModelError
        The file is neither.
    """

    def __init__(self, path: Path | None = None, *, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._path = path
        self._file = None if path is None else _open(path)

    def tensor(
        self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0
    ) -> NDArray[np.float32]:
        """Return one float32 tensor; `deviation` and `mean` are those of seeded weights.

        Raises
        ------
        ModelError
            The file has no such tensor, or one of another shape.
        """
        if self._file is not None:
            return self._stored(self._file, name, shape)
        values = self._random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        return values

    def _stored(self, file: _Tensors, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in file.names:
            raise ModelError(
                f"{self._path} has no tensor named {name}",
                why=f"the network needs it, with shape {shape}",
                hint="use the parameter names that swapnet.models documents",
            )
        found = file.shape(name)
        if found != shape:
            raise ModelError(
                f"{self._path}: {name} has the wrong shape",
                why=f"the file has {found}, the network needs {shape}",
                hint="use weights of the same architecture and number of classes",
            )
        return np.asarray(file.tensor(name), np.float32)


class _Tensors(Protocol):
    """A file of tensors by name."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def tensor(self, name: str) -> NDArray[np.generic]: ...


class _Safetensors:
    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise ModelError(
                f"{path} is not a safetensors file, nor a PyTorch checkpoint",
                why=str(error),
                hint="convert the weights with safetensors.torch.save_file",
            ) from error
        self._file = file
        self.names = tuple(file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def tensor(self, name: str) -> NDArray[np.generic]:
        values: NDArray[np.generic] = self._file.get_tensor(name)
        return values


def missing_weights(path: Path) -> InputError:
    """The error for weights that are not a file."""
    return InputError(
        f"{path} does not exist",
        why="it is not a file",
        hint="give the path of a .safetensors file or a PyTorch checkpoint",
    )


def _open(path: Path) -> _Tensors:
    if not path.is_file():
        raise missing_weights(path)
    return Checkpoint(path) if is_checkpoint(path) else _Safetensors(path)
