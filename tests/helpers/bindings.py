"""The real Python bindings of TensorRT, where neither its libraries nor a GPU are.

Bindings come from PyPI, pinned. The libraries under them are stubs whose functions return nothing,
so classes, enumerations and callbacks are real, but nothing can be built or run. All of it happens
in a child process, which may crash.

    assert ask("11.4.0.106", "answer = trt.__version__") == "11.4.0.106"
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swapnet.files import cache_folder
from swapnet.models.cache import create
from swapnet.models.fetch import file_sha256

__all__ = ["RTX", "VERSIONS", "ask", "backend_of", "check_pin"]

RTX = "tensorrt-rtx"
"""In place of a version: the TensorRT-RTX that is installed."""

_PINNED: Mapping[str, Mapping[str, str]] = {
    "10.16.1.11": {
        "cp310": "c8e171511a01a2678cb3e00ca4792bc1d7ea6c48da9781ab127970f6ad1edc4a",
        "cp311": "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294",
        "cp312": "2fb87ac24a5e5f42e43f283c16d1b661dc72ef18568fd847ce2080b7db9ca232",
        "cp313": "da17c222ba99f46e77e1dab568cd17c4652b0432d4fae074e4c79285356aa0ac",
    },
    "11.4.0.106": {
        "cp310": "1d17853da33a186c4d4d39995c1186bb59f643689aabac9c3e33ae5f0ba402f5",
        "cp311": "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
        "cp312": "5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d",
        "cp313": "bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5",
    },
}
"""SHA-256 of the wheels for x86_64, by version and Python."""

VERSIONS = (*_PINNED, RTX)

_ROOT = Path(__file__).parents[2]

_PATIENCE_S = 120

_SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
"""The package ``tensorrt``, as NVIDIA's own wheel has it."""

_CUDA = """
int cuPointerGetAttribute(void *to, int attribute, unsigned long long pointer) { return 1; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t nbytes) { return 1; }
"""
"""What ``IStreamReaderV2`` asks the driver, which knows no pointer: all memory is the host's."""

_CHILD = """
import json, os, sys
to = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from swapnet.tensorrt import load_tensorrt
trt = load_tensorrt(sys.argv[1])
exec(sys.stdin.read())
to.write(json.dumps(answer))
to.close()
"""
"""What the bindings print goes to standard error: standard output is the answer's."""


def backend_of(version: str) -> str:
    """The backend whose library a version is of."""
    return RTX if version == RTX else "tensorrt"


def ask(version: str, script: str) -> Any:
    """Run a script in a child process, where ``trt`` is the module, and return its ``answer``.

    Parameters
    ----------
    version
        One of `VERSIONS`.
    script
        Assigns something that JSON can carry to ``answer``.
    """
    libraries, packages = [_stub_libraries(version)], [_ROOT]
    if version != RTX:
        packages.insert(0, _bindings(version))
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, backend_of(version)],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
        cwd=_ROOT,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": _joined(libraries, "LD_LIBRARY_PATH"),
            "PYTHONPATH": _joined(packages, "PYTHONPATH"),
        },
    )
    if done.returncode:
        raise AssertionError(f"TensorRT {version}: exit status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def check_pin(wheel: Path, sha256: str) -> None:
    """Compare a downloaded file with the one that was pinned."""
    found = file_sha256(wheel)
    if found != sha256:
        raise AssertionError(f"{wheel.name} is not the pinned file: {found}, expected {sha256}")


def _joined(folders: list[Path], variable: str) -> str:
    """Before what the variable holds now."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(variable)])])


@cache
def _bindings(version: str) -> Path:
    """The folder of the packages ``tensorrt`` and ``tensorrt_bindings``, kept in the cache."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the bindings of TensorRT are pinned for x86_64, this is {platform.machine()}")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    sha256 = _PINNED[version].get(tag)
    if sha256 is None:
        raise AssertionError(f"the bindings of TensorRT {version} are not pinned for {tag}")

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _download(version, Path(scratch))
            check_pin(wheel, sha256)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        for package, source in (("tensorrt", _SHIM), ("tensorrt_libs", "")):
            (folder / package).mkdir()
            (folder / package / "__init__.py").write_text(source)

    return create(cache_folder() / "bindings" / f"{version}-{tag}", unpack)


def _download(version: str, folder: Path) -> Path:
    """The wheel for this Python."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(folder)),
        f"tensorrt-cu13-bindings=={version}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the bindings of TensorRT {version} can't be had:\n{done.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


@cache
def _stub_libraries(version: str) -> Path:
    """The folder of the libraries that the bindings of a version load, kept in the cache."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    if version == RTX and find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed")
    sources = {"libcuda.so.1": "#include <stddef.h>\n" + _CUDA}
    if version != RTX:
        library = _bindings(version) / "tensorrt_bindings" / "tensorrt.so"
        functions = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in _missing(library))
        sources.update(dict.fromkeys(_needed(library), functions))

    def compile_all(folder: Path) -> None:
        for name, source in sources.items():
            _compile(source, folder / name)

    key = hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]
    return create(cache_folder() / "bindings" / f"stubs-{key}", compile_all)


def _needed(library: Path) -> list[str]:
    """NVIDIA's libraries that a library links to."""
    return re.findall(r"\[(libnv[^]]+)\]", _output("readelf", "--dynamic", "--wide", library))


def _missing(library: Path) -> list[str]:
    """Functions of a library that neither this process nor a versioned system library has."""
    lines = _output("nm", "--dynamic", "--undefined-only", library).splitlines()
    names = [line.split()[-1] for line in lines if line.split()[0] == "U"]
    process = ctypes.CDLL(None)
    return [name for name in names if "@" not in name and not hasattr(process, name)]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile(source: str, library: Path) -> None:
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-xc", "-", "-o", library],
        input=source,
        text=True,
        check=True,
    )
