"""A camera loop with a deadline: the network gets the newest frame, and late answers are counted.

    python examples/camera.py engines/mobilenet_v2 --budget weights:50% --rate 20 --deadline-ms 80

A camera does not wait. While one frame is in the network the next ones replace each other. So a
slow inference costs frames, and delays do not add up. The frames are random here: read yours from
the camera in `camera`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import swapnet


def camera(
    shape: tuple[int, ...], rate_hz: float, seconds: float
) -> Iterator[tuple[int, float, NDArray[Any]]]:
    """The number of the newest frame, the time when it was taken, and its pixels."""
    random, start, number = np.random.default_rng(0), time.perf_counter(), -1
    last = int(rate_hz * seconds) - 1
    while number < last:
        number = min(max(number + 1, int((time.perf_counter() - start) * rate_hz)), last)
        taken = start + number / rate_hz
        time.sleep(max(0.0, taken - time.perf_counter()))
        yield number, taken, random.random(shape)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", help="engine directory of a model with one input")
    parser.add_argument("--budget", default="weights:50%")
    parser.add_argument("--rate", type=float, default=20.0, help="frames per second")
    parser.add_argument("--deadline-ms", type=float, default=80.0, help="largest age of an answer")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()

    ages_ms = {}
    with swapnet.SwapExecutor(arguments.engine, arguments.budget) as executor:
        ((name, shape),) = executor.manifest.planned_shapes.items()
        for number, taken, frame in camera(shape, arguments.rate, arguments.seconds):
            executor({name: frame.astype(executor.manifest.inputs[0].dtype)})
            ages_ms[number] = (time.perf_counter() - taken) * 1e3

    ages = np.array([*ages_ms.values()])
    late = np.count_nonzero(ages > arguments.deadline_ms)
    print(f"{len(ages)} of {max(ages_ms) + 1} frames answered, {late} of them late")
    print(f"age of an answer: median {np.median(ages):.1f} ms, oldest {max(ages):.1f} ms")


if __name__ == "__main__":
    main()
