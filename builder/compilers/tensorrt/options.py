"""Choices of a user for TensorRT, and the libraries that know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from swapnet.errors import InputError
from swapnet.tensorrt import load_tensorrt

__all__ = ["HARDWARE_COMPATIBILITY", "WEIGHTS", "TensorRTOptions"]

WEIGHTS = ("auto", "embedded", "external")

HARDWARE_COMPATIBILITY = ("none", "ampere+", "same-compute-capability")

_LEVELS = range(6)

_ONLY_TENSORRT = {
    "hardware_compatibility": "its engines run on the GPUs that --target names",
    "version_compatible": "its engines run with the version that built them",
    "builder_optimization_level": "its engines are the same at every level",
}
"""Options of ``tensorrt`` that ``tensorrt-rtx`` lacks, and why."""


@dataclass(frozen=True)
class TensorRTOptions:
    """Settings by which blocks are compiled; None means that the library or a rule decides.

    Attributes
    ----------
    weights
        ``"embedded"`` (inside the engines), ``"external"`` (inputs of the engines), or ``"auto"``:
        external where the operators take them so.
    targets
        GPUs that engines run on, such as ``"sm86"``; by default all that the library supports.
        Only ``tensorrt-rtx``: ``tensorrt`` builds for the GPU that it builds on.
    hardware_compatibility
        One of `HARDWARE_COMPATIBILITY`: other GPUs that engines run on. Only ``tensorrt``.
    version_compatible
        Engines run with later versions of the library too. Only ``tensorrt``.
    builder_optimization_level
        0 to 5: how long the library looks for fast kernels. Only ``tensorrt``.
    workspace
        Limit of a block's kernel scratch, a size or bytes.
    min_shapes
        Smallest shapes of model inputs; symbolic dimensions that are not given may be 1.
    """

    weights: str | None = None
    targets: tuple[str, ...] = ()
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    builder_optimization_level: int | None = None
    workspace: str | int | None = None
    min_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def given(self) -> list[str]:
        """Names of the options that are not at their defaults."""
        default = TensorRTOptions()
        names = [f.name for f in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(default, name)]

    def check(self, backend: str) -> None:
        """Compare with what a library knows.

        Raises
        ------
        InputError
            A value is unknown, or the library lacks the option.
        BackendUnavailableError
            The library is not installed.
        """
        _check_choice("weights", self.weights, WEIGHTS)
        _check_choice("hardware-compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITY)
        level = self.builder_optimization_level
        if level is not None and level not in _LEVELS:
            raise InputError(
                f"there is no builder optimisation level {level}",
                why=f"levels are {_LEVELS.start} to {_LEVELS.stop - 1}",
                hint="leave --builder-optimization-level out",
            )
        if backend == "tensorrt-rtx":
            lacking = [name for name in self.given if name in _ONLY_TENSORRT]
            if lacking:
                raise InputError(
                    f"--{lacking[0].replace('_', '-')} is not for tensorrt-rtx",
                    why=_ONLY_TENSORRT[lacking[0]],
                    hint="leave it out, or build with --backend tensorrt",
                )
            _check_targets(self.targets)
        elif self.targets:
            raise InputError(
                "--target is not for tensorrt",
                why="it builds for the GPU that it builds on",
                hint="for other GPUs give --hardware-compatibility, or build with "
                "--backend tensorrt-rtx",
            )


def _check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InputError(
            f"there is no --{option} {value!r}",
            why=f"it is one of {', '.join(choices)}",
            hint="leave it out, or choose one of them",
        )


def _check_targets(targets: tuple[str, ...]) -> None:
    members = load_tensorrt("tensorrt-rtx").ComputeCapability.__members__
    known = [name.lower() for name in members if name.startswith("SM")]
    for target in targets:
        if target not in known:
            raise InputError(
                f"there is no target {target!r}",
                why=f"this TensorRT-RTX builds for {', '.join(known)}",
                hint="write targets like --target sm86,sm89",
            )
    if len(set(targets)) < len(targets):
        raise InputError(
            f"--target {','.join(targets)} names a GPU twice",
            why=f"it has {len(targets)} names of {len(set(targets))} GPUs",
            hint="name each of them once",
        )
