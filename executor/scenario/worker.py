"""A worker process: ``python -m swapnet.executor.scenario.worker``, rounds in, latencies out.

The first line of standard input is a `Job`, each further one a `Command`; each is answered by a
`Reply`, before which outputs may come that are new to the parent. An error is answered by a
`Failed` and ends the process with status 2.
"""

from __future__ import annotations

import sys
import threading

import msgspec

from swapnet.errors import SwapnetError
from swapnet.executor.scenario.messages import Alone, Command, Job, Turn
from swapnet.executor.scenario.side import Side, open_side
from swapnet.process.failure import failure_of

__all__ = ["main"]


def main() -> int:
    """Serve until standard input ends; the exit status."""
    turn = threading.Lock()

    def say(value: msgspec.Struct) -> None:
        with turn:
            sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
            sys.stdout.flush()

    try:
        side = open_side(msgspec.json.decode(sys.stdin.readline(), type=Job), say)
        say(side.ready())
        for line in sys.stdin:
            say(_done(side, msgspec.json.decode(line, type=Command)))
    except SwapnetError as error:
        say(failure_of(error))
        return 2
    return 0


def _done(side: Side, command: Command) -> msgspec.Struct:
    if isinstance(command, Alone):
        return side.alone(command)
    if isinstance(command, Turn):
        return side.turn(command)
    ready = side.ready()
    side.close()
    return ready


if __name__ == "__main__":
    sys.exit(main())
