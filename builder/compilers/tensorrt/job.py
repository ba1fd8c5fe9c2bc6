"""One block to compile, described so that a process of its own can do it."""

from __future__ import annotations

import msgspec

__all__ = ["Job", "Profile"]


class Profile(msgspec.Struct, frozen=True):
    """Shapes that an input may have: the smallest, the planned one, and the largest."""

    smallest: tuple[int, ...]
    planned: tuple[int, ...]
    largest: tuple[int, ...]


class Job(msgspec.Struct, frozen=True):
    """Task of `compile_engine`.

    Attributes
    ----------
    title
        Name of the block, for messages.
    model, engine
        Paths of the block's ONNX model, and of the engine to write.
    external
        Weights are inputs.
    profiles
        Shapes by input of symbolic shape.
    targets, hardware_compatibility, version_compatible, builder_optimization_level
        As in `TensorRTOptions`.
    workspace_bytes, tactic_bytes
        As in `Limits`; None for no limit.
    timing_cache
        Path of the file that keeps times of kernels; None if the library keeps none.
    """

    backend: str
    title: str
    model: str
    engine: str
    external: bool
    profiles: dict[str, Profile]
    workspace_bytes: int | None
    tactic_bytes: int | None = None
    targets: tuple[str, ...] = ()
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    builder_optimization_level: int | None = None
    timing_cache: str | None = None
