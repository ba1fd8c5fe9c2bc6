"""Where the weights of a network come from: a seed, or a ``.safetensors`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import InputError, ModelError

__all__ = ["Weights"]


class Weights:
    """Gives the tensors of a network by name, one in memory at a time.

    Parameters
    ----------
    path
        A ``.safetensors`` file; None for seeded weights. Tensors in it that the network does not
        have are ignored.
    seed
        Of seeded weights, which are the same for the same seed and order of calls.

    Raises
    ------
    InputError
        There is no such file.
    ModelError
        It is not a safetensors file.
    """

    def __init__(self, path: Path | None = None, *, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._path = path
        self._file: Any = None if path is None else _open(path)

    def tensor(
        self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0
    ) -> NDArray[np.float32]:
        """Return one float32 tensor.

        Parameters
        ----------
        name, shape
            Of the tensor.
        deviation, mean
            Of its distribution where weights are seeded.

        Raises
        ------
        ModelError
            The file has no such tensor, or one of another shape.
        """
        if self._file is not None:
            return self._stored(name, shape)
        values = self._random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        return values

    def _stored(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in self._file.keys():  # noqa: SIM118 - not a mapping
            raise ModelError(
                f"{self._path} has no tensor named {name}",
                why=f"the network needs it, with shape {shape}",
                hint="Use the parameter names that swapnet.models documents.",
            )
        found = tuple(self._file.get_slice(name).get_shape())
        if found != shape:
            raise ModelError(
                f"{self._path}: {name} is not of the shape that the network needs",
                why=f"the file has {found}, the network needs {shape}",
                hint="Use weights of the same architecture and number of classes.",
            )
        return np.asarray(self._file.get_tensor(name), np.float32)


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="Give the path of a .safetensors file.")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a safetensors file",
            why=str(error),
            hint="Convert the weights with safetensors.torch.save_file.",
        ) from error
