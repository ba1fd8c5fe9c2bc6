"""How a child process fails: its own SwapnetError on the way to its parent, or its end."""

from __future__ import annotations

import signal

import msgspec

from swapnet import errors
from swapnet.errors import BackendError, BudgetError, SwapnetError

__all__ = ["Failed", "ProcessDied", "ProcessTimedOut", "failure_of", "raised"]

_AGAIN = "run it again; if it fails again, report it with this message"


class ProcessDied(BackendError):
    """A child process ended without an answer.

    Attributes
    ----------
    was_killed : bool
        By SIGKILL, as the kernel does where memory is short.
    """

    was_killed = False

    @staticmethod
    def of(who: str, status: int, said: str) -> ProcessDied:
        """The error of an exit status, as `subprocess` gives it, and of the last line it said."""
        if status >= 0:
            return ProcessDied(f"{who} ended with status {status}", why=said, hint=_AGAIN)
        is_memory = status == -signal.SIGKILL
        died = ProcessDied(
            f"{who} was killed by signal {-status} ({signal.strsignal(-status)})",
            why="likely out of memory" if is_memory else said,
            hint="free some memory, or give a smaller budget" if is_memory else _AGAIN,
        )
        died.was_killed = is_memory
        return died


class ProcessTimedOut(BackendError):
    """A child process gave no answer in time."""

    def __init__(self, who: str, patience_s: float) -> None:
        super().__init__(
            f"{who} is too slow",
            why=f"it gave no answer for {patience_s:g} s",
            hint="run it again when the machine is idle",
        )


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last answer: a SwapnetError, by the name of its class."""

    error: str
    what: str
    why: str
    hint: str
    smallest_bytes: int | None = None
    was_killed: bool = False


def failure_of(error: SwapnetError) -> Failed:
    """The answer for an error."""
    smallest = error.smallest_bytes if isinstance(error, BudgetError) else None
    killed = isinstance(error, ProcessDied) and error.was_killed
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    return Failed(kind, error.what, error.why, error.hint, smallest, killed)


def raised(failed: Failed) -> SwapnetError:
    """The error of an answer."""
    kind = _KINDS[failed.error]
    if issubclass(kind, BudgetError):
        return kind(
            failed.what, why=failed.why, hint=failed.hint, smallest_bytes=failed.smallest_bytes
        )
    error = kind(failed.what, why=failed.why, hint=failed.hint)
    if isinstance(error, ProcessDied):
        error.was_killed = failed.was_killed
    return error


_KINDS: dict[str, type[SwapnetError]] = {
    "ProcessDied": ProcessDied,
    **{name: getattr(errors, name) for name in errors.__all__},
}
