"""Measure the memory of blocks beside their weights, by running them in a child process.

The process runs every block of an engine directory once, in order, on the samples that the engine
keeps, or on seeded inputs of the planned shapes or of others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from swapnet.errors import ModelError, SwapnetError
from swapnet.executor.state import Cache
from swapnet.process.cgroup import is_available
from swapnet.process.child import ask
from swapnet.process.failure import ProcessDied
from swapnet.shapes import SessionMemory
from swapnet.strips import Striping

__all__ = ["MODULE", "Measurement", "measure"]

_LOGGER = logging.getLogger("swapnet")

MODULE = "swapnet.executor.probing.worker"


class Job(msgspec.Struct, frozen=True):
    """Engine to measure.

    Attributes
    ----------
    folder
        Engine directory.
    shapes
        Shapes of all inputs; empty for those of the build.
    cache
        What the executor keeps between inferences; None for nothing.
    limited
        Run the smallest plan under the kernel's limit at last.
    """

    folder: str
    shapes: dict[str, tuple[int, ...]] = {}
    cache: Cache | None = None
    limited: bool = False


class Measurement(msgspec.Struct, frozen=True):
    """Measured memory of blocks.

    Attributes
    ----------
    activation_bytes
        Peak of ONNX Runtime's arena while each block ran.
    session_memory
        Memory of all sessions.
    nbytes
        Size of each input, output and value of symbolic shape.
    stripings
        Ways to execute blocks in strips that gave the same bits, each with less memory than the one
        before.
    unconfirmed
        Sentence about a smallest plan that did not run to its end under the kernel's limit.
    """

    activation_bytes: tuple[int, ...]
    session_memory: SessionMemory
    nbytes: dict[str, int]
    stripings: tuple[Striping, ...] = ()
    unconfirmed: str = ""


def measure(
    folder: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    cache: Cache | None = None,
) -> Measurement:
    """Run the blocks of ``folder`` in a child process.

    At last the smallest plan runs under its own number, by the kernel's limit where there is one.

    Parameters
    ----------
    folder
        Engine directory.
    shapes
        Shapes of all inputs; by default those of the build.
    cache
        What the executor keeps between inferences of a decoder, at these shapes.

    Raises
    ------
    ModelError
        A block does not run on seeded inputs, or the child fails.
    ProcessDied
        The child was killed.
    """
    sizes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    job = Job(str(folder), sizes, cache, is_available())
    try:
        found: Measurement = ask(MODULE, job, Measurement, verb="measures blocks")
    except ProcessDied as error:
        if error.was_killed:
            raise
        raise ModelError(
            "the blocks can't be measured", why=f"{error.what}: {error.why}", hint=error.hint
        ) from error
    except SwapnetError as error:
        raise ModelError(
            "the blocks do not run on seeded inputs",
            why=" ".join(f"{error.what}: {error.why}".splitlines()),
            hint="give inputs that the model runs on: swapnet "
            f"{f'measure {folder}' if shapes else 'build MODEL.onnx'} --data inputs.npz, or the "
            "shapes that it is used with: --shapes name:1x3x224x224",
        ) from error
    if found.unconfirmed:
        _LOGGER.warning(
            "the smallest budget is not confirmed under the kernel's limit: %s", found.unconfirmed
        )
    return found
