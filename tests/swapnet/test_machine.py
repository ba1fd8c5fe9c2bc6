"""What this machine says of itself, and what others would."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swapnet import machine
from swapnet.machine import Gpu, first_gpu, huge_page_bytes, memory_bytes, storage_device
from swapnet.process.cgroup import MemoryGroup, is_available


def test_the_machine_has_at_most_its_memory() -> None:
    assert 0 < memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


V1 = "35 31 0:32 / {point} rw - cgroup cgroup rw,memory"
V2 = "41 31 0:38 / {point} rw - cgroup2 cgroup2 rw"
OTHERS = "32 31 0:29 / {point}/cpu rw - cgroup cgroup rw,cpu"


def a_process(folder: Path, cgroup: str, mount: str, limits: dict[str, str]) -> Path:
    """The kernel's files of a process, and limits by the folder of their group."""
    point = folder / "groups"
    for group, limit in limits.items():
        (point / group).mkdir(parents=True, exist_ok=True)
        name = "memory.max" if "cgroup2" in mount else "memory.limit_in_bytes"
        (point / group / name).write_text(f"{limit}\n")
    (folder / "cgroup").write_text(f"1:cpu:/elsewhere\n{cgroup}\n")
    lines = "\n".join((OTHERS, mount)).format(point=point)
    (folder / "mountinfo").write_text(f"{lines}\n")
    return folder


@pytest.mark.parametrize(("cgroup", "mount"), [("4:cpuacct,memory:/a/b", V1), ("0::/a/b", V2)])
@pytest.mark.parametrize("limited", ["", "a", "a/b"])
def test_the_limit_of_any_group_that_holds_the_process_counts(
    tmp_path: Path, cgroup: str, mount: str, limited: str
) -> None:
    limits = {group: "4096" if group == limited else "max" for group in ("", "a", "a/b")}
    process = a_process(tmp_path, cgroup, mount, {**limits, "a/other": "1"})
    assert memory_bytes(process) == 4096


def test_the_lowest_of_nested_limits_counts(tmp_path: Path) -> None:
    limits = {"a": "8192", "a/b": "4096", "a/b/below": "1"}
    assert memory_bytes(a_process(tmp_path, "0::/a/b", V2, limits)) == 4096


@pytest.mark.parametrize(
    ("inside", "root"), [("/", "/"), ("/docker/7", "/docker/7"), ("/../x", "/"), ("/other", "/x")]
)
def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path, inside: str, root: str) -> None:
    mount = V2.replace("0:38 /", f"0:38 {root}")
    process = a_process(tmp_path, f"0::{inside}", mount, {"": "4096"})
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "memory.max").write_text("1\n")
    assert memory_bytes(process) == 4096


def test_a_kernel_without_groups_limits_nothing(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_bytes(tmp_path) == physical


@pytest.mark.slow
def test_a_limit_of_the_kernel_is_seen() -> None:
    if not is_available():
        pytest.skip("no group with a memory limit can be made here")
    with MemoryGroup(64 << 20) as group:
        code = "import swapnet.machine; print(swapnet.machine.memory_bytes())"
        join = f'echo $$ > "{group.processes_file}"; exec "$@"'
        found = subprocess.run(
            ["sh", "-c", join, "sh", sys.executable, "-c", code], capture_output=True, check=True
        )
    assert int(found.stdout) == 64 << 20


def test_huge_pages_are_as_large_as_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "hpage_pmd_size").write_text("33554432\n")
    assert huge_page_bytes(tmp_path / "hpage_pmd_size") == 32 << 20
    assert huge_page_bytes(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("device", "type_", "expected"),
    [
        ("mmcblk0/mmcblk0p2", "SD", "mmcblk0p2 (SD card)"),
        ("mmcblk1", "MMC", "mmcblk1 (eMMC)"),
        ("nvme0n1/nvme0n1p1", "", "nvme0n1p1 (NVMe)"),
        ("sda/sda1", "", "sda1"),
    ],
)
def test_storage_is_named_with_its_kind(
    tmp_path: Path, device: str, type_: str, expected: str
) -> None:
    disk, _, partition = device.partition("/")
    (tmp_path / disk / "device").mkdir(parents=True)
    (tmp_path / disk / "device" / "type").write_text(f"{type_}\n")
    if partition:
        (tmp_path / device).mkdir()
        (tmp_path / device / "partition").write_text("1\n")
    number = os.stat(tmp_path).st_dev
    assert storage_device(tmp_path, tmp_path / "none") == ""
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(device)
    assert storage_device(tmp_path, tmp_path) == expected


class Driver:
    """The driver's calls, with one device of compute capability 8.7."""

    def __init__(self, count: int) -> None:
        self.count = count

    def cuInit(self, flags: int) -> int:
        return flags

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 5
        return 0 if index < self.count else 101

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        assert (length, device.value) == (256, 5)
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        assert device.value == 5
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


@pytest.mark.parametrize(("count", "found"), [(1, Gpu("Orin", "sm87")), (0, None)])
def test_the_driver_is_asked_for_its_first_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, found: Gpu | None
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(count))
    assert first_gpu() == found


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.machine._DRIVER", "libnothing-of-this-name.so")
    assert first_gpu() is None


def test_usable_memory_is_no_more_than_the_host_has_or_the_kernel_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, allowed in ((3 << 20, 8 << 20), (8 << 20, 3 << 20), (0, 3 << 20)):
        monkeypatch.setattr(machine, "available_memory_bytes", partial(int, free))
        monkeypatch.setattr(machine, "memory_bytes", partial(int, allowed))
        assert machine.usable_memory_bytes() == 3 << 20


def test_private_mappings_of_a_file_are_found_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.touch()
    maps = tmp_path / "maps"
    maps.write_text(
        "7f0000000000-7f0000004000 rw-p 00008000 fe:00 7                    "
        f"{file.resolve()}\n"
        "7f0000004000-7f0000008000 rw-p 00000000 00:00 0 \n"
        f"7f000000c000-7f0000010000 r--s 00000000 fe:00 7                    {file.resolve()}\n"
        f"7f0000008000-7f000000c000 r--p 00000000 fe:00 8                    {file}.other\n"
    )
    found = machine.mappings_of(file, maps)
    assert found == [machine.FileMapping(0x7F0000000000, 0x7F0000004000, 0x8000)]
    assert machine.mappings_of(file, tmp_path / "none") == []


def test_pages_of_files_can_be_mapped_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(bytes(1 << 21))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        machine.map_files()
        before = machine._status_bytes("RssFile")
        assert not sum(memory[:: mmap.PAGESIZE])
        assert machine._status_bytes("RssFile") <= before + (1 << 19)
