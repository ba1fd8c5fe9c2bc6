"""Translate a trtexec line into the words of our commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swapnet.budget import Demand
from swapnet.cli.trtexec.line import Line
from swapnet.cli.trtexec.options import MAPPED, OPTIONS
from swapnet.errors import InputError
from swapnet.units import parse_size

__all__ = ["budget_of", "build_arguments", "echo_lines", "for_tensorrt", "precision_of"]

_TENSORRT_VALUES = {
    "--minShapes": "--min-shapes",
    "--hardwareCompatibilityLevel": "--hardware-compatibility",
    "--builderOptimizationLevel": "--builder-optimization-level",
}
_TENSORRT_FLAGS = ("--versionCompatible", "--vc")
_LEVELS = {"sameComputeCapability": "same-compute-capability"}


def for_tensorrt(line: Line) -> list[str]:
    """Options of the line that only TensorRT's builder has."""
    names = (*_TENSORRT_VALUES, *_TENSORRT_FLAGS, "--memPoolSize", "--workspace")
    return [name for name in names if line.has(name)]


def precision_of(line: Line) -> str:
    """Precision of the build."""
    has_ranges = line.has("--data", "--calib")
    if line.has("--int8") or (line.has("--best") and has_ranges):
        return "int8"
    return "fp16" if line.has("--fp16", "--best") else "fp32"


def build_arguments(line: Line, model: Path, folder: Path, *, tensorrt: bool) -> list[str]:
    """Arguments of ``swapnet build``.

    Raises
    ------
    InputError
        The size of a memory pool is missing.
    """
    arguments = [str(model), "--output", str(folder), "--precision", precision_of(line)]
    planned = ("--maxShapes", "--optShapes", "--shapes", "--minShapes")
    given = {
        "--shapes": next((line.values[name] for name in planned if line.has(name)), None),
        "--backend": line.text("--backend"),
        "--data": line.text("--data"),
        "--calibration": line.text("--calib"),
    }
    if tensorrt:
        given |= {ours: line.text(theirs) for theirs, ours in _TENSORRT_VALUES.items()}
        level = given["--hardware-compatibility"]
        given["--hardware-compatibility"] = _LEVELS.get(level, level) if level else None
        given["--workspace"] = _workspace(line)
        if line.has(*_TENSORRT_FLAGS):
            arguments.append("--version-compatible")
    for name, value in given.items():
        if value is not None:
            arguments += [name, value]
    return arguments


def _workspace(line: Line) -> str | None:
    """Scratch memory of kernels; a bare number is MiB."""
    size = line.text("--workspace")
    for pool in filter(None, (line.text("--memPoolSize") or "").split(",")):
        name, _, nbytes = pool.partition(":")
        if not nbytes:
            raise InputError(
                f"--memPoolSize {pool!r} has no size",
                why="a pool is a name, a colon and a size",
                hint="write it like --memPoolSize=workspace:512M",
            )
        size = nbytes if name == "workspace" else size
    return f"{size}MiB" if size and size[-1].isdigit() else size


def budget_of(line: Line, demand: Demand) -> str:
    """The budget as ``swapnet bench`` takes it.

    Raises
    ------
    InputError
        Two budgets are given, or weights are streamed without ``--allowWeightStreaming``.
    """
    weights = line.text("--weightStreamingBudget")
    budget = line.text("--budget")
    if weights is None:
        return budget or "100%"
    if budget is not None:
        raise InputError(
            "--budget and --weightStreamingBudget do not go together",
            why=f"they are {budget} and {weights}",
            hint="leave one of them out",
        )
    if not line.has("--allowWeightStreaming"):
        raise InputError(
            "--weightStreamingBudget needs --allowWeightStreaming",
            why="so it is in trtexec",
            hint="add it, or give --budget",
        )
    if weights == "-2":
        return "100%"
    if weights == "-1":
        return "auto"
    if weights.endswith("%"):
        return f"weights:{weights}"
    return str(demand.other_bytes + parse_size(weights))


def echo_lines(line: Line) -> Iterator[str]:
    """The sections in which trtexec repeats its options: those that are mapped."""
    for section, names in MAPPED.items():
        if section in ("Help", "Build") and (section == "Help" or line.has("--loadEngine")):
            continue
        yield f"=== {section} Options ==="
        for name in names:
            option = OPTIONS[name.removesuffix("=")]
            given = line.text(option.name)
            if option.takes_value:
                shown = "default" if given is None else given
            else:
                shown = "Disabled" if given is None else "Enabled"
            yield f"{option.name[2].upper()}{option.name[3:]}: {shown}"
    yield ""
