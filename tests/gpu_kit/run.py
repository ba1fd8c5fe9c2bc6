"""Run the parts of the kit: each check in a process of its own, results kept after each.

``python -m tests.gpu_kit.run --out FOLDER`` writes ``results-PART.json``, ``table.txt`` and a copy
of ``docs/gpu.md`` with the results in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from swapnet.errors import BackendUnavailableError, SwapnetError
from swapnet.files import replacing
from tests.gpu_kit import checks, suites
from tests.gpu_kit.report import ROOT, Answer, Results, write_page
from tests.gpu_kit.rig import Check, NotHere, Setting, Wrong, in_memory, simulate

__all__ = ["answer", "main", "run_checks"]

CHECKS = (*checks.CHECKS, *suites.CHECKS)
_PACKAGES = {"a": (), "b": ("ort",), "c": ("rtx",)}
"""Folders of packages that only a part uses."""


def answer(check: Check, setting: Setting) -> Answer:
    """Do one check in this process."""
    started = time.perf_counter()
    verdict, why, figures = "ok", "", {}
    try:
        figures = check.run(setting)
    except Wrong as error:
        verdict, why, figures = "wrong", str(error), error.figures
    except NotHere as error:
        verdict, why = "not here", str(error)
    except BackendUnavailableError as error:
        verdict, why = "not here", f"{error.what}: {error.why}"
    except (SwapnetError, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        verdict, why = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
    seconds = round(time.perf_counter() - started, 2)
    return Answer(check.name, check.title, verdict, seconds, why, figures)


def run_checks(
    part: str, asked: Sequence[Check], setting: Setting, until_s: float, site: Path | None
) -> Iterator[Answer]:
    """Do checks one after the other, each in a process with a deadline.

    Parameters
    ----------
    part
        Of the kit.
    asked
        Its checks.
    setting
        Where.
    until_s
        Of `time.monotonic`: nothing goes on after it.
    site
        Unpacked packages of the kit, None where they are installed.
    """
    environment = {**os.environ, **_environment(part, site)}
    for check in asked:
        left_s = until_s - time.monotonic()
        if left_s < 5:
            yield Answer(check.name, check.title, "no time", 0.0, "the kit's time is over", {})
            continue
        yield _in_child(part, check, setting, min(check.limit_s, left_s), environment)


def _in_child(
    part: str, check: Check, setting: Setting, limit_s: float, environment: dict[str, str]
) -> Answer:
    target = setting.work / "answer.json"
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.gpu_kit.run", "--out", str(setting.out)]
    command += ["--work", str(setting.work), "--one", f"{part}:{check.name}"]
    command += ["--simulated"] * setting.simulated + ["--small"] * setting.small
    started = time.perf_counter()
    log = setting.work / "child.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
    seconds = round(time.perf_counter() - started, 2)
    last = " ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]
    if target.exists():
        found = msgspec.json.decode(target.read_bytes(), type=Answer)
        said = last and found.verdict in ("wrong", "failed")
        why = f"{found.why} ({last})" if said else found.why
        return msgspec.structs.replace(found, seconds=seconds, why=why)
    if seconds >= limit_s:
        return Answer(check.name, check.title, "time", seconds, f"ended after {limit_s:.0f} s", {})
    return Answer(check.name, check.title, "crashed", seconds, f"status {status}: {last}", {})


def _environment(part: str, site: Path | None) -> dict[str, str]:
    """Packages of the kit before the machine's own, and CUDA's libraries out of Python packages."""
    variables: dict[str, str] = {}
    if site is not None:
        names = ("code", *_PACKAGES[part], "core")
        folders = [str(site / name) for name in names if (site / name).is_dir()]
        variables["PYTHONPATH"] = os.pathsep.join(folders)
        if (site / "data").is_dir():
            variables["SWAPNET_CACHE"] = str(site / "data")
    nvidia = importlib.util.find_spec("nvidia")
    places = nvidia.submodule_search_locations if nvidia else None
    libraries = [str(path) for place in places or () for path in Path(place).glob("*/lib")]
    given, toolkit = os.environ.get("LD_LIBRARY_PATH", ""), "/usr/local/cuda/lib64"
    found = (given, *sorted(libraries), toolkit)
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, found))
    return variables


def _show(line: str, table: TextIO) -> None:
    for stream in (sys.stdout, table):
        stream.write(line + "\n")
        stream.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts, or in a child one check; the exit status is 1 where an answer is wrong."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/swapnet-gpu-kit"))
    parser.add_argument("--site", type=Path, help="unpacked packages of the kit")
    parser.add_argument("--parts", default="abc")
    parser.add_argument("--only", default="", help="names of checks, with commas")
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--small", action="store_true", help="weights of 2 MiB, not 288")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    small = options.small or options.simulated
    if options.one:
        return _one(options.one, Setting(options.work, options.out, options.simulated, small))
    work = options.work / f"{'simulated' if options.simulated else 'real'}{'-small' * small}"
    until_s = time.monotonic() + options.seconds
    for folder in (work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(work, options.out, options.simulated, small)
    only = set(filter(None, options.only.split(",")))
    verdicts: set[str] = set()
    with (options.out / "table.txt").open("a") as table:
        for part in sorted(set(options.parts)):
            asked = [c for c in CHECKS if c.part == part and (not only or c.name in only)]
            answers: list[Answer] = []
            for found in run_checks(part, asked, setting, until_s, options.site):
                answers.append(found)
                _keep(options, part, answers)
                verdicts.add(found.verdict)
                line = f"{part}  {found.name:<28} {found.verdict:<9} {found.seconds:7.1f} s"
                _show(f"{line}  {found.why[:160]}".rstrip(), table)
    shutil.rmtree(in_memory(work / "engine"), ignore_errors=True)
    if verdicts:
        page = options.out / "gpu.md"
        shutil.copyfile(ROOT / "docs" / "gpu.md", page)
        write_page(page, options.out)
    return int(bool(verdicts & {"wrong", "failed", "crashed", "time"}))


def _one(name: str, setting: Setting) -> int:
    part, _, wanted = name.partition(":")
    (check,) = (c for c in CHECKS if (c.part, c.name) == (part, wanted))
    if setting.simulated:
        simulate()
    found = answer(check, setting)
    with replacing(setting.work / "answer.json") as temporary:
        temporary.write_bytes(msgspec.json.encode(found))
    return 0


def _keep(options: argparse.Namespace, part: str, answers: list[Answer]) -> None:
    found = Results(
        part=part,
        simulated=options.simulated,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        python=platform.python_version(),
        answers=tuple(answers),
    )
    with replacing(options.out / f"results-{part}.json") as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))


if __name__ == "__main__":
    sys.exit(main())
