from __future__ import annotations

import platform
from pathlib import Path

import pytest

from swapnet.fingerprint import cpu_fingerprint


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


def test_is_the_architecture_where_nothing_is_known(tmp_path: Path) -> None:
    assert cpu_fingerprint(tmp_path / "none") == platform.machine()
