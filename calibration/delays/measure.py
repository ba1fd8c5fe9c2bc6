"""Delays of one engine on this device: measured, stored, and measured again when stale."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from swapnet.calibration.delays.cache import load_requests, save_requests
from swapnet.calibration.delays.requests import LEAST_BYTES
from swapnet.calibration.delays.worker import Job
from swapnet.data.samples import Data
from swapnet.errors import StorageError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.shapes import ensure_shapes, to_stderr
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.machine import filesystem_of
from swapnet.manifest import WEIGHTS
from swapnet.process.child import ask
from swapnet.profile import Profile, profile_paths, save_profile
from swapnet.progress import Progress, silent
from swapnet.shapes import shapes_key

__all__ = ["MODULE", "ensure_measured", "measure", "measure_in_child"]

MODULE = "swapnet.calibration.delays.worker"

_LOGGER = logging.getLogger("swapnet")

Shapes = Mapping[str, Sequence[int]]


def measure(
    engine: Engine | str | Path,
    *,
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    data: Data | None = None,
    fresh: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = to_stderr,
) -> Engine:
    """Measure block times and storage in a process of its own, and write ``profile.json``.

    Each figure is the median of rounds in which all are measured in turn, after a warm-up.

    Parameters
    ----------
    engine
        Engine directory, or an open engine.
    device
        Compute threads to measure.
    load_mode
        Way to read weights.
    shapes, dims
        Input shapes, by input, and sizes by symbol; by default those of the build. Activations at
        other shapes are measured first, and the delays are stored beside them.
    data
        Real inputs to measure on, as `swapnet.build` takes them. They say the sizes that are not
        given, and the engine keeps them.
    fresh
        Measure storage by size and number of requests again, even if it was within a day.
    progress
        Called with each stage.
    say
        Called with one line when activations are measured first.

    Returns
    -------
    Engine
        The engine with the measured delays.

    Raises
    ------
    SwapnetError
        The engine does not open or run, or the delays can't be written.
    """
    opened = ensure_shapes(
        Engine.open(engine, device=device), shapes, dims=dims, data=data, say=say
    )
    measured = _measure(opened, load_mode, fresh, progress)
    _save(measured)
    return measured


def ensure_measured(
    engine: Engine | str | Path,
    *,
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = to_stderr,
) -> Engine:
    """The engine with delays of this device, measured now where none are stored or they are stale.

    Delays are stale if they are of another device (processor, threads, ONNX Runtime), of other
    blocks, or in another format. If they can't be stored they are still used.

    Parameters
    ----------
    engine, device, load_mode, shapes, dims, progress
        As for `measure`.
    say
        Called with one line when something is measured.

    Raises
    ------
    SwapnetError
        The engine does not open or run.
    """
    opened = ensure_shapes(Engine.open(engine, device=device), shapes, dims=dims, say=say)
    if not opened.measured.is_assumed:
        _LOGGER.info("%s: delays were measured before (profile.json)", opened.folder)
        return opened
    folder = opened.folder
    built, other = (path.exists() for path in profile_paths(folder, opened.manifest))
    is_built = opened.manifest.planned_shapes == opened.built.planned_shapes
    if other or (built and is_built):
        why = "its delays are of another device or engine"
    else:
        why = "it is not measured yet" if is_built else "it is not measured at these shapes yet"
    say(f"{folder}: {why}: measuring this device …")
    measured = _measure(opened, load_mode, False, progress)
    try:
        _save(measured)
    except StorageError as error:
        say(f"{folder}: the delays can't be stored: {error.why}")
    return measured


def _measure(engine: Engine, load_mode: LoadMode | str, fresh: bool, progress: Progress) -> Engine:
    weights = engine.folder / WEIGHTS
    with closing(WeightFile(weights, LoadMode.parse(load_mode))) as storage:
        mode = storage.mode
    key = f"{engine.device.fingerprint}, {filesystem_of(weights)}, {mode}"
    known = () if fresh else load_requests(key)
    if known:
        _LOGGER.info("%s: storage was measured within a day (%s)", engine.folder, key)
    job = Job(
        folder=str(engine.folder),
        threads=engine.device.threads,
        load_mode=str(mode),
        shapes=engine.manifest.planned_shapes,
        requests=known,
        gpu_memory=engine.device.gpu_memory,
        cache=engine.cache,
    )
    delays = measure_in_child(job, progress)
    if not known and engine.manifest.weights_nbytes >= LEAST_BYTES:
        save_requests(key, delays.storage.requests)
    return engine.with_delays(delays)


def measure_in_child(job: Job, progress: Progress) -> Profile:
    """Run a job in a process of its own; raises as `ask`."""
    profile: Profile = ask(MODULE, job, Profile, progress, verb="measures")
    return profile


def _save(engine: Engine) -> None:
    planned = engine.manifest.planned_shapes
    is_built = planned == engine.built.planned_shapes
    key = "" if is_built else shapes_key(engine.manifest.inputs, planned)
    save_profile(engine.folder, engine.measured, key)
