"""A fork leaves threads behind: what was opened before it does not work in the child."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, ClassVar

from swapnet.errors import BackendError

__all__ = ["Birthplace"]


class Birthplace:
    """The process that something was opened in.

    Parameters
    ----------
    what
        What was opened, for messages: ``"executor"``.
    """

    _forks: ClassVar[int] = 0
    _kept: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()
        self._forks_before = self._forks

    @property
    def is_behind(self) -> bool:
        """Whether this process was forked from the one that it was opened in."""
        return self._forks_before != self._forks

    def check(self) -> None:
        """Refuse what needs threads, or a lock that one of them may have held at the fork.

        Raises
        ------
        BackendError
            This process was forked from the one that it was opened in.
        """
        if self.is_behind:
            raise BackendError(
                f"the {self._what} can't be used in a forked process",
                why=f"it was opened in process {self._pid}, whose threads are not in process "
                f"{os.getpid()}",
                hint="open it in the child, after the fork, or start the child with spawn",
            )

    def keep(self, opened: object) -> None:
        """Never destroy something in a forked child: ONNX Runtime would wait for its threads."""
        self._kept.add(opened)

    @classmethod
    def note_fork(cls) -> None:
        """Called in each forked child."""
        cls._forks += 1
        for opened in cls._kept:
            # A list that holds them would be emptied when the interpreter ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened))
        cls._kept.clear()


os.register_at_fork(after_in_child=Birthplace.note_fork)
