"""Where the weights of a network come from: a seed, or tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import InputError, ModelError

__all__ = ["Weights", "missing_weights"]

Load = Callable[[], NDArray[np.generic]]
"""Reads one tensor."""


class Weights:
    """Gives the tensors of a network by name, one in memory at a time.

    Parameters
    ----------
    stored
        A ``.safetensors`` file, or arrays by name; None for seeded weights. Further tensors in it
        are ignored.
    seed
        Seed of the weights, which are the same for the same seed and order of calls.

    Raises
    ------
    InputError
        There is no such file.
    ModelError
        The file is of another kind.
    """

    def __init__(
        self, stored: Path | Mapping[str, NDArray[np.generic]] | None = None, *, seed: int = 0
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._source = stored if isinstance(stored, Path) else "the published file"
        self._is_seeded = stored is None
        self._stored = (
            _read(stored)
            if isinstance(stored, Path)
            else {name: partial(np.asarray, array) for name, array in (stored or {}).items()}
        )

    def tensor(
        self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0
    ) -> NDArray[np.float32]:
        """Return one float32 tensor; `deviation` and `mean` are those of seeded weights.

        Raises
        ------
        ModelError
            There is no such tensor, or one of another shape.
        """
        if not self._is_seeded:
            return self._found(name, shape)
        values = self._random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        return values

    def _found(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in self._stored:
            raise ModelError(
                f"{self._source} has no tensor named {name}",
                why=f"the network needs it, with shape {shape}",
                hint="use the parameter names that swapnet.models documents",
            )
        values = self._stored[name]()
        if values.shape != shape:
            raise ModelError(
                f"{self._source}: {name} has the wrong shape",
                why=f"the file has {values.shape}, the network needs {shape}",
                hint="use weights of the same architecture and number of classes",
            )
        return np.asarray(values, np.float32)


def _read(path: Path) -> dict[str, Load]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise missing_weights(path)
    try:
        file: Any = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a safetensors file",
            why=str(error),
            hint="convert the weights with safetensors.torch.save_file",
        ) from error
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118


def missing_weights(path: Path) -> InputError:
    """The error for weights that are not a file."""
    return InputError(
        f"{path} does not exist", why="it is not a file", hint="give a .safetensors file"
    )
