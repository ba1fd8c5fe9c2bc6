"""Facts of this machine that the kernel and the GPU driver tell."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final

from swapnet.errors import BackendUnavailableError

__all__ = [
    "BOARD",
    "CGROUP_V1",
    "CGROUP_V2",
    "CPUINFO",
    "DROP_CACHES",
    "KERNEL_OPTIONS",
    "FileMapping",
    "Gpu",
    "anonymous_bytes",
    "available_memory_bytes",
    "close_files",
    "device_count",
    "filesystem_of",
    "first_gpu",
    "forget_peak",
    "huge_page_bytes",
    "kernel_module_version",
    "map_files",
    "mappings_of",
    "memory_bytes",
    "memory_to_measure_in_bytes",
    "own_pages",
    "peak_anonymous_bytes",
    "peak_resident_bytes",
    "processor_name",
    "storage_device",
    "trim_heap",
    "usable_memory_bytes",
]

_DRIVER = "libcuda.so.1"

_MEASURING_SHARE = 3
"""Share of the machine's memory that a model takes while it is measured."""

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``…_MINOR``."""

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
"""The board's name, where the kernel was booted with a device tree."""

CGROUP_V1 = Path("/sys/fs/cgroup/memory")
CGROUP_V2 = Path("/sys/fs/cgroup")
KERNEL_OPTIONS = Path("/proc/cmdline")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
"""Dirty pages are written, and cached ones forgotten, by writing 3 to it."""

_LIMITS = ("memory.limit_in_bytes", "memory.max")
"""Files of a group that hold its limit, in cgroup v1 and v2."""

_MADV_POPULATE_READ = 22


_PARTS: Final = {
    "0x41/0xd03": "Cortex-A53",
    "0x41/0xd05": "Cortex-A55",
    "0x41/0xd07": "Cortex-A57",
    "0x41/0xd08": "Cortex-A72",
    "0x41/0xd0b": "Cortex-A76",
    "0x41/0xd0c": "Neoverse-N1",
    "0x41/0xd42": "Cortex-A78AE",
    "0x41/0xd4f": "Neoverse-V2",
    "0x4e/0x004": "Carmel",
}
"""ARM's names of well-known processors, by implementer and part."""


def processor_name(cpuinfo: Path = CPUINFO, board: Path = BOARD) -> str:
    """The name of the board and its ARM cores, or the name that an x86 processor gives itself.

    A ``model name`` on ARM is ignored: it names the architecture, which is the result if nothing
    else is known.
    """
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields: dict[str, list[str]] = {}
    for key, _, value in (line.partition(":") for line in lines):
        fields.setdefault(key.strip(), []).append(value.strip())
    makers, parts = fields.get("CPU implementer", []), fields.get("CPU part", [])
    ids = sorted({f"{maker}/{part}" for maker, part in zip(makers, parts, strict=False)})
    # Containers hide the device tree; a Raspberry Pi's kernel names the board here too.
    name = board.read_text().rstrip("\0\n") if board.exists() else fields.get("Model", [""])[0]
    cores = " and ".join(_PARTS.get(each, each) for each in ids)
    cores = cores or fields.get("model name", [""])[0]
    return ", ".join(filter(None, (name, cores))) or platform.machine()


def memory_bytes(process: Path = Path("/proc/self")) -> int:
    """Physical memory, or the kernel's limit for this process where that is lower.

    The process lies in a group (cgroup v1 or v2), which lies in others; the lowest limit counts.

    Parameters
    ----------
    process
        The kernel's folder of the process.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((physical, *_limits_bytes(process)))


def _limits_bytes(process: Path) -> Iterator[int]:
    for group in _groups(process):
        for name in _LIMITS:
            with suppress(OSError):  # the root of cgroup v2 has none
                if (text := (group / name).read_text().strip()).isdigit():
                    yield int(text)


def _groups(process: Path) -> Iterator[Path]:
    """Folders of the groups that hold a process, as far up as they are mounted here."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return
    paths: dict[str, PurePosixPath] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths["cgroup2"] = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            paths["cgroup"] = PurePosixPath(path)
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        root, point = before.split()[3:5]
        path_inside = paths[kind]
        # A container may see its own group as the root, under whatever name it has outside.
        is_below = path_inside.is_relative_to(root) and ".." not in path_inside.parts
        below = path_inside.relative_to(root) if is_below else PurePosixPath()
        folder = Path(point) / below
        yield from (folder, *folder.parents[: len(below.parts)])


@cache
def huge_page_bytes(
    path: Path = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
) -> int:
    """Size of the kernel's huge pages; 0 if programs can't ask for them.

    2 MiB with pages of 4 KiB, 32 MiB with 16 KiB, 512 MiB with 64 KiB.
    """
    return int(path.read_text()) if path.exists() else 0


def storage_device(folder: Path, devices: Path = Path("/sys/dev/block")) -> str:
    """Name and kind of the device that a folder lies on; empty if it has none of its own."""
    number = os.stat(folder).st_dev
    link = devices / f"{os.major(number)}:{os.minor(number)}"
    if not link.exists():
        return ""
    device = link.resolve()
    disk = device.parent if (device / "partition").exists() else device
    kind = "NVMe" if disk.name.startswith("nvme") else ""
    if disk.name.startswith("mmcblk"):
        is_card = (disk / "device" / "type").read_text().strip() == "SD"
        kind = "SD card" if is_card else "eMMC"
    return f"{device.name} ({kind})" if kind else device.name


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name by the driver, and its compute capability as in ``sm90``."""

    name: str
    target: str


def device_count() -> int:
    """Number of GPUs, at least 1; the driver is asked without any CUDA package.

    Raises
    ------
    BackendUnavailableError
        There is no driver, or it has no GPU. Runtime libraries would crash.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise BackendUnavailableError(
            "there is no CUDA driver here",
            why=str(error),
            hint="install NVIDIA's driver, or build with --backend onnxruntime",
        ) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise BackendUnavailableError(
            "there is no CUDA GPU here",
            why=f"the driver answers {status} and counts {count.value} devices",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or build with --backend onnxruntime",
        )
    return count.value


def first_gpu() -> Gpu | None:
    """The first GPU; None without a GPU or driver."""
    try:
        device_count()
    except BackendUnavailableError:
        return None
    driver = ctypes.CDLL(_DRIVER)
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    refused = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(refused):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that the host can give without swapping; 0 if it does not say."""
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(next(found, 0))


def usable_memory_bytes() -> int:
    """Memory that the host can give, or the kernel's limit for this process where it is lower."""
    return min(memory_bytes(), available_memory_bytes() or memory_bytes())


def memory_to_measure_in_bytes() -> int:
    """Memory that a model may take while it is measured; where that is less, it is swapped."""
    return memory_bytes() // _MEASURING_SHARE


def peak_resident_bytes() -> int:
    """Peak of this process's resident memory, by the kernel's count (VmHWM)."""
    return _status_bytes("VmHWM")


def forget_peak() -> None:
    """Begin a new peak of this process's resident memory, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_anonymous_bytes() -> int:
    """Upper limit of the anonymous memory that was resident since `forget_peak`.

    File pages are those of now: there must not have been fewer of them; see `map_files`.
    """
    return _status_bytes("VmHWM") - _status_bytes("RssFile") - _status_bytes("RssShmem")


def map_files() -> None:
    """Map all pages of the files that this process has mapped, so that their number stays.

    The kernel has done so on demand since Linux 5.14; before, nothing happens.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights[0] == "r" and path and path[0][0] == "/":
            start, end = (int(address, 16) for address in area.split("-"))
            populate = ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_READ
            ctypes.CDLL(None).madvise(*populate)


def trim_heap() -> None:
    """Return what the C library's heap holds free, as far as it can (not in musl)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def close_files() -> None:
    """Close all files of this process but the standard streams.

    The limit of open files may be a thousand million: too many to close one by one.
    """
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            with suppress(OSError):  # the list itself was one
                os.close(number)


def own_pages() -> None:
    """Copy the pages that a forked process shares with its parent.

    A memory group that it joins counts only later pages then. Called while it has one thread.
    """
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        for line in Path("/proc/self/maps").read_text().splitlines():
            area, rights = line.split()[:2]
            if rights != "rw-p":
                continue
            start, end = (int(address, 16) for address in area.split("-"))
            pagemap.seek(start // mmap.PAGESIZE * 8)
            entries = pagemap.read((end - start) // mmap.PAGESIZE * 8)
            for page in range(len(entries) // 8):
                if entries[page * 8 + 7] & 0x80:  # it is in memory
                    address = start + page * mmap.PAGESIZE
                    # In one call: the interpreter changes bytes of its own between two of them.
                    ctypes.memmove(address, address, 1)


def anonymous_bytes() -> int:
    """Anonymous memory of this process that is resident (RssAnon)."""
    return _status_bytes("RssAnon")


@dataclass(frozen=True, order=True)
class FileMapping:
    """Addresses at which this process has a part of a file.

    Attributes
    ----------
    start, end
        First address, and the one after the last.
    offset
        Byte of the file at ``start``.
    """

    start: int
    end: int
    offset: int


def mappings_of(path: Path, maps: Path = Path("/proc/self/maps")) -> list[FileMapping]:
    """The private mappings of a file in this process; none where the kernel does not say.

    The kernel joins neighbours: one mapping may be of several calls.
    """
    file = os.path.realpath(path)
    found: list[FileMapping] = []
    for line in maps.read_text().splitlines() if maps.exists() else ():
        addresses, mode, offset, _, _, *name = line.split(maxsplit=5)
        if name == [file] and mode.endswith("p"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            found.append(FileMapping(start, end, int(offset, 16)))
    return found


def address_holes(most_bytes: int, maps: Path = Path("/proc/self/maps")) -> list[tuple[int, int]]:
    """Begin and end of each small hole in the address space, where neither heap nor stack grows."""
    lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()]
    ends = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    return [
        (before[1], after[0])
        for (below, above), (before, after) in zip(pairwise(lines), pairwise(ends), strict=True)
        if 0 < after[0] - before[1] < most_bytes
        and below[-1] != "[heap]"
        and above[-1] != "[stack]"
    ]


def kernel_module_version(path: Path = Path("/sys/module/nvidia/version")) -> str:
    """Version of NVIDIA's kernel module; empty if it is not loaded."""
    return path.read_text().strip() if path.exists() else ""


def _status_bytes(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def filesystem_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Number of the device that holds a file, and the type of its filesystem if known."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [device]:
            return f"{device} {after.split()[0]}"
    return device
