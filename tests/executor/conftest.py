"""Simulated engines: as many blocks of any size as a test likes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from swapnet.manifest import Manifest
from swapnet.testing.engine import write_engine
from tests.helpers import threads


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
    """See `tests.helpers.threads.until`."""
    return threads.until
