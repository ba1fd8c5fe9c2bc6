"""Loads and unloads one engine many times beside another that is asked; run as a program.

    python -m tests.helpers.cycles CYCLED ASKED FIRST LAST

Writes what the process uses after the first and the last of so many cycles, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.inputs import planned_sample
from tests.helpers.threads import started

__all__ = ["Used", "settled", "used"]

_LIMIT_S = 240.0

_BETWEEN_LOOKS_S = 0.02


class Used(TypedDict):
    """Of a process."""

    resident_bytes: int
    threads: int
    descriptors: int


def used() -> Used:
    """What this process uses now."""
    status = Path("/proc/self/status").read_text()
    resident = re.search(r"RssAnon:\s+(\d+) kB", status)
    threads = re.search(r"Threads:\s+(\d+)", status)
    assert resident is not None
    assert threads is not None
    return Used(
        resident_bytes=int(resident[1]) << 10,
        threads=int(threads[1]),
        descriptors=len(os.listdir("/proc/self/fd")),
    )


def settled(looks: int = 50) -> Used:
    """The least of each of what it uses, looked at so often in a second or less.

    The kernel counts a thread for a moment after it was joined, and threads that read what becomes
    resident come and go with every new plan.
    """
    seen = []
    for _ in range(looks):
        seen.append(used())
        time.sleep(_BETWEEN_LOOKS_S)
    return Used(
        resident_bytes=min(use["resident_bytes"] for use in seen),
        threads=min(use["threads"] for use in seen),
        descriptors=min(use["descriptors"] for use in seen),
    )


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether outputs are equal to the last bit."""
    return all(one[name].tobytes() == np.asarray(other[name]).tobytes() for name in one)


def main(cycled: str, asked: str, first: int, last: int) -> None:
    with SwapRuntime("64MiB") as runtime:
        other = runtime.load(asked, name="asked")
        feeds = planned_sample(other.executor.manifest)
        expected = other.submit(feeds).result(_LIMIT_S)
        enough = threading.Event()

        def ask() -> int:
            count = 0
            while not enough.is_set():
                assert same(other.submit(feeds).result(_LIMIT_S), expected)
                count += 1
            return count

        def cycle() -> None:
            with runtime.load(cycled, name="cycled") as model:
                answer(model)

        def answer(model: RuntimeModel) -> None:
            outputs = model.submit(planned_sample(model.executor.manifest)).result(_LIMIT_S)
            assert same(outputs, answers.setdefault("cycled", outputs))

        answers: dict[str, dict[str, Any]] = {}
        asking = started(ask)
        found: list[Used] = []
        for count in range(1, last + 1):
            cycle()
            if count in (first, last):
                gc.collect()
                found.append(settled())
        enough.set()
        assert asking.result(_LIMIT_S) > last
        assert other.stats.failures == 0
        assert other.stats.requests == other.stats.inferences
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))  # type: ignore[arg-type]
