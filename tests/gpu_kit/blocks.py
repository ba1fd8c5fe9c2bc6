"""A backend whose blocks are small kernels of ours, over weights of real size.

A block sums 32-bit integers, and every word of its weights changes the result: NumPy gives the
same bits. On a GPU the kernel of ``kernels.cu`` does it; on a simulated one NumPy itself, in the
order of the stream.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from swapnet.errors import BackendError
from swapnet.executor.backends import OPENERS, Opening
from swapnet.executor.backends.base import Bindings, Memory
from swapnet.executor.backends.gpu import GpuBackend
from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream
from swapnet.executor.gpu.cuda import Cuda
from swapnet.executor.gpu.cuda import Stream as CudaStream
from swapnet.executor.gpu.device_values import GpuValues
from swapnet.executor.planning.plan import Plan, Read, Step
from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader
from swapnet.executor.swapping.moments import Mark
from swapnet.files import replacing
from swapnet.manifest import (
    SCHEMA,
    WEIGHTS,
    Block,
    Compiled,
    Extent,
    Manifest,
    Source,
    Tensor,
    Weight,
    save_manifest,
    sha256_of,
)
from swapnet.strips import Striping
from swapnet.tensors import Array

__all__ = [
    "BACKEND",
    "CudaKernels",
    "KernelBackend",
    "Kernels",
    "NumpyKernels",
    "compiled",
    "installed",
    "kernels_of",
    "mixed",
    "write_engine",
]

BACKEND = "kernels-cuda"

_THREADS = 256
_FACTOR, _TERM = np.uint32(1664525), np.uint32(1013904223)

Words = npt.NDArray[np.uint32]


def write_engine(folder: Path, rows: Sequence[int], words: int) -> Words:
    """Write an engine: a chain of blocks, each with so many rows of weights.

    Parameters
    ----------
    folder
        Made if it is not there.
    rows
        By block; a row has ``4 * words`` bytes, which must be whole pages.
    words
        Of each value: the model takes and gives uint32 of shape (words,).

    Returns
    -------
    numpy.ndarray
        The output for the input ``numpy.arange(words)``, as NumPy computes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["x", *(f"v{index}" for index in range(len(rows) - 1)), "y"]
    random = np.random.default_rng(0)
    value, offset = np.arange(words, dtype=np.uint32), 0
    blocks: list[Block] = []
    with (folder / WEIGHTS).open("wb") as file:
        for index, count in enumerate(rows):
            weights = random.integers(0, 1 << 32, (count, words), np.uint32)
            data = weights.tobytes()
            file.write(data)
            value = mixed(value, weights)
            blocks.append(
                Block(
                    index=index,
                    kind="graph",
                    operators=("Mix",),
                    inputs=(names[index],),
                    outputs=(names[index + 1],),
                    extent=Extent(offset, len(data)),
                    checksum=sha256_of(data),
                    weights=(Weight(f"w{index}", "uint32", (count, words), offset, len(data)),),
                )
            )
            offset += len(data)
    tensors = [Tensor(name, "uint32", (words,), 4 * words) for name in names]
    manifest = Manifest(
        schema=SCHEMA,
        source=Source("kernels", "", ""),
        compiled=Compiled(BACKEND, "1", "any"),
        max_block_bytes=4 * words * max(rows),
        sliced=(),
        inputs=(tensors[0],),
        outputs=(tensors[-1],),
        values=tuple(tensors[1:-1]),
        planned_shapes={"x": (words,)},
        blocks=tuple(blocks),
        weights_nbytes=offset,
    )
    save_manifest(folder, manifest)
    return value


def mixed(value: Words, weights: Words) -> Words:
    """The output of a block, uint32 of shape (words,); ``weights`` has shape (rows, words)."""
    total = value.copy()
    for row in weights:
        np.multiply(total, _FACTOR, out=total)
        np.add(total, _TERM, out=total)
        np.bitwise_xor(total, row, out=total)
    return total


class Kernels(Protocol):
    """What executes a block."""

    def launch(
        self, stream: Stream, source: int, weights: int, target: int, shape: tuple[int, ...]
    ) -> None:
        """Enqueue it; places are addresses of the device, ``shape`` is that of the weights."""


class NumpyKernels:
    """Blocks of a simulated GPU; its addresses are the host's.

    Parameters
    ----------
    wait_ns
        A real kernel's; here work is in any order without.
    """

    def __init__(self, wait_ns: int = 0) -> None:
        self.wait_ns = wait_ns

    def launch(
        self, stream: Stream, source: int, weights: int, target: int, shape: tuple[int, ...]
    ) -> None:
        """See `Kernels.launch`."""

        def work(_: int) -> None:
            result = mixed(_words(source, shape[1:]), _words(weights, shape))
            _words(target, shape[1:])[:] = result

        stream.call(work)


def _words(address: int, shape: tuple[int, ...]) -> Words:
    count = int(np.prod(shape))
    memory = (ctypes.c_uint32 * count).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)


class CudaKernels:
    """Blocks of a real GPU.

    Parameters
    ----------
    cuda
        The GPU.
    wait_ns
        How long each kernel waits before it reads.

    Raises
    ------
    BackendError
        There is no compiler here, or the driver refuses what it made.
    """

    def __init__(self, cuda: Cuda, wait_ns: int = 0) -> None:
        self._cuda = cuda
        self.wait_ns = wait_ns
        code = compiled(cuda.attributes.architecture)
        with cuda.current():
            self._module = cuda.driver.module_from_buffer(code)
            self._mix = self._module.get_function("mix")

    def __del__(self) -> None:
        with self._cuda.current():
            self._mix = self._module = None

    def launch(
        self, stream: Stream, source: int, weights: int, target: int, shape: tuple[int, ...]
    ) -> None:
        """See `Kernels.launch`."""
        assert isinstance(stream, CudaStream)
        rows, words = shape
        given = struct.pack("PPPiiQ", source, weights, target, rows, words, self.wait_ns)
        grid = (-(-words // _THREADS), 1, 1)
        with self._cuda.current():
            # The public calls set the block's shape by a function that CUDA 4 made obsolete.
            self._mix._launch_kernel(grid, (_THREADS, 1, 1), given, 0, stream.stream)


def kernels_of(gpu: Accelerator, wait_ns: int = 0) -> Kernels:
    """Those of a GPU, real or simulated; see `CudaKernels`."""
    return CudaKernels(gpu, wait_ns) if isinstance(gpu, Cuda) else NumpyKernels(wait_ns)


@cache
def compiled(architecture: str) -> bytes:
    """``kernels.cu`` for an architecture such as ``sm90``: by nvcc, else by NVRTC of cuda-core.

    What was compiled once on a machine is taken from its folder of temporary files.

    Raises
    ------
    BackendError
        Neither is here, or it refuses.
    """
    source = Path(__file__).with_name("kernels.cu")
    digest = sha256_of(source.read_bytes())[:16]
    kept = Path(gettempdir()) / f"swapnet-kernels-{architecture}-{digest}.cubin"
    if not kept.exists():
        code = _compile(source, architecture.replace("sm", "sm_"))
        with replacing(kept) as temporary:
            temporary.write_bytes(code)
    return kept.read_bytes()


def _compile(source: Path, target: str) -> bytes:
    if nvcc := shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc"):
        with TemporaryDirectory() as folder:
            out = Path(folder) / "kernels.cubin"
            command = [nvcc, "-cubin", f"-arch={target}", "-o", str(out), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return out.read_bytes()
            why = f"nvcc: {done.stderr.strip()}"
    else:
        why = "there is no nvcc"
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise BackendError(
            f"{source.name} can't be compiled",
            why=f"{why}; {error}",
            hint="put nvcc on the PATH, or install cuda-core",
        ) from error
    program = Program(source.read_text(), "c++", ProgramOptions(arch=target))
    return bytes(program.compile("cubin").code)


class KernelBackend(GpuBackend):
    """Executes engines of `write_engine`; see `Backend`.

    Parameters
    ----------
    manifest, accelerator, kind
        See `GpuBackend`.
    wait_ns
        How long each kernel waits before it reads.
    fault
        A planted one: ``"early kernel"`` does not wait for the copy of its weights, ``"early
        copy"`` not for the kernel that still reads.
    """

    name = BACKEND

    def __init__(
        self,
        manifest: Manifest,
        accelerator: Accelerator,
        kind: MemoryKind,
        *,
        wait_ns: int = 0,
        fault: str = "",
    ) -> None:
        super().__init__(manifest, accelerator, kind)
        self.kernels = kernels_of(accelerator, wait_ns)
        self._fault = fault
        self._late = kernels_of(accelerator, 1_000_000)
        self._spare = accelerator.allocate(MemoryKind.DEVICE, 256)
        self._values: GpuValues | None = None

    def values(self, inside: object = None, striping: Striping | None = None) -> GpuValues:
        """All of them on the device."""
        self._values = GpuValues(self.manifest, self._accelerator, self._compute, self._begin)
        return self._values

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        """See `GpuBackend.loader`."""
        loader = super().loader(storage, arena, plan, before_read)
        return _FaultyLoader(loader, self._fault, self._delay) if self._fault else loader

    def _delay(self) -> None:
        """The next copy comes a millisecond later: a kernel that does not wait for it shows."""
        place = self._spare.address
        self._late.launch(self._copies, place, place, place, (0, 1))

    def follow(self, marks: Sequence[Mark]) -> None:
        """See `GpuBackend.follow`."""
        if self._fault != "early kernel":
            super().follow(marks)

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[_KernelSegment]:
        """See `Backend.segments`."""
        assert self._values is not None
        blocks = self.manifest.blocks
        return [
            _KernelSegment(
                self.kernels,
                self._compute,
                self._values,
                blocks[step.first : step.last + 1],
                bindings,
            )
            for step in steps
        ]

    def close(self) -> None:
        """Let both streams end."""
        self._settle()
        self._spare.free()


class _KernelSegment:
    def __init__(
        self,
        kernels: Kernels,
        stream: Stream,
        values: GpuValues,
        blocks: Sequence[Block],
        bindings: Bindings,
    ) -> None:
        self._kernels = kernels
        self._stream = stream
        self._values = values
        self._blocks = blocks
        self._bindings = bindings

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        """Enqueue one kernel for each block; see `Segment.run`."""
        places = self._bindings
        for block in self._blocks:
            (weight,), (source,), (target,) = block.weights, block.inputs, block.outputs
            self._kernels.launch(
                self._stream,
                places.values[source],
                places.weights[block.index, weight.name],
                places.values[target],
                weight.shape,
            )
            self._values.shapes[target] = weight.shape[1:]


class _FaultyLoader:
    """Copies too early, or so late that a kernel that does not wait for them is too early."""

    def __init__(self, loader: Loader, fault: str, delay: Callable[[], None]) -> None:
        self._loader = loader
        self._is_early = fault == "early copy"
        self._delay = delay
        self.largest_bytes = loader.largest_bytes
        self.reset = loader.reset
        self.close = loader.close

    def load(self, read: Read, after: Mark | None) -> Mark:
        """See `Loader.load`."""
        if self._is_early:
            return self._loader.load(read, None)
        self._delay()
        return self._loader.load(read, after)


@contextmanager
def installed(**options: Any) -> Iterator[None]:
    """Engines of `write_engine` can be opened in the block of the ``with``.

    Parameters
    ----------
    **options
        Of `KernelBackend`.
    """

    def opened(opening: Opening) -> KernelBackend:
        return KernelBackend(opening.manifest, *opening.on_gpu(), **options)

    OPENERS[BACKEND] = opened
    try:
        yield
    finally:
        del OPENERS[BACKEND]
