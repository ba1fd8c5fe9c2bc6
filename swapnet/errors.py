"""The errors that SwapNet raises on purpose.

::

    SwapnetError
    ├── ModelError                 the ONNX model can't be read, cut or compiled
    ├── InputError                 an argument or a tensor is invalid
    ├── BudgetError                the budget can't be met
    ├── EngineError                the engine directory is damaged or built for something else
    ├── StorageError               reading or writing failed
    └── BackendError               the runtime library refused
        └── BackendUnavailableError    the runtime library is missing

Each message says what happened, why (with both numbers where two disagree), and what to do.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BudgetError",
    "EngineError",
    "InputError",
    "ModelError",
    "StorageError",
    "SwapnetError",
]


class SwapnetError(Exception):
    """Base of SwapNet's errors.

    Parameters
    ----------
    what
        The failure, in one line.
    why
        The reason, with both numbers where two of them disagree.
    hint
        Advice to the user about this cause.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.hint) if part)


class ModelError(SwapnetError):
    """The ONNX model can't be read, cut or compiled."""


class InputError(SwapnetError):
    """An argument or a tensor is invalid."""


class BudgetError(SwapnetError):
    """The budget can't be met.

    Attributes
    ----------
    smallest_bytes : int or None
        The smallest budget that works, where it is known.
    missing_bytes : int
        Bytes that ONNX Runtime's arena lacked for one value at least; 0 in other cases.
    """

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        smallest_bytes: int | None = None,
        missing_bytes: int = 0,
    ) -> None:
        super().__init__(what, why=why, hint=hint)
        self.smallest_bytes = smallest_bytes
        self.missing_bytes = missing_bytes


class EngineError(SwapnetError):
    """The engine directory is damaged or built for something else."""


class StorageError(SwapnetError):
    """Reading or writing failed."""


class BackendError(SwapnetError):
    """The runtime library refused."""


class BackendUnavailableError(BackendError):
    """The runtime library is missing; the hint says what to install."""
