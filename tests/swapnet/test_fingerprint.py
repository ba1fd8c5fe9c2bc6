from __future__ import annotations

import mmap
import platform
from pathlib import Path

import pytest

from swapnet.fingerprint import (
    cpu_fingerprint,
    int8_saturates,
    kernel_fingerprint,
    processor_fingerprint,
)
from tests.helpers.boards import BOARDS, board_files

X86_FLAGS = "flags\t\t: fpu avx avx2 avx512f avx512_vnni\n"


@pytest.fixture(autouse=True)
def x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is an x86-64 one, whatever runs the test."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is a 64-bit ARM one."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx avx2 avx512f\n", ["avx512f", "avx2", "avx"]),
        ("processor\t: 0\nflags\t\t: fpu avx avx2\n", ["avx2", "avx"]),
        ("Features\t: fp asimd evtstrm\n", []),
        ("model name : flags of avx2\n", []),
    ],
)
def test_names_what_fixes_the_layout(tmp_path: Path, cpuinfo: str, features: list[str]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert cpu_fingerprint(path) == "+".join([platform.machine(), *features])


@pytest.mark.parametrize(
    ("cpuinfo", "saturates"),
    [
        ("flags\t\t: fpu avx avx2\n", True),
        ("flags\t\t: fpu avx avx2 avx512f\n", True),
        ("flags\t\t: fpu avx avx2 avx512f avx512_vnni\n", False),
        ("flags\t\t: fpu avx avx2 avx_vnni\n", False),
        ("", False),
    ],
)
def test_sums_saturate_without_vnni(tmp_path: Path, cpuinfo: str, saturates: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert int8_saturates(path) == saturates


@pytest.mark.parametrize(
    ("flags", "added"),
    [("avx avx2 avx_vnni", "+vnni"), ("avx avx2 avx512_vnni", "+vnni"), ("avx avx2", "")],
)
def test_int8_engines_are_for_processors_with_vnni(tmp_path: Path, flags: str, added: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags\t\t: {flags}\n")
    assert processor_fingerprint(path) == cpu_fingerprint(path) + added


def test_is_the_architecture_where_nothing_is_known(tmp_path: Path) -> None:
    assert cpu_fingerprint(tmp_path / "none") == platform.machine()


@pytest.mark.usefixtures("arm")
@pytest.mark.parametrize("board", BOARDS)
def test_all_arm_processors_are_compiled_for_alike(board: str) -> None:
    cpuinfo, _ = board_files(board)
    assert cpu_fingerprint(cpuinfo) == processor_fingerprint(cpuinfo) == "aarch64+asimd"
    assert not int8_saturates(cpuinfo)


@pytest.mark.usefixtures("arm")
@pytest.mark.parametrize("flags", [X86_FLAGS, X86_FLAGS.replace(" avx512_vnni", ""), ""])
def test_an_emulator_that_shows_its_host_is_not_believed(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(flags)
    assert cpu_fingerprint(path) == processor_fingerprint(path) == "aarch64+asimd"
    assert not int8_saturates(path)


def test_another_processor_has_no_features_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86_FLAGS)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert cpu_fingerprint(path) == "riscv64"


@pytest.mark.parametrize(("page_bytes", "pages"), [(1 << 14, ""), (1 << 16, "+64k")])
def test_kernels_follow_features_and_large_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_bytes: int, pages: str
) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", page_bytes)
    path = tmp_path / "cpuinfo"
    path.write_text(X86_FLAGS)
    assert kernel_fingerprint(path) == f"x86_64+avx+avx2+avx512f+avx512_vnni{pages}"


def test_an_emulator_names_the_features_of_the_processor(arm: None) -> None:
    del arm
    machine, *features = kernel_fingerprint().split("+")
    assert machine == "aarch64"
    assert len(features) >= 2
    assert all(int(number, 16) >= 0 for number in features[:2])
