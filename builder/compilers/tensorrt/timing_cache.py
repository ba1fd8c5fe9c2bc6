"""Times of kernels that TensorRT measured, kept between builds in the user's cache folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import StorageError
from swapnet.files import cache_folder, make_folder, replacing

if TYPE_CHECKING:
    import tensorrt

__all__ = ["timing_cache_path", "timing_cached"]


def timing_cache_path(version: str, gpu: str) -> Path:
    """``$SWAPNET_CACHE`` or ``~/.cache/swapnet``, ``timing/VERSION-GPU.cache``."""
    name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{version}-{gpu}")
    return cache_folder() / "timing" / f"{name}.cache"


@contextmanager
def timing_cached(config: tensorrt.IBuilderConfig, path: Path) -> Iterator[None]:
    """Give what ``path`` keeps to a configuration; keep what it knows when the block ends well.

    A cache of another GPU or version is not used, one that can't be written is not kept.
    """
    with suppress(OSError):
        _use(config, path.read_bytes())
    if config.get_timing_cache() is None:
        _use(config, b"")
    yield
    cache = config.get_timing_cache()
    data = cache.serialize() if cache is not None else None
    if data is not None:
        with suppress(StorageError):
            make_folder(path.parent)
            with replacing(path) as temporary:
                temporary.write_bytes(data)


def _use(config: tensorrt.IBuilderConfig, data: bytes) -> None:
    cache = config.create_timing_cache(data)
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
