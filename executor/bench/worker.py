"""A worker process: ``python -m swapnet.executor.bench.worker``, requests in, rounds out.

The first line of standard input is a `Request`, each further one a number of inferences, a path
that outputs are written to, or ``details``; each is answered by one line of JSON. An error is
answered by a `Failed` and ends the process with status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from swapnet.arrays import save_npz
from swapnet.errors import SwapnetError
from swapnet.executor.bench.sides import Request, Side, open_side
from swapnet.process.failure import failure_of

__all__ = ["serve"]


def serve(open_side: Callable[[Request], Side]) -> int:
    """Answer requests until standard input ends.

    Parameters
    ----------
    open_side
        Opens the side that the first line asks for.

    Returns
    -------
    int
        Status to exit with.
    """
    try:
        side = open_side(msgspec.json.decode(sys.stdin.readline(), type=Request))
        _answer({"ready": True})
        for line in sys.stdin:
            command = line.strip()
            if command.isdigit():
                _answer(side.run(int(command)))
            elif command == "details":
                _answer(side.details())
            else:
                save_npz(Path(command), side.outputs())
                _answer({"written": command})
        side.close()
    except SwapnetError as error:
        _answer(failure_of(error))
        return 2
    return 0


def _answer(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(serve(open_side))
