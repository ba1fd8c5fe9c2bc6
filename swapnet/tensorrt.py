"""TensorRT and TensorRT-RTX: loaded when they are asked for, and their logs.

Both have nearly the same Python API. They report failures by lines in the log and return None or
False, and hardly ever raise: listen while you call them.

    with listening("tensorrt-rtx") as log:
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelError("…", why=log.reason())

Annotations name the classes of both as those of ``tensorrt``, and the module ``tensorrt.Module``.
They are ``Any`` to mypy, except in ``tests/contract``, which checks the code with stubs of each
version.
"""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from swapnet.errors import BackendUnavailableError
from swapnet.machine import BOARD

if TYPE_CHECKING:
    import tensorrt

__all__ = [
    "TENSORRT",
    "Log",
    "Severity",
    "how_to_install",
    "interrupts_deferred",
    "listening",
    "load_tensorrt",
    "logger",
    "version",
]

TENSORRT = ("tensorrt", "tensorrt-rtx")
"""Backends of the two libraries."""


@dataclass(frozen=True)
class _Library:
    """Title of a library, and modules to try in order."""

    title: str
    modules: Sequence[str]


_LIBRARIES = {
    "tensorrt": _Library("TensorRT", ("tensorrt",)),
    "tensorrt-rtx": _Library("TensorRT-RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings")),
}


def how_to_install(backend: str) -> str:
    """Hint for a backend without its library on this machine."""
    machine = platform.machine()
    refused = ""
    if machine not in ("x86_64", "aarch64"):
        refused = f"NVIDIA has no package of TensorRT-RTX for {machine}; use another backend"
    elif BOARD.exists() and "Jetson" in BOARD.read_text():
        refused = "TensorRT-RTX is not for a Jetson; use --backend tensorrt"
    if backend == "tensorrt-rtx":
        return refused or "install it: pip install 'swapnet-trt[rtx]'"
    here = "install it: pip install 'swapnet-trt[tensorrt]' with NVIDIA's package index, or use "
    return f"{here}JetPack's" + ("" if refused else "; --backend tensorrt-rtx is on PyPI")


class Severity(IntEnum):
    """Severity of a line in the log, as both libraries number it."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


@dataclass(eq=False)
class Log:
    """Severity and text of each line that a library logged, in order; verbose ones are not kept."""

    lines: list[tuple[Severity, str]] = field(default_factory=list)

    def add(self, severity: Severity, text: str) -> None:
        """Keep a text, on one line, unless it is verbose."""
        if severity <= Severity.INFO:
            self.lines.append((severity, " ".join(text.split())))

    def texts(self, severity: Severity) -> list[str]:
        """All lines at least as severe, each once."""
        return list(dict.fromkeys(text for kind, text in self.lines if kind <= severity))

    def reason(self, otherwise: str = "the library gives no reason") -> str:
        """The errors on one line, or ``otherwise`` where there are none."""
        return "; ".join(self.texts(Severity.ERROR)) or otherwise


_listeners: dict[str, list[Log]] = {backend: [] for backend in TENSORRT}


@cache
def load_tensorrt(backend: str) -> tensorrt.Module:
    """The module of a backend, one of `TENSORRT`.

    Raises
    ------
    BackendUnavailableError
        It is missing, or can't be loaded; the hint says how to install it.
    """
    library = _LIBRARIES[backend]
    reasons: list[str] = []
    for name in library.modules:
        try:
            return cast("tensorrt.Module", import_module(name))
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise BackendUnavailableError(
        f"{library.title} can't be loaded", why="; ".join(reasons), hint=how_to_install(backend)
    )


def version(backend: str) -> str:
    """The exact version of the library, such as ``1.7.1.116``.

    Raises
    ------
    BackendUnavailableError
        It can't be loaded.
    """
    return str(load_tensorrt(backend).__version__)


@cache
def logger(backend: str) -> tensorrt.ILogger:
    """The logger of the process: a library keeps the first that it is given.

    Its lines go to all that are `listening`.

    Raises
    ------
    BackendUnavailableError
        The library can't be loaded.
    """
    trt: tensorrt.Module = load_tensorrt(backend)
    listeners = _listeners[backend]

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, text: str) -> None:
            for listener in tuple(listeners):
                listener.add(Severity(int(severity)), text)

    return Logger()


@contextmanager
def listening(backend: str) -> Iterator[Log]:
    """The lines that the library of a backend logs meanwhile, in any thread."""
    log = Log()
    _listeners[backend].append(log)
    try:
        yield log
    finally:
        _listeners[backend].remove(log)


@contextmanager
def interrupts_deferred() -> Iterator[threading.Event]:
    """Defer Ctrl-C to the end of the ``with`` block, and note it inside.

    Raised in a library's callback into Python it would be printed and lost.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
        if noted.is_set():
            signal.raise_signal(signal.SIGINT)
