"""Facts about backends, GPUs, packages, machine and storage, and what works of them here.

Libraries that crash without a GPU are loaded only after the driver has found one.
"""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import IO, Final, Literal

from swapnet.errors import (
    BackendError,
    BackendUnavailableError,
    InputError,
    StorageError,
    SwapnetError,
)
from swapnet.executor import backends
from swapnet.executor.backends.onnxruntime import version as loaded_version
from swapnet.executor.backends.windows import BITS_SINCE, packs_bits
from swapnet.executor.device import available_processors, runtime_version
from swapnet.executor.gpu import cuda
from swapnet.executor.gpu.accelerator import choose_memory
from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import READERS
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.fingerprint import cpu_fingerprint, int8_saturates
from swapnet.machine import (
    filesystem_of,
    huge_page_bytes,
    kernel_module_version,
    memory_bytes,
    processor_name,
    storage_device,
)
from swapnet.process.cgroup import MemoryGroup
from swapnet.tensorrt import TENSORRT, how_to_install, load_tensorrt, version
from swapnet.units import format_size

__all__ = ["BACKENDS", "SCHEMA", "Capability", "Diagnosis", "Finding", "State", "diagnose"]

SCHEMA: Final = "swapnet-doctor/1"

BACKENDS = ("onnxruntime", "onnxruntime-cuda", *TENSORRT)

State = Literal["ok", "no", "fact"]
"""Works or is installed; does not or is not; neither good nor bad."""

_PACKAGES: Mapping[str, str] = {
    "swapnet-trt": "pip install swapnet-trt",
    "numpy": "pip install numpy",
    "onnx": "pip install onnx",
    "onnxruntime": "pip install onnxruntime",
    "onnxruntime-gpu": "for --backend onnxruntime-cuda: pip install onnxruntime-gpu in place of "
    "onnxruntime; on a Jetson from NVIDIA's package index for Jetsons",
    "polygraphy": "pip install polygraphy",
    "pycuda": "for all GPUs: pip install 'swapnet-trt[cuda]'",
    "tensorrt": "for --backend tensorrt: pip install 'swapnet-trt[tensorrt]', or JetPack's",
    "tensorrt-rtx": "for --backend tensorrt-rtx: {rtx}",
}
"""Packages to look for, and how to get them; the last two come in several packages each."""

_PROBE_BYTES = 12 * READ_BYTES
_PROBE_WRITE_S = 0.3
"""Slow storage is probed with fewer bytes: those that were written in this time."""


@dataclass(frozen=True)
class Finding:
    """One fact: ``detail`` on one line, its exact ``value`` where it is a number, and a hint."""

    name: str
    state: State
    detail: str
    hint: str = ""
    value: int | None = None
    unit: Literal["", "bytes", "bytes_per_s"] = ""


@dataclass(frozen=True)
class Capability:
    """Whether a backend can build and run engines here.

    ``version`` is that of its library, empty where it is not installed.
    """

    backend: str
    version: str
    builds: Finding
    runs: Finding


@dataclass(frozen=True)
class Diagnosis:
    """All findings; keys of the schema ``swapnet-doctor/1``."""

    schema: Literal["swapnet-doctor/1"]
    backends: tuple[Capability, ...]
    topics: dict[str, tuple[Finding, ...]]

    @property
    def runnable(self) -> tuple[str, ...]:
        """Names of the backends that can run engines here."""
        return tuple(found.backend for found in self.backends if found.runs.state == "ok")


def diagnose(folder: Path) -> Diagnosis:
    """Look at everything, and test the storage of a folder; takes about a second.

    Raises
    ------
    InputError
        ``folder`` is not a folder.
    """
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} is not a folder",
            why="it is a file" if os.path.exists(folder) else "there is no such folder",
            hint="give the folder for engines, or leave it out",
        )
    return Diagnosis(
        schema=SCHEMA,
        backends=tuple(map(_capability, BACKENDS)),
        topics={
            **_gpus(),
            "packages": tuple(_packages()),
            "machine": _machine(),
            "storage": _storage(folder),
            "memory limit": (_memory_limit(),),
        },
    )


def _capability(backend: str) -> Capability:
    return Capability(
        backend=backend,
        version=_version(backend),
        builds=_tried("builds", lambda: _check_buildable(backend)),
        runs=_tried("runs", lambda: backends.check_runnable(backend)),
    )


def _version(backend: str) -> str:
    try:
        return version(backend) if backend in TENSORRT else runtime_version()
    except BackendUnavailableError:
        return ""


def _tried(name: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except BackendError as error:
        return _refusal(name, error)
    return Finding(name, "ok", "yes")


def _refusal(name: str, error: SwapnetError) -> Finding:
    reason = ": ".join(filter(None, (error.what, error.why)))
    return Finding(name, "no", " ".join(reason.split()), error.hint)


def _check_buildable(backend: str) -> None:
    if backend in TENSORRT:
        load_tensorrt(backend)
    else:
        loaded_version()
    if backend == "tensorrt":
        cuda.device_count()
    try:
        import_module("onnx")
    except ImportError as error:
        raise BackendUnavailableError(
            "onnx can't be loaded", why=str(error), hint=_PACKAGES["onnx"]
        ) from error


def _gpus() -> dict[str, tuple[Finding, ...]]:
    loaded = kernel_module_version()
    module = (Finding("kernel module", "fact", loaded),) if loaded else ()
    try:
        count = cuda.device_count()
    except BackendUnavailableError as error:
        return {"GPU": (_refusal("GPU", error), *module)}
    return {f"GPU {index}": (*_gpu(index), *module) for index in range(count)}


def _gpu(index: int) -> tuple[Finding, ...]:
    try:
        gpu = cuda.open_cuda(index)
        free_bytes = gpu.free_bytes()
    except BackendError as error:
        return (_refusal("GPU", error),)
    has = gpu.attributes
    return (
        Finding("GPU", "ok", has.name),
        _fact(
            "compute capability",
            "{}.{} ({})".format(*has.compute_capability, has.architecture),
        ),
        _size("memory", has.total_bytes),
        _size("free memory", free_bytes),
        _fact("kind", "integrated" if has.is_integrated else "discrete"),
        _flag("managed memory", has.has_managed_memory),
        _flag("concurrent managed access", has.has_concurrent_access),
        _flag("mapped host memory", has.can_map_host_memory),
        _fact("weights lie in", f"{choose_memory(has)} memory"),
        _fact("driver", f"CUDA {has.driver}"),
    )


def _fact(name: str, detail: str) -> Finding:
    return Finding(name, "fact", detail)


def _flag(name: str, value: bool) -> Finding:
    return _fact(name, "yes" if value else "no")


def _size(name: str, nbytes: int) -> Finding:
    return Finding(name, "fact", format_size(nbytes), value=nbytes, unit="bytes")


def _packages() -> Iterator[Finding]:
    found = _installed()
    rtx = how_to_install("tensorrt-rtx").removeprefix("install it: ")
    for name, hint in _PACKAGES.items():
        family = sorted(package for package in found if _family(package) == name)
        for package in family:
            yield Finding(package, "ok", found[package])
        if not family and not (name == "onnxruntime" and "onnxruntime-gpu" in found):
            yield Finding(name, "no", "not installed", hint.format(rtx=rtx))


def _family(package: str) -> str:
    """The name in `_PACKAGES` under which a package is listed."""
    names = (name for name in reversed(TENSORRT) if f"{package}-".startswith(f"{name}-"))
    return next(names, package)


def _installed() -> dict[str, str]:
    described = (package.metadata for package in metadata.distributions())
    names = {fields["Name"] for fields in described if "Name" in fields}
    return {name.lower().replace("_", "-"): metadata.version(name) for name in names}


def _machine() -> tuple[Finding, ...]:
    return (*_processor(), *_memory())


def _processor() -> Iterator[Finding]:
    yield from (
        _fact("processor", processor_name()),
        _fact("engines are compiled for", cpu_fingerprint()),
        _fact("int8 weights have", "7 bits: no VNNI" if int8_saturates() else "8 bits"),
        _int4(),
        Finding(
            "processors available",
            "fact",
            str(available_processors()),
            value=available_processors(),
        ),
    )
    if platform.machine() == "aarch64":
        yield Finding(
            "float weights",
            "fact",
            "packed again in every call: PyPI's ONNX Runtime has no blocked layout for ARM",
            "ratios measured on x86-64 do not hold here; measure yours: swapnet bench --compare",
        )


def _int4() -> Finding:
    here = _version("onnxruntime")
    if here and packs_bits(here):
        return _fact("int4 weights", "are swapped as ONNX Runtime packs them")
    found = f"this is {here}" if here else "it is not installed"
    hint = f"for --precision int4: pip install 'onnxruntime>={BITS_SINCE}'"
    return Finding("int4 weights", "no", f"need ONNX Runtime {BITS_SINCE}; {found}", hint)


def _memory() -> Iterator[Finding]:
    yield _size("memory", memory_bytes())
    yield _size("pages", mmap.PAGESIZE)
    yield _huge_pages()
    yield _fact("kernel", f"{platform.system()} {platform.release()}")
    yield _fact("Python", platform.python_version())


def _huge_pages() -> Finding:
    """Size of the huge pages that arenas ask for; kernels built without them refuse."""
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError as error:
        return _fact("huge pages", f"none: {error.strerror}")
    nbytes = huge_page_bytes()
    return _size("huge pages", nbytes) if nbytes else _fact("huge pages", "none")


def _storage(folder: Path) -> tuple[Finding, ...]:
    facts = (
        _fact("folder", str(folder.absolute())),
        _fact("device", storage_device(folder) or "unknown"),
        _fact("filesystem", filesystem_of(folder).partition(" ")[2] or "unknown"),
        _size("free", shutil.disk_usage(folder).free),
    )
    try:
        with tempfile.NamedTemporaryFile(prefix=".swapnet-doctor-", dir=folder) as file:
            _write(file)
            return (*facts, *_reading(Path(file.name)))
    except (OSError, StorageError) as error:
        reason = error.why if isinstance(error, StorageError) else error.strerror or str(error)
        hint = "give a folder with free space that you can write to: swapnet doctor DIR"
        return (*facts, Finding("direct I/O", "no", f"could not be tried: {reason}", hint))


def _write(file: IO[bytes]) -> None:
    """Write bytes that can't be compressed to storage, and drop them from the page cache."""
    start = time.perf_counter()
    for _ in range(0, _PROBE_BYTES, READ_BYTES):
        file.write(os.urandom(READ_BYTES))
        file.flush()
        os.fdatasync(file.fileno())
        if time.perf_counter() - start > _PROBE_WRITE_S:
            break
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _reading(path: Path) -> tuple[Finding, ...]:
    try:
        file = WeightFile(path, LoadMode.DIRECT)
        direct = Finding("direct I/O", "ok", "works")
    except StorageError as error:
        file = WeightFile(path, LoadMode.BUFFERED)
        direct = Finding(
            "direct I/O",
            "no",
            f"refused: {error.why}",
            "weights are read through the page cache, which is slower; keep engines on a "
            "filesystem with direct I/O, such as ext4 or xfs",
        )
    try:
        bytes_per_s = _bandwidth(file)
    finally:
        file.close()
    reads = f"{file.mode}, {format_size(file.nbytes)} once; swapnet measure is more exact"
    return (
        direct,
        Finding(
            "reads about",
            "fact",
            f"{bytes_per_s / 1e6:.0f} MB/s ({reads})",
            value=round(bytes_per_s),
            unit="bytes_per_s",
        ),
    )


def _bandwidth(file: WeightFile) -> float:
    """Bytes per second with several requests in flight, as resident weights are read."""
    arena = Arena(READERS * READ_BYTES)
    arena.view(0, arena.nbytes)[:] = bytes(arena.nbytes)

    def read(index: int) -> None:
        place = arena.view(index % READERS * READ_BYTES, READ_BYTES)
        file.read_into(place, index * READ_BYTES)

    with ThreadPoolExecutor(READERS) as pool:
        start = time.perf_counter()
        for _ in pool.map(read, range(file.nbytes // READ_BYTES)):
            pass
        return file.nbytes / (time.perf_counter() - start)


def _memory_limit() -> Finding:
    try:
        with MemoryGroup(None) as group:
            peaks = "; peaks are sampled: this kernel records none" if group.is_sampled else ""
    except BackendUnavailableError as error:
        hint = f"{error.hint}; without it SwapNet keeps budgets, the kernel does not enforce them"
        return Finding("kernel's limit", "no", f"can't be set here: {error.why}", hint)
    return Finding("kernel's limit", "ok", f"can be set: swapnet bench --memory-limit{peaks}")
