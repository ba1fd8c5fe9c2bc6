"""A SwapnetError on its way from a child process to its parent."""

from __future__ import annotations

import msgspec

from swapnet import errors
from swapnet.errors import BudgetError, SwapnetError

__all__ = ["Failed", "failure_of", "raised"]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last answer: a SwapnetError, by the name of its class."""

    error: str
    what: str
    why: str
    hint: str
    smallest_bytes: int | None = None


def failure_of(error: SwapnetError) -> Failed:
    """The answer for an error."""
    smallest = error.smallest_bytes if isinstance(error, BudgetError) else None
    kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
    return Failed(kind, error.what, error.why, error.hint, smallest)


def raised(failed: Failed) -> SwapnetError:
    """The error of an answer."""
    kind: type[SwapnetError] = getattr(errors, failed.error)
    if issubclass(kind, BudgetError):
        return kind(
            failed.what, why=failed.why, hint=failed.hint, smallest_bytes=failed.smallest_bytes
        )
    return kind(failed.what, why=failed.why, hint=failed.hint)
