"""Simulated engines: as many blocks of any size as a test likes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from swapnet.manifest import Manifest
from swapnet.testing.engine import write_engine


@pytest.fixture(scope="session")
def simulated_manifest() -> Callable[..., Manifest]:
    """A chain of blocks with so many bytes of weights; some of them lookups."""

    def make(weights_bytes: Sequence[int], lookups: Sequence[int] = ()) -> Manifest:
        with TemporaryDirectory() as folder:
            manifest = write_engine(Path(folder), weights_bytes)
        blocks = tuple(
            msgspec.structs.replace(block, kind="lookup") if block.index in lookups else block
            for block in manifest.blocks
        )
        return msgspec.structs.replace(manifest, blocks=blocks)

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for what other threads do; a condition that stays false fails the test."""

    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if condition():
                return
            time.sleep(0.001)
        pytest.fail("it never happened")

    return wait
