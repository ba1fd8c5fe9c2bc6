"""Bandwidth of storage while nothing else is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from swapnet.executor.pace import Pace
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent, Manifest

__all__ = ["idle_storage"]

_SAMPLE_BYTES = 64 << 20
_FLOW_S = 0.2


@contextmanager
def idle_storage(
    engines: Sequence[tuple[Path, Manifest]], *, pace: Pace | None = None
) -> Iterator[tuple[LoadMode, Callable[[], float]]]:
    """The way to read the largest engine's weights, and a measurement of it for a while.

    The latter gives bytes per second.
    """
    from swapnet.executor.probing.reader import BackgroundReader

    folder, manifest = max(engines, key=lambda engine: engine[1].weights_nbytes)
    with closing(WeightFile(folder / WEIGHTS, pace=pace)) as storage:
        reader = BackgroundReader(storage, _sample(manifest))
        yield (
            storage.mode,
            lambda: reader.flow(_FLOW_S) or reader.total_bytes / reader.once(),
        )


def _sample(manifest: Manifest) -> list[Extent]:
    extents: list[Extent] = []
    for block in manifest.blocks:
        if block.extent.nbytes and sum(extent.nbytes for extent in extents) < _SAMPLE_BYTES:
            extents.append(block.extent)
    return extents
