"""The profile of one engine on this device: measured, kept, and measured again when it is stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from swapnet.calibration.delays.cache import filesystem_of, load_requests, save_requests
from swapnet.calibration.delays.child import measure_in_child
from swapnet.calibration.delays.requests import LEAST_BYTES
from swapnet.calibration.delays.shapes import ensure_shapes, to_stderr
from swapnet.calibration.delays.worker import Job
from swapnet.errors import StorageError
from swapnet.executor.device import Device
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, load_manifest
from swapnet.profile import Profile, load_profile, profile_paths, save_profile
from swapnet.progress import Progress, silent
from swapnet.shapes import shapes_key

__all__ = ["calibrate", "ensure_profile"]

Shapes = Mapping[str, Sequence[int]]


def calibrate(
    folder: str | Path,
    *,
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
    shapes: Shapes | None = None,
    fresh: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = to_stderr,
) -> Profile:
    """Measure block times and storage in a process of its own, and write ``profile.json``.

    Each figure is the median of rounds in which all are measured in turn, after a warm-up.

    Parameters
    ----------
    folder
        Engine directory.
    device
        Compute threads to measure.
    load_mode
        How weights are read.
    shapes
        Input shapes, by input; those of the build where none are given. Activations at other
        shapes are measured first, and the profile is kept beside them.
    fresh
        Measure storage by size and number of requests anew, though it was in the last day.
    progress
        Told of each stage.
    say
        Told, in one line, when activations are measured first.

    Raises
    ------
    SwapnetError
        The engine does not open or does not run, or the profile can't be written.
    """
    folder = Path(folder)
    profile = _measure(folder, device or Device(), load_mode, shapes, fresh, progress, say)
    _save(folder, profile, shapes)
    return profile


def ensure_profile(
    folder: str | Path,
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
    shapes: Shapes | None = None,
    *,
    progress: Progress = silent,
    say: Callable[[str], None] = to_stderr,
) -> Profile:
    """The profile of an engine on this device, measured now where none is stored or it is stale.

    A profile is stale when it is of another device (processor, threads, ONNX Runtime), of other
    blocks, or of another format. Where it can't be stored it is measured all the same.

    Parameters
    ----------
    folder, device, load_mode, shapes, progress
        As for `calibrate`.
    say
        Told, in one line, when something is measured.

    Raises
    ------
    SwapnetError
        The engine does not open or does not run.
    """
    folder = Path(folder)
    device = device or Device()
    manifest = ensure_shapes(folder, shapes, say=say)
    stored = load_profile(folder, manifest, device.fingerprint)
    if not stored.is_assumed:
        return stored
    outdated = any(path.exists() for path in profile_paths(folder, manifest))
    why = "its profile is of another device or engine" if outdated else "it has no profile yet"
    say(f"{folder}: {why}: measuring this device …")
    profile = _measure(folder, device, load_mode, shapes, False, progress, say)
    try:
        _save(folder, profile, shapes)
    except StorageError as error:
        say(f"{folder}: what was measured can't be kept: {error.why}")
    return profile


def _measure(
    folder: Path,
    device: Device,
    load_mode: LoadMode | str,
    shapes: Shapes | None,
    fresh: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> Profile:
    manifest = ensure_shapes(folder, shapes, say=say)
    with closing(WeightFile(folder / WEIGHTS, LoadMode.parse(load_mode))) as storage:
        mode = storage.mode
    key = f"{device.fingerprint}, {filesystem_of(folder / WEIGHTS)}, {mode}"
    known = () if fresh else load_requests(key)
    profile = measure_in_child(
        Job(
            folder=str(folder),
            threads=device.threads,
            load_mode=str(mode),
            shapes=manifest.planned_shapes,
            requests=known,
            gpu_memory=device.gpu_memory,
        ),
        progress,
    )
    if not known and manifest.weights_nbytes >= LEAST_BYTES:
        save_requests(key, profile.storage.requests)
    return profile


def _save(folder: Path, profile: Profile, shapes: Shapes | None) -> None:
    built, manifest = load_manifest(folder), load_manifest(folder, shapes)
    same = manifest.planned_shapes == built.planned_shapes
    key = "" if same else shapes_key(manifest.inputs, manifest.planned_shapes)
    save_profile(folder, profile, key)
