"""A worker process, ``python -m swapnet.executor.bench.worker``: requests in, rounds out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from swapnet.arrays import save_npz
from swapnet.executor.bench.sides import Request, Side, open_side
from swapnet.process.serve import Parent, serve

__all__ = ["Command", "Details", "Run", "Save", "serve_side"]


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run inferences, after one that does not count; answered by a `Round`."""

    count: int


class Save(msgspec.Struct, frozen=True, tag=True):
    """Write the outputs of the latest inference to an ``.npz``; answered by its path."""

    path: str


class Details(msgspec.Struct, frozen=True, tag=True):
    """Give facts for the report; answered by any JSON."""


Command = Run | Save | Details


def serve_side(open_side: Callable[[Request], Side]) -> int:
    """Serve one side to the parent of this process; returns the exit status.

    Parameters
    ----------
    open_side
        Opens the side of a request; the request is answered when the side is open.
    """

    def work(parent: Parent) -> None:
        side = open_side(parent.job(Request))
        parent.answer("ready")
        for command in parent.commands(Command):
            if isinstance(command, Run):
                parent.answer(side.run(command.count))
            elif isinstance(command, Details):
                parent.answer(side.details())
            else:
                save_npz(Path(command.path), side.outputs())
                parent.answer(command.path)
        side.close()

    return serve(work)


if __name__ == "__main__":
    sys.exit(serve_side(open_side))
