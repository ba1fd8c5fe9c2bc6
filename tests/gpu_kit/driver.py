"""Build ``driver.cpp``: a ``libcuda.so.1`` that needs no GPU, for rehearsals with the real pycuda.

``python -m tests.gpu_kit.driver FOLDER``; then put the folder in ``LD_LIBRARY_PATH``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from swapnet.errors import BackendUnavailableError

__all__ = ["build_driver"]

_SOURCE = Path(__file__).with_name("driver.cpp")
_INCLUDES = (Path("/usr/local/cuda/include"), Path("/usr/include"))


def build_driver(folder: Path, includes: Sequence[Path] = _INCLUDES) -> Path:
    """Compile it, with a refusal for each function of ``cuda.h`` that it has not.

    Parameters
    ----------
    folder
        Where the library goes.
    includes
        Where ``cuda.h`` may lie.

    Raises
    ------
    BackendUnavailableError
        There is no compiler, or there are no headers of CUDA.
    """
    include = next((path for path in includes if (path / "cuda.h").exists()), None)
    compiler = shutil.which("g++")
    if include is None or compiler is None:
        raise BackendUnavailableError(
            "the driver without a GPU can't be built",
            why="it needs g++ and cuda.h",
            hint="install a C++ compiler and the headers of CUDA 13",
        )
    declared = {"cuProfilerInitialize", "cuProfilerStart", "cuProfilerStop"}
    command = [compiler, "-E", str(include / "cuda.h")]
    header = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    declared.update(re.findall(r"\b(cu[A-Z]\w*)\s*\(", header))
    written = set(re.findall(r"^CUresult (cu\w+)\(", _SOURCE.read_text(), re.MULTILINE))
    rest = folder / "rest.c"
    rest.write_text("".join(f"int {n}(void) {{ return 801; }}\n" for n in declared - written))
    library = folder / "libcuda.so.1"
    subprocess.run([compiler[:-2] + "cc", "-fPIC", "-c", "rest.c"], cwd=folder, check=True)
    command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", f"-I{include}"]
    command += ["-Wl,-soname,libcuda.so.1", str(_SOURCE), "rest.o", "-o", str(library)]
    subprocess.run(command, cwd=folder, check=True)
    return library


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    build_driver(target)
