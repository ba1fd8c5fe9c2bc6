"""A worker process: ``python -m swapnet.executor.scenario.worker``, rounds in, latencies out.

The first line of standard input is a `Job`, each further one a `Command`; each is answered by a
`Reply`, before which outputs may come that are new to the parent: an `Output` and then the bytes of
its arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from swapnet.arrays import Array
from swapnet.executor.scenario.load_generator import LoadGenerator, open_generator
from swapnet.executor.scenario.messages import Alone, Command, Job, Ready, Round
from swapnet.executor.scenario.output_digests import raw
from swapnet.process.serve import Parent, serve

__all__ = ["work"]


def work(parent: Parent) -> None:
    """Load what the parent asks for, and run rounds until it has enough."""

    def say(message: msgspec.Struct, arrays: Sequence[Array] = ()) -> None:
        parent.answer(message, list(map(raw, arrays)))

    generator = open_generator(parent.job(Job), say)
    say(Ready())
    for command in parent.commands(Command):
        say(_done(generator, command))


def _done(generator: LoadGenerator, command: Command) -> msgspec.Struct:
    if isinstance(command, Alone):
        return generator.alone(command)
    if isinstance(command, Round):
        return generator.round(command)
    return generator.close(command.trace)


if __name__ == "__main__":
    sys.exit(serve(work))
