"""Engines whose weights were packed for another processor: packed again, in a child process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from swapnet.errors import SwapnetError
from swapnet.executor.engine import Engine
from swapnet.fingerprint import kernel_fingerprint
from swapnet.process.child import ask

__all__ = ["Job", "ensure_packed"]

_MODULE = "swapnet.builder.repack"
"""Executing processes import no builder, and no onnx."""


class Job(msgspec.Struct, frozen=True):
    """Engine directory to pack again."""

    folder: str


def ensure_packed(engine: Engine, say: Callable[[str], None]) -> Engine:
    """The engine, packed again where its windows are of other kernels or pages.

    Where that fails, or the folder can't be written, the engine stays as it is. ONNX Runtime
    compares what it packs, and refuses what differs.

    Parameters
    ----------
    engine
        Engine at any shapes; one that was packed again is at those of its build.
    say
        Called with one line when weights are packed, and with one where they can't be.
    """
    packed_for = engine.built.compiled.kernels
    if not packed_for or packed_for == (here := kernel_fingerprint()):
        return engine
    other = f"{engine.folder}: its weights are packed for {packed_for}, here is {here}"
    if not os.access(Path(os.path.realpath(engine.folder)).parent, os.W_OK):
        say(f"{other}; they can't be packed again, because the folder can't be written")
        return engine
    say(f"{other}: packing them again …")
    try:
        ask(_MODULE, Job(str(engine.folder)), None, verb="packs weights again")
    except SwapnetError as error:
        say(f"{engine.folder}: not packed again: {error.what}: {error.why}")
        return engine
    return Engine.open(engine.folder, device=engine.device)
