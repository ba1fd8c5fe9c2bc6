"""What a trtexec line asks for, in the words of our commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.cli.trtexec.line import Line
from swapnet.errors import InputError

if TYPE_CHECKING:
    from swapnet.budget import Demand

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
        raise InputError(
            "--weightStreamingBudget=-1 is not for SwapNet",
            why="TensorRT then takes what the GPU has left; a budget here is a promise",
            hint="give a budget: --budget=SIZE or --budget=weights:25%",
        )
    if weights.endswith("%"):
        return f"weights:{weights}"
    from swapnet.units import parse_size

    return str(demand.other_bytes + parse_size(weights))


def echo_lines(line: Line) -> Iterator[str]:
    """The sections in which trtexec repeats its options: those that mean something here."""
    model, loaded, saved = (line.text(f"--{name}") for name in ("onnx", "loadEngine", "saveEngine"))
    yield "=== Model Options ==="
    yield f"Format: {'ONNX' if model else '*'}"
    yield f"Model: {model or ''}"
    if not loaded:
        yield "=== Build Options ==="
        yield f"Memory Pools: workspace: {_workspace(line) or 'default'}"
        yield f"Precision: {precision_of(line).upper()}"
        yield f"Version Compatible: {_enabled(line, '--versionCompatible', '--vc')}"
        yield f"Skip inference: {_enabled(line, '--skipInference', '--buildOnly')}"
        yield f"Save engine: {saved or ''}"
        yield "Load engine: "
        yield f"BuilderOptimizationLevel: {line.text('--builderOptimizationLevel') or 'default'}"
        yield f"Weight Streaming: {_enabled(line, '--allowWeightStreaming')}"
        for kind in ("min", "opt", "max"):
            yield f"Input build shape {kind}: {line.text(f'--{kind}Shapes') or 'model'}"
    yield "=== System Options ==="
    yield f"Device: {line.text('--device') or 0}"
    yield "=== Inference Options ==="
    yield "Batch: Explicit"
    yield f"Input inference shapes: {line.text('--shapes') or 'model'}"
    yield f"Iterations: {line.text('--iterations') or 10}"
    yield (
        f"Duration: {line.text('--duration') or 3}s (+ {line.text('--warmUp') or 200}ms warm up)"
    )
    yield f"Idle time: {line.text('--idleTime') or 0}ms"
    yield "Inference Streams: 1"
    yield f"Time Deserialize: {_enabled(line, '--timeDeserialize')}"
    yield f"Weight Streaming Budget: {line.text('--weightStreamingBudget') or 'Disabled'}"
    yield f"Budget: {line.text('--budget') or 'by default'}"
    yield f"Accuracy Algorithm: {line.text('--accuracyAlgorithm') or 'l0'}"
    for title, name in (("Inputs", "--loadInputs"), ("RefOutputs", "--loadRefOutputs")):
        yield f"{title}: {line.text(name) or ''}"
    yield "=== Reporting Options ==="
    yield f"Verbose: {_enabled(line, '--verbose')}"
    yield f"Averages: {line.text('--avgRuns') or 10} inferences"
    yield f"Percentiles: {line.text('--percentile') or '90,95,99'}"
    yield f"Dump output: {_enabled(line, '--dumpOutput')}"
    yield f"Profile: {_enabled(line, '--dumpProfile')}"
    for what in ("timing", "output", "profile"):
        name = "Times" if what == "timing" else what.capitalize()
        yield f"Export {what} to JSON file: {line.text(f'--export{name}') or ''}"
    yield ""


def _enabled(line: Line, *names: str) -> str:
    return "Enabled" if line.has(*names) else "Disabled"
