"""The child process of `compile_in_child`.

``python -m swapnet.builder.compilers.tensorrt.worker`` reads a `Job` as JSON from standard input,
and writes a `Step` for each step of the builder and an `End` or a `Refusal` to standard output, one
a line.
"""

from __future__ import annotations

import os
import sys

import msgspec

from swapnet.builder.compilers.tensorrt.child import End, Refusal, Step
from swapnet.builder.compilers.tensorrt.engine import compile_engine
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.errors import SwapnetError


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what libraries print

    def say(what: Step | End | Refusal) -> None:
        channel.write(msgspec.json.encode(what).decode() + "\n")
        channel.flush()

    def report(done: int, total: int) -> None:
        say(Step(done, total))

    try:
        say(End(compile_engine(job, report)))
    except SwapnetError as error:
        say(Refusal(type(error).__name__, error.what, error.why, error.hint))


if __name__ == "__main__":
    main()
