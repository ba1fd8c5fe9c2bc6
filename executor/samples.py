"""Sample inputs that an engine directory keeps, and uses where inputs have to be made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from swapnet.arrays import load_npz, save_npz
from swapnet.errors import EngineError, SwapnetError
from swapnet.executor.backends.base import Array
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import check_inputs, planned_sample
from swapnet.files import make_folder
from swapnet.shapes import SAMPLES, SHAPES, shapes_key

__all__ = ["MOST_SAMPLES", "kept_samples", "sample_of", "save_samples"]

MOST_SAMPLES = 4
"""Samples that an engine keeps, at most: all of them are run whenever its blocks are measured."""


def save_samples(folder: Path, samples: Sequence[Mapping[str, Array]], key: str = "") -> None:
    """Write samples into an engine directory in place of those that it keeps.

    Parameters
    ----------
    folder
        Engine directory.
    samples
        Arrays by input, the most telling sample first. None remove those that are kept.
    key
        `shapes_key` of input shapes; empty for those of the build.

    Raises
    ------
    StorageError
        The engine directory can't be written.
    """
    place = _place(folder, key)
    for old in _files(place)[len(samples) :]:
        old.unlink(missing_ok=True)
    if samples:
        make_folder(place)
    for number, sample in enumerate(samples):
        save_npz(place / f"{number}.npz", sample)


def kept_samples(engine: Engine) -> tuple[dict[str, Array], ...]:
    """The samples of an engine at its input shapes; it may have none.

    Raises
    ------
    EngineError
        A file is damaged, or is of another engine.
    """
    manifest = engine.shaped
    is_built = manifest.planned_shapes == engine.built.planned_shapes
    key = "" if is_built else shapes_key(manifest.inputs, manifest.planned_shapes)
    samples = []
    for path in _files(_place(engine.folder, key)):
        try:
            samples.append(check_inputs(manifest, load_npz(path)))
        except SwapnetError as error:
            raise EngineError(
                f"{path} is damaged, or of another engine",
                why=f"{error.what}: {error.why}",
                hint=f"remove it: rm '{path}', or build the engine again with --data",
            ) from error
    return tuple(samples)


def sample_of(engine: Engine) -> dict[str, Array]:
    """The first sample that an engine keeps, or a seeded one; see `kept_samples`."""
    return next(iter(kept_samples(engine)), None) or planned_sample(engine.manifest)


def _place(folder: Path, key: str) -> Path:
    return folder / SHAPES / f"{SAMPLES}-{key}" if key else folder / SAMPLES


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("[0-9].npz"))
