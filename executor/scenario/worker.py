"""A worker process: ``python -m swapnet.executor.scenario.worker``, rounds in, latencies out.

The first line of standard input is a `Job`, each further one a `Command`; each is answered by a
`Reply`, before which outputs may come that are new to the parent: an `Output` and then the bytes of
its arrays. An error is answered by a `Failed` and ends the process with status 2.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import msgspec

from swapnet.arrays import Array
from swapnet.errors import SwapnetError
from swapnet.executor.scenario.load_generator import LoadGenerator, open_generator
from swapnet.executor.scenario.messages import Alone, Command, Job, Turn
from swapnet.executor.scenario.output_digests import raw
from swapnet.process.failure import failure_of

__all__ = ["main"]


def main() -> int:
    """Serve until standard input ends; the exit status."""
    turn = threading.Lock()
    parent = sys.stdout.buffer

    def say(message: msgspec.Struct, arrays: Sequence[Array] = ()) -> None:
        with turn:
            parent.write(msgspec.json.encode(message) + b"\n")
            for array in arrays:
                parent.write(raw(array))
            parent.flush()

    try:
        job = msgspec.json.decode(sys.stdin.readline(), type=Job)
        generator = open_generator(job, say)
        say(generator.ready())
        for line in sys.stdin:
            say(_done(generator, msgspec.json.decode(line, type=Command)))
    except SwapnetError as error:
        say(failure_of(error))
        return 2
    return 0


def _done(generator: LoadGenerator, command: Command) -> msgspec.Struct:
    if isinstance(command, Alone):
        return generator.alone(command)
    if isinstance(command, Turn):
        return generator.turn(command)
    ready = generator.ready()
    generator.close()
    return ready


if __name__ == "__main__":
    sys.exit(main())
