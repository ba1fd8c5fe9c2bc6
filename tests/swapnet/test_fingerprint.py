from __future__ import annotations

import platform
from pathlib import Path

import pytest

from swapnet.fingerprint import cpu_fingerprint, int8_saturates, processor_fingerprint


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx avx2 avx512f\n", ["avx512f", "avx2", "avx"]),
        ("processor\t: 0\nflags\t\t: fpu avx avx2\n", ["avx2", "avx"]),
        ("Features\t: fp asimd evtstrm\n", ["asimd"]),
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
        ("Features\t: fp asimd asimddp\n", False),
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
