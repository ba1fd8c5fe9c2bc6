"""Rehearse the packed kit: copied to an empty folder, in an empty environment, without a GPU.

``python -m tests.gpu_kit.rehearse --python python3.12``. Where g++, the headers of CUDA
and a packed pycuda are here, part a runs again with the real pycuda over a driver without a GPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from swapnet.errors import BackendUnavailableError
from tests.gpu_kit.driver import build_driver
from tests.gpu_kit.report import ROOT

__all__ = ["main", "rehearse"]

THERE = ("numpy", "onnx", "onnxruntime", "pytest", "hypothesis", "pillow")
"""Packages that a GPU machine is expected to have."""


def rehearse(
    kit: Path, python: str, folder: Path, *options: str, driver: Path | None = None
) -> int:
    """Run a copy of the kit; the exit status.

    Parameters
    ----------
    kit
        As it was packed.
    python
        Whose packages are used beside those of the kit.
    folder
        Where it is copied to.
    *options
        Of ``run.sh``.
    driver
        A folder with a ``libcuda.so.1``.
    """
    here = folder / "gpu-kit"
    if not here.exists():
        leave = shutil.ignore_patterns("packed", "wheels", "results")
        shutil.copytree(kit, here, ignore=leave)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHON": python,
        "OUT": str(folder / ("results-driver" if driver else "results")),
    }
    if driver is not None:
        environment["LD_LIBRARY_PATH"] = str(driver)
    started = time.perf_counter()
    done = subprocess.run(
        ["sh", "gpu-kit/run.sh", *options], cwd=folder, env=environment, check=False
    )
    sys.stdout.write(f"ended with {done.returncode} after {time.perf_counter() - started:.0f} s\n")
    sys.stdout.flush()
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse on the simulated GPU, then with the driver; the larger exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, default=ROOT / "gpu-kit")
    parser.add_argument("--python", default="python3.12")
    parser.add_argument("--seconds", default="900")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="swapnet-rehearsal-") as name:
        folder = Path(name)
        subprocess.run([options.python, "-m", "venv", "empty"], cwd=folder, check=True)
        python = str(folder / "empty" / "bin" / "python")
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *THERE], check=True)
        asked = ("--simulated", "--parts", "abc", "--seconds", options.seconds)
        status = rehearse(options.kit, python, folder, *asked)
        try:
            build_driver(folder)
        except BackendUnavailableError as error:
            sys.stdout.write(f"{error.what}: {error.why}\n")
            return status
        again = rehearse(options.kit, python, folder, "--small", "--parts", "a", driver=folder)
        return max(status, again)


if __name__ == "__main__":
    sys.exit(main())
