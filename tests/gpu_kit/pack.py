"""Pack the GPU kit: the repository, packages and model files, in trips of at most 60 MiB.

``python -m tests.gpu_kit.pack [--groups code,core] [--pycuda WHEEL]`` writes ``gpu-kit/``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["GROUPS", "PART_BYTES", "Part", "main", "pack", "split", "trips_of"]

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_MIB = 1 << 20
PART_BYTES = 52 * _MIB
"""With trip-a and the working tree less than 60 MiB."""

_PYTHON = "3.12"
_PLATFORMS = (
    *("manylinux_2_39_x86_64", "manylinux_2_35_x86_64", "manylinux_2_34_x86_64"),
    *("manylinux_2_31_x86_64", "manylinux_2_28_x86_64", "manylinux_2_27_x86_64"),
    *("manylinux_2_17_x86_64", "manylinux2014_x86_64"),
)
_WHEELS = {
    "core": (
        *("click==8.5.1", "msgspec==0.23.0", "polygraphy==0.53.6"),
        *("rich==15.0.0", "markdown-it-py", "mdurl", "pygments"),
        *("pytools", "platformdirs", "mako", "markupsafe", "siphash24", "typing-extensions"),
    ),
    "ort": ("onnxruntime-gpu==1.31.1", "flatbuffers"),
    "rtx": ("tensorrt-rtx-cu13-bindings==1.7.1.116", "tensorrt-rtx-cu13-libs==1.7.1.116"),
}
_PYCUDA = "pycuda==2026.1"
_LEFT_OUT = (
    *("onnxruntime/tools/", "onnxruntime/transformers/", "onnxruntime/quantization/"),
    *("/tests/", "libonnxruntime_providers_tensorrt"),
)
_RTX = "from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n"
"""The package of this name is published as source only; its parts are not."""

GROUPS = ("code", "core", "data", "ort", "rtx")
_KEPT = ("ort", "rtx")
_LETTERS = {"code": "a", "core": "a", "data": "b", "ort": "b", "rtx": "c"}
_SHIPPED = ("run.sh", "unpack.py", "manifest.json", "trip-a")


def pack(out: Path, groups: Sequence[str], pycuda: Path | None = None) -> list[str]:
    """Write the kit.

    Parameters
    ----------
    out
        Folder of the kit; parts and programs in it are replaced.
    groups
        Of `GROUPS`.
    pycuda
        A wheel for Python 3.12, or a folder with one; made here if there is none.

    Returns
    -------
    list of str
        What could not be packed.

    Raises
    ------
    SystemExit
        A package can't be downloaded.
    """
    missing: list[str] = []
    parts: dict[str, list[Part]] = {}
    for group in groups:
        packed = _kept(group, out)
        if packed is None:
            with TemporaryDirectory() as folder:
                if not _gather(group, Path(folder), pycuda, out):
                    missing.append("pycuda: without it part a and all GPU backends do nothing")
                packed = _packed(Path(folder))
            if group in _KEPT:
                _kept_at(group, out).parent.mkdir(parents=True, exist_ok=True)
                _kept_at(group, out).write_bytes(packed)
        parts[group] = split(group, packed)
    for old in out.glob("trip-*"):
        shutil.rmtree(old)
    trips = trips_of(parts)
    for trip, carried in trips.items():
        (out / trip).mkdir(parents=True)
        for part in carried:
            (out / trip / part.name).write_bytes(part.data)
    manifest = {
        group: [{"name": p.name, "sha256": hashlib.sha256(p.data).hexdigest()} for p in found]
        for group, found in parts.items()
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for name in ("run.sh", "unpack.py"):
        shutil.copyfile(_HERE / name, out / name)
    (out / "README.txt").write_text(_readme(trips, missing))
    return missing


@dataclass(frozen=True)
class Part:
    """A piece of a packed group that one trip carries."""

    name: str
    data: bytes


def split(group: str, packed: bytes) -> list[Part]:
    """Parts of what was packed."""
    starts = range(0, len(packed), PART_BYTES)
    return [Part(f"{group}-{n}.part", packed[at:][:PART_BYTES]) for n, at in enumerate(starts)]


def trips_of(parts: Mapping[str, Sequence[Part]]) -> dict[str, list[Part]]:
    """Parts by trip: trip-a is small and goes along each time; models go with the last of b."""
    trips: dict[str, list[Part]] = {}
    for group, found in parts.items():
        letter = _LETTERS[group]
        for number, part in enumerate(found):
            trip = f"trip-{letter}{number + 1}" if letter != "a" else "trip-a"
            if group == "data":
                trip = f"trip-b{max(len(parts.get('ort', ())), 1)}"
            trips.setdefault(trip, []).append(part)
    return trips


def _kept_at(group: str, out: Path) -> Path:
    digest = hashlib.sha256(repr((_WHEELS[group], _LEFT_OUT)).encode()).hexdigest()[:16]
    return out / "packed" / f"{group}-{digest}.xz"


def _kept(group: str, out: Path) -> bytes | None:
    """What was packed before: compressing it takes minutes."""
    if group not in _KEPT or not _kept_at(group, out).exists():
        return None
    return _kept_at(group, out).read_bytes()


def _gather(group: str, site: Path, pycuda: Path | None, out: Path) -> bool:
    """Put what a group has into a folder; False where pycuda is missing."""
    if group == "code":
        _copy_code(site)
    elif group == "data":
        _copy_data(site)
    else:
        _download(group, site)
    return group != "core" or _add_pycuda(site, pycuda, out)


def _copy_code(site: Path) -> None:
    """Files that git tracks, or would track, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = _ROOT / name, site / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _copy_data(site: Path) -> None:
    """What models of part b are made of, as the cache has it: seeded ones need pictures only."""
    from swapnet.files import cache_folder
    from swapnet.models import images, ppocr
    from swapnet.models.fetch import member

    pictures = [(images.SKIMAGE, path) for path in images.SKIMAGE.members]
    for wheel, path in (*pictures, (ppocr.RAPIDOCR, ppocr.RAPIDOCR.members[0])):
        source = member(wheel, path)
        target = site / source.relative_to(cache_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _download(group: str, site: Path) -> None:
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--python-version", _PYTHON]
        command += ["--implementation", "cp", "-d", folder]
        for platform in _PLATFORMS:
            command += ["--platform", platform]
        done = subprocess.run(
            [*command, *_WHEELS[group]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise SystemExit(f"gpu-kit: packages of {group} can't be downloaded: {last}")
        for wheel in sorted(Path(folder).glob("*.whl")):
            _unzip(wheel, site)
    if group == "rtx":
        (site / "tensorrt_rtx").mkdir(exist_ok=True)
        (site / "tensorrt_rtx" / "__init__.py").write_text(_RTX)


def _unzip(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if not any(part in f"/{n}" for part in _LEFT_OUT)]
        archive.extractall(site, names)


def _add_pycuda(site: Path, given: Path | None, out: Path) -> bool:
    """The wheel that is given, one that lies in ``wheels``, or one made here; False for none."""
    kept = out / "wheels"
    places = [given] if given is not None else [kept]
    for place in places:
        wheels = [place] if place.suffix == ".whl" else sorted(place.glob("pycuda-*cp312*.whl"))
        if wheels and wheels[-1].is_file():
            _unzip(wheels[-1], site)
            return True
    if given is not None:
        raise SystemExit(f"gpu-kit: {given} is no wheel of pycuda for Python {_PYTHON}")
    if sys.version_info[:2] != (3, 12) or not shutil.which("nvcc"):
        return False
    kept.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(kept), _PYCUDA]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    return _add_pycuda(site, kept, out)


def _packed(site: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(site, arcname=".")
    return lzma.compress(buffer.getvalue(), preset=6)


def _readme(trips: Mapping[str, Sequence[Part]], missing: Sequence[str]) -> str:
    """Trips, their sizes, and what to do."""
    sizes = {trip: sum(len(part.data) for part in parts) for trip, parts in trips.items()}
    always = sizes.get("trip-a", 0)
    lines = ["GPU kit of SwapNet: needs a machine with CUDA 13 and Python 3.12, no network.", ""]
    for trip, parts in sorted(trips.items()):
        size = sizes[trip] + (trip != "trip-a") * always
        names = ", ".join(part.name for part in parts)
        lines.append(f"{trip}: {names}; with trip-a {size / _MIB:.1f} MiB")
    lines += [
        "",
        f"Carry {', '.join(_SHIPPED)} and one more trip at a time, then: sh gpu-kit/run.sh",
        "It keeps parts in $KIT_HOME until a group is whole, then runs what it can.",
        "Results: $OUT, or gpu-kit/results.",
        "Part a needs trip-a, part b all of trip-b, part c all of trip-c.",
        *(f"Not packed: {reason}" for reason in missing),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack and print what there is."""
    parser = argparse.ArgumentParser(prog="make gpu-kit", description=__doc__)
    parser.add_argument("--out", type=Path, default=_ROOT / "gpu-kit")
    parser.add_argument("--groups", default=",".join(GROUPS), help="with commas")
    parser.add_argument("--pycuda", type=Path, metavar="WHEEL", help="or a folder with it")
    options = parser.parse_args(arguments)
    pack(options.out, options.groups.split(","), options.pycuda)
    sys.stdout.write((options.out / "README.txt").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
