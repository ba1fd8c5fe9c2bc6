"""Unpack the parts of the kit that are here; needs nothing but Python.

``python unpack.py KIT HOME`` keeps parts in ``HOME/parts``, so that they may come in several trips.
What is whole is unpacked into ``HOME/site``.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import shutil
import sys
import tarfile
from pathlib import Path

__all__ = ["unpack"]


def unpack(kit: Path, home: Path) -> list[str]:
    """Unpack what is whole.

    Parameters
    ----------
    kit
        Folder with ``manifest.json`` and parts, in folders of trips.
    home
        Where parts are kept, and unpacked.

    Returns
    -------
    list of str
        Names of the groups that are there.

    Raises
    ------
    ValueError
        A part is damaged.
    """
    parts, site = home / "parts", home / "site"
    for folder in (parts, site):
        folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[dict[str, str]]] = json.loads((kit / "manifest.json").read_text())
    for path in kit.glob("trip-*/*.part"):
        shutil.copyfile(path, parts / path.name)
    found: list[str] = []
    for group, wanted in groups.items():
        mark = site / f"{group}.done"
        whole = "".join(part["sha256"] for part in wanted)
        if mark.exists() and mark.read_text() == whole:
            found.append(group)
            continue
        missing = [part["name"] for part in wanted if not (parts / part["name"]).exists()]
        if missing:
            sys.stderr.write(f"{group}: {', '.join(missing)} of {len(wanted)} not here yet\n")
            continue
        packed = b"".join(_checked(parts / part["name"], part["sha256"]) for part in wanted)
        shutil.rmtree(site / group, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
            archive.extractall(site / group, filter="data")
        mark.write_text(whole)
        found.append(group)
    return found


def _checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        path.unlink()
        raise ValueError(f"{path.name} is damaged, or of another kit: carry it again")
    return data


if __name__ == "__main__":
    print(" ".join(unpack(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
