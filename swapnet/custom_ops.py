"""Custom operators of ONNX Runtime: libraries that the user names, for this process.

A library is code that is trusted, so no engine directory names one: it is given to each process
that builds or executes. Children of ours get it from their parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swapnet.errors import InputError

__all__ = ["custom_ops", "register_custom_ops", "use_custom_ops"]

_LIBRARIES: dict[str, None] = {}


def use_custom_ops(*libraries: str | Path) -> None:
    """Have all sessions of this process know the operators of libraries, from now on.

    Parameters
    ----------
    libraries
        Shared libraries with ONNX Runtime's entry point ``RegisterCustomOps``. They are executed as
        part of this process, and the memory that they take is beside any budget.

    Raises
    ------
    InputError
        There is no such file.
    """
    for library in map(Path, libraries):
        if not library.is_file():
            raise InputError(
                f"{library} is no library of custom operators",
                why="there is no such file",
                hint="give the path of a shared library, such as libmyops.so",
            )
        _LIBRARIES[str(library.absolute())] = None


def custom_ops() -> tuple[str, ...]:
    """The libraries that are in use."""
    return tuple(_LIBRARIES)


def register_custom_ops(options: Any) -> None:
    """Register the libraries in use with options of a session.

    Raises
    ------
    InputError
        ONNX Runtime can't load one.
    """
    for library in _LIBRARIES:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # a class of ONNX Runtime's own
            raise InputError(
                f"custom operators can't be loaded from {library}",
                why=str(error).strip().splitlines()[0],
                hint="give a library that is made for this processor and this ONNX Runtime",
            ) from error
