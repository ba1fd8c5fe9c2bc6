"""Debian's chromium without a screen and without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["console_of"]

_SAID = re.compile(r'CONSOLE:\d+\] "(.*)", source: ')

_ALONE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"),
)
_LIMIT_S = 60


def console_of(page: Path, folder: Path, *, width: int, is_dark: bool) -> tuple[list[str], Path]:
    """Load a page; what its console says, and a picture of it.

    Skips the test where there is no chromium.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    picture = folder / f"{width}-{is_dark}.png"
    command = [
        *(browser, *_ALONE, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2400"),
        *("--hide-scrollbars", "--virtual-time-budget=4000", "--enable-logging=stderr"),
        f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
        *(f"--screenshot={picture}", page.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    return _SAID.findall(ran.stderr), picture
