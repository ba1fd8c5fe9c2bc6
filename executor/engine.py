"""`Engine`: an engine directory, opened once and passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from swapnet.budget import Demand
from swapnet.executor.backends import device_for
from swapnet.executor.device import Device, ThreadPool, available_processors
from swapnet.executor.planning.usage import demand, for_pool
from swapnet.executor.state import Cache
from swapnet.manifest import Manifest, at_shapes, load_manifest
from swapnet.profile import Profile, load_profile, with_needs

__all__ = ["Engine"]


@dataclass(frozen=True)
class Engine:
    """Facts about an engine directory that are known before it runs; made by `open`.

    Each file is read at most once: the manifest when the engine is opened, the delays when they are
    first asked for.

    Attributes
    ----------
    folder
        Engine directory.
    device
        Where the engine executes.
    built
        The manifest as it was written, at the shapes of the build.
    shaped
        The manifest at the shapes that were asked for.
    loaded
        The manifest as the backend found it: a GPU's backend learns the needs of blocks when it
        loads them. None before.
    known_delays
        Delays that were measured in this process; None to read the stored ones.
    cache
        What the executor keeps between inferences of a decoder; None for nothing.

    Examples
    --------
    >>> engine = swapnet.Engine.open("engines/resnet101")  # doctest: +SKIP
    >>> engine.demand.total_bytes  # doctest: +SKIP
    >>> executor = swapnet.SwapExecutor(engine, budget="64MiB")  # doctest: +SKIP
    """

    folder: Path
    device: Device
    built: Manifest
    shaped: Manifest
    loaded: Manifest | None = None
    known_delays: Profile | None = None
    cache: Cache | None = None

    @classmethod
    def open(
        cls,
        engine: Engine | str | Path,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        dims: Mapping[str, int] | None = None,
        device: Device | None = None,
    ) -> Engine:
        """Read the manifest of an engine directory.

        Parameters
        ----------
        engine
            Engine directory. An engine that is open already is not read again.
        shapes, dims
            Input shapes to plan for, by input, and sizes by symbol; those that are not given stay
            as built.
        device
            Where to execute; by default the CPU with all processors.

        Raises
        ------
        EngineError
            The folder is no engine directory, is damaged, has another format, or was not measured
            at these shapes.
        InputError
            The model does not take such a shape.
        """
        if isinstance(engine, Engine):
            opened = engine if device is None else engine.on(device)
        else:
            built = load_manifest(Path(engine))
            opened = cls(Path(engine), device or Device(), built, built)
        return opened.at(shapes, dims) if shapes or dims else opened

    def at(
        self,
        shapes: Mapping[str, Sequence[int]] | None = None,
        dims: Mapping[str, int] | None = None,
        cache: Cache | None = None,
    ) -> Engine:
        """The engine at other input shapes: those of a cache, where there is one.

        Raises
        ------
        EngineError
            The engine was not measured at these shapes.
        InputError
            The model does not take such a shape.
        """
        shaped = at_shapes(
            self.folder, self.built, shapes, dims, cache.conversations if cache else 1
        )
        if shaped.planned_shapes == self.shaped.planned_shapes:
            return self
        return replace(self, shaped=shaped, loaded=None, known_delays=None, cache=None)

    def keeping(self, cache: Cache) -> Engine:
        """The engine with a cache that the executor keeps, at the shapes of that cache."""
        return replace(self, shaped=cache.counted(self.shaped), loaded=None, cache=cache)

    def on(self, device: Device) -> Engine:
        """The engine on another device."""
        if device == self.device:
            return self
        return replace(self, device=device, loaded=None, known_delays=None)

    def on_threads(
        self,
        threads: int | None = None,
        *,
        own: bool = False,
        gpu_memory: str = "auto",
        gpu_index: int = 0,
    ) -> Engine:
        """The engine on the device that it was compiled for; see `device_for`.

        Parameters
        ----------
        threads
            Number of compute threads on the host; by default all processors.
        own
            True in a process of ours: its sessions share one thread pool.
        gpu_memory, gpu_index
            Kind of memory for weights on a GPU, and its number.

        Raises
        ------
        InputError, BackendError
            The GPU has no such memory.
        """
        count = threads or available_processors()
        return self.on(
            device_for(self.built, count, own=own, gpu_memory=gpu_memory, gpu_index=gpu_index)
        )

    def in_child(self) -> Engine:
        """The engine in a process of ours: its sessions share one thread pool."""
        return self.on(replace(self.device, pool=ThreadPool.GLOBAL))

    def with_needs(self) -> Engine:
        """The engine with the needs that its blocks had when they were measured on a GPU."""
        measured = self.measured
        if not measured.needs:
            return self
        loaded = with_needs(self.manifest, measured.needs)
        return replace(self, loaded=loaded, known_delays=measured)

    def as_loaded(self, manifest: Manifest, gpu: str) -> Engine:
        """The engine as its backend found it, on the GPU that the backend names."""
        device = replace(self.device, gpu=gpu)
        if manifest is self.manifest and device == self.device:
            return self
        return replace(self, device=device, loaded=manifest, known_delays=None)

    def with_delays(self, delays: Profile | None) -> Engine:
        """The engine with new delays; None to read the stored ones."""
        return replace(self, known_delays=delays)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest at these shapes, with the memory that sessions of the device's pool take."""
        return self.loaded or for_pool(self.shaped, self.device.pool)

    @cached_property
    def measured(self) -> Profile:
        """Delays measured on this device, or assumed ones."""
        if self.known_delays is not None:
            return self.known_delays
        stored = load_profile(self.folder, self.manifest, self.device.fingerprint)
        return stored if self.cache else stored.of_chunk

    @cached_property
    def delays(self) -> Profile:
        """Delays to plan with: the measured ones, with storage no faster than the device's pace."""
        return self.device.paced(self.measured)

    @property
    def demand(self) -> Demand:
        """Memory of the unswapped model: weights, and everything else."""
        return demand(self.manifest)
