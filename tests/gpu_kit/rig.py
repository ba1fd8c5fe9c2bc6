"""What a check works with: the GPU, and engines of kernels on disk and in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.errors import BackendUnavailableError
from swapnet.executor import Device, SwapExecutor, backends
from swapnet.executor.gpu import cuda
from swapnet.executor.gpu.accelerator import Accelerator
from swapnet.manifest import sha256_of
from swapnet.profile import Profile
from swapnet.tensors import Array
from swapnet.testing.gpu import SimulatedAccelerator
from tests.gpu_kit.blocks import installed, write_engine
from tests.helpers.profiles import with_requests

__all__ = [
    "Check",
    "Figures",
    "NotHere",
    "Rig",
    "Setting",
    "Wrong",
    "in_memory",
    "open_rig",
    "same",
    "simulate",
    "simulated_gpu",
]

Figures = dict[str, Any]
"""What a check measured, as JSON has it; names have units."""

_REAL = ((32, 48, 64) * 8, 1 << 16)
_SMALL = ((8, 12, 16) * 3, 1 << 12)
"""Rows of weights by block, and words of each: 288 MiB, and less than 2 MiB."""

_SHARED_MEMORY = Path("/dev/shm")


class Wrong(Exception):
    """Something is not as it must be; ``figures`` say what was seen."""

    def __init__(self, why: str, figures: Figures | None = None) -> None:
        super().__init__(why)
        self.figures = figures or {}


class NotHere(Exception):
    """A check can't be done here."""


@dataclass(frozen=True)
class Readers(Device):
    """A device with a number of requests in flight, whatever was measured."""

    readers: int = 0

    def paced(self, profile: Profile) -> Profile:
        delays = super().paced(profile)
        if not self.readers:
            return delays
        return with_requests(delays, delays.storage.request_bytes, self.readers)


@dataclass(frozen=True)
class Check:
    """A question to the machine.

    Attributes
    ----------
    part
        ``"a"``, ``"b"`` or ``"c"``.
    name, title
        What it is called, and what it answers.
    run
        Answers; raises `Wrong`, or `NotHere`.
    limit_s
        It is ended after so long.
    """

    part: str
    name: str
    title: str
    run: Callable[[Setting], Figures]
    limit_s: float = 40.0


@dataclass(frozen=True)
class Setting:
    """Where checks are done.

    Attributes
    ----------
    work
        A folder for what checks write and use again.
    out
        A folder for logs that are kept.
    simulated
        On a simulated GPU.
    small
        With weights of a rehearsal's size.
    """

    work: Path
    out: Path
    simulated: bool
    small: bool


@dataclass(frozen=True)
class Rig:
    """See the module.

    Attributes
    ----------
    gpu
        Real or simulated.
    folder, fast
        The same engine on the disk, and in memory where there is a file system for that.
    inputs, expected
        Of the engine, by name.
    """

    gpu: Accelerator
    folder: Path
    fast: Path
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]

    @property
    def is_simulated(self) -> bool:
        """Whether times are virtual and work is in any order."""
        return isinstance(self.gpu, SimulatedAccelerator)

    def gpus(self, count: int) -> Iterator[Accelerator]:
        """The GPU, so many times; simulated ones differ in the order of work."""
        for seed in range(count):
            yield simulated_gpu(seed) if self.is_simulated else self.gpu

    @contextmanager
    def executor(
        self,
        budget: str | int,
        *,
        kind: str = "device",
        wait_ns: int = 0,
        fault: str = "",
        gpu: Accelerator | None = None,
        readers: int = 0,
        **options: Any,
    ) -> Iterator[SwapExecutor]:
        """An executor of the engine in memory.

        Parameters
        ----------
        budget, kind
            See `SwapExecutor`, and `Device.gpu_memory`.
        wait_ns, fault
            See `KernelBackend`.
        gpu
            In place of the rig's.
        readers
            Requests in flight; 0 for as many as the delays say.
        **options
            Of `SwapExecutor`.
        """
        device = Readers(gpu_memory=kind, readers=readers)
        with (
            installed(wait_ns=wait_ns, fault=fault),
            SwapExecutor(self.fast, budget, gpu=gpu or self.gpu, device=device, **options) as made,
        ):
            yield made

    def is_right(self, executor: SwapExecutor) -> bool:
        """Whether one inference gives what NumPy gives, to the bit."""
        return same(executor(self.inputs), self.expected)


def same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Whether outputs are equal to the bit."""
    return all(np.array_equal(found[name], array) for name, array in expected.items())


def simulated_gpu(seed: int = 0) -> SimulatedAccelerator:
    """A simulated GPU whose copies and kernels take time."""
    return SimulatedAccelerator(seed, total_bytes=1 << 37, copy_bytes_per_ms=1e6, call_ms=[0.5])


def simulate() -> None:
    """Put a simulated GPU in the place of CUDA's, for the rest of the process."""
    gpu = simulated_gpu()

    def runs(backend: str) -> None:
        if backend not in ("onnxruntime", "onnxruntime-cuda"):
            raise BackendUnavailableError(f"{backend} does not run on a simulated GPU")

    cuda.open_cuda = lambda *_: gpu  # type: ignore[assignment]
    backends.check_runnable = runs


def open_rig(setting: Setting) -> Rig:
    """The rig of a working folder; its engines are written the first time.

    Raises
    ------
    BackendUnavailableError
        There is no GPU, or no pycuda.
    """
    gpu: Accelerator = cuda.open_cuda()
    work = setting.work
    rows, words = _SMALL if setting.small else _REAL
    folder = work / "engine"
    answer = work / "expected.npy"
    if not answer.exists():
        expected = write_engine(folder, rows, words)
        with (work / "partial.npy").open("wb") as file:
            np.save(file, expected)
        (work / "partial.npy").rename(answer)
    return Rig(
        gpu=gpu,
        folder=folder,
        fast=folder if setting.small else _copied(folder, sum(rows) * words * 4),
        inputs={"x": np.arange(words, dtype=np.uint32)},
        expected={"y": np.load(answer)},
    )


def in_memory(folder: Path) -> Path:
    """Where the copy of an engine lies in memory; it need not be there."""
    return _SHARED_MEMORY / f"swapnet-kit-{sha256_of(str(folder).encode())[:16]}"


def _copied(folder: Path, nbytes: int) -> Path:
    """A copy in memory, where reading is as fast as copying; the folder where there is no room."""
    copy = in_memory(folder)
    if copy.exists():
        return copy
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < 2 * nbytes:
        return folder
    partial = copy.with_suffix(".partial")
    shutil.copytree(folder, partial, dirs_exist_ok=True)
    return partial.rename(copy)
