"""Groups of the second version, on kernels with and without what this one has."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swapnet.errors import BackendUnavailableError
from swapnet.process.cgroup import (
    MemoryGroup,
    _Sampled,
    check_available,
    is_available,
)
from tests.helpers.control_groups import stand_in

PI = "coherent_pool=1M cgroup_disable=memory console=tty1"


def test_the_kernel_keeps_the_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path)
    assert is_available()
    with MemoryGroup(None) as group:
        assert group.accounting == "kernel"
    with MemoryGroup(1 << 20) as group:
        folder = group.processes_file.parent
        assert not group.is_sampled
        assert group.accounting == "kernel limit"
        assert group.peak_bytes == 8192
        assert (folder / "memory.max").read_text() == str(1 << 20)
        assert (folder / "memory.swap.max").read_text() == "0"
        group.lift()
        assert (folder / "memory.max").read_text() == "max"
    assert not folder.exists()


@pytest.mark.parametrize(("missing", "cached_bytes"), [("", 3072), ("memory.stat", 0)])
def test_page_cache_is_told_from_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, cached_bytes: int
) -> None:
    stand_in(monkeypatch, tmp_path, missing=missing)
    with MemoryGroup(None) as group:
        assert group.cached_bytes == cached_bytes


def test_an_older_kernel_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, missing="memory.peak")

    def change(file: Path, text: str) -> None:
        """At once: the thread must not find the file empty."""
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(file)

    before = threading.active_count()
    assert is_available()
    with MemoryGroup(1 << 20) as group:
        folder = group.processes_file.parent
        assert group.is_sampled
        assert group.accounting == "kernel limit, sampled"
        assert (folder / "memory.max").read_text() == str(1 << 20)
        assert group.peak_bytes == 4096
        change(folder / "memory.current", "65536")
        until = time.monotonic() + 10
        while group._sampled is not None and group._sampled._most < 65536:
            assert time.monotonic() < until
            time.sleep(0.001)
        change(folder / "memory.current", "4096")
        assert group.peak_bytes == 65536
        group.forget_peak()
        assert group.peak_bytes == 4096
    assert not folder.exists()
    assert threading.active_count() == before


def test_a_new_peak_is_sampled_where_the_kernel_keeps_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path)
    with MemoryGroup(None) as group:
        group.forget_peak()
        assert group.peak_bytes == 4096
        assert group.accounting == "kernel, sampled"


def test_memory_is_passed_on_where_it_is_not_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = stand_in(monkeypatch, tmp_path, passed_on="cpu")
    with MemoryGroup(1 << 20) as group:
        assert (group.processes_file.parent / "memory.max").read_text() == str(1 << 20)
    assert (root / "cgroup.subtree_control").read_text().split() == ["cpu", "memory"]


def test_where_memory_is_not_passed_on_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = stand_in(monkeypatch, tmp_path, passed_on="cpu", missing="busy")
    with pytest.raises(BackendUnavailableError) as caught:
        MemoryGroup(1 << 20)
    control = root / "cgroup.subtree_control"
    assert caught.value.why == f"{control} does not take +memory: Device or resource busy"
    assert "run as root" in caught.value.hint
    assert not is_available()
    assert not list(root.glob("swapnet-*"))


def test_a_limit_that_can_not_be_set_leaves_no_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = stand_in(monkeypatch, tmp_path, missing="memory.max")
    with pytest.raises(BackendUnavailableError, match="limit is not available"):
        MemoryGroup(1 << 20)
    assert not list(root.glob("swapnet-*"))


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (PI, "add cgroup_enable=memory to /boot/firmware/cmdline.txt and reboot"),
        ("cgroup_disable=cpu,memory", "add cgroup_enable=memory"),
        ("cgroup_disable=cpu quiet", "run as root where cgroups have a memory controller"),
        (f"{PI} cgroup_enable=memory", "run as root where cgroups have a memory controller"),
    ],
)
def test_the_hint_is_for_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: str, cure: str
) -> None:
    stand_in(monkeypatch, tmp_path, controllers="cpu pids", options=options)
    assert not is_available()
    with pytest.raises(BackendUnavailableError) as caught:
        MemoryGroup(1 << 20)
    assert caught.value.hint.startswith(cure)
    assert caught.value.hint.endswith(", or leave --memory-limit out")
    assert ("cgroup_disable=memory" in caught.value.why) == cure.startswith("add")
    with pytest.raises(BackendUnavailableError, match="or leave --memory-limit out"):
        check_available()


def test_no_groups_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CGROUP_V1", "CGROUP_V2", "KERNEL_OPTIONS"):
        monkeypatch.setattr(f"swapnet.process.cgroup.{name}", tmp_path / "none")
    assert not is_available()
    with pytest.raises(BackendUnavailableError, match=r"run as root .* leave --memory-limit out"):
        MemoryGroup(1 << 20)


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="no permission for cgroups with memory limits")
def test_what_is_sampled_is_what_the_kernel_counts() -> None:
    """Memory that a process holds is seen, and never more than the kernel's own peak."""
    code = "held = b'1' * (64 << 20); print(len(held), flush=True); input()"
    with MemoryGroup(None) as group:
        folder = group.processes_file.parent
        files = [folder / "memory.usage_in_bytes", folder / "memory.current"]
        sampled = _Sampled(next(file for file in files if file.exists()))
        join = f'echo $$ > "{group.processes_file}"; exec "$@"'
        command = ["sh", "-c", join, "sh", sys.executable, "-c", code]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == 64 << 20
            assert sampled.peak_bytes >= 64 << 20
            process.communicate("\n")
        sampled.stop()
        assert 64 << 20 <= sampled.peak_bytes <= group.peak_bytes
        group.forget_peak()
        assert group.peak_bytes < 64 << 20
