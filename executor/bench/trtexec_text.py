"""A report in the words and the order of trtexec, which readers of its logs take.

Labels are trtexec's even where nothing runs on a GPU: TREx and others look for ``GPU Compute Time``
and ``H2D Latency`` by name. On a CPU they are the time in all steps, and copies in host memory.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from swapnet.executor.bench.difference import Judgement
from swapnet.executor.bench.report import LARGEST_CV_PERCENT, Report
from swapnet.executor.bench.statistics import cv_percent, percentile
from swapnet.executor.bench.timing import Timing
from swapnet.executor.device import available_processors
from swapnet.machine import memory_bytes, processor_name
from swapnet.tensors import as_dims
from swapnet.units import format_size

__all__ = [
    "EXPLANATIONS",
    "accuracy_lines",
    "device_lines",
    "layer_lines",
    "metric_warnings",
    "output_lines",
    "profile_lines",
    "summary_lines",
    "trace_lines",
]

_MOST_TRACE_LINES = 200
"""Lines of the trace that are printed of its beginning, and of its end."""

METRICS: Mapping[str, Callable[[Timing], float]] = {
    "Latency": lambda t: t.latency_ms,
    "Enqueue Time": lambda t: t.enqueue_ms,
    "H2D Latency": lambda t: t.input_ms,
    "GPU Compute Time": lambda t: t.compute_ms,
    "D2H Latency": lambda t: t.output_ms,
    "Stall Time": lambda t: t.stall_ms,
    "Read Time": lambda t: t.reading_ms,
}
"""Times of one inference by their label, in trtexec's order; the last two are ours."""

EXPLANATIONS: Mapping[str, str] = {
    "Total Host Walltime": "the time from the begin of the first counted query to the end of the "
    "last one, without those of the resident model that are run in between.",
    "GPU Compute Time": "the time from the first step of a query to the end of its last one, on "
    "the device that executes it: on a CPU it is time of the CPU. Waits for storage are in it.",
    "Total GPU Compute Time": "the summation of the GPU Compute Time of all the queries.",
    "Throughput": "the number of queries over the Total Host Walltime.",
    "Enqueue Time": "the time of the host to launch all steps of a query. On a CPU a launch "
    "returns when the step is done, so it equals GPU Compute Time.",
    "H2D Latency": "the time to bring the inputs of a query to where kernels read them; on a CPU "
    "a copy in host memory.",
    "D2H Latency": "the time to bring the outputs of a query from where kernels wrote them.",
    "Latency": "the summation of H2D Latency, GPU Compute Time, D2H Latency, and the time between "
    "them.",
    "Stall Time": "the part of GPU Compute Time in which a step waits for bytes of weights.",
    "Read Time": "the time in which a request to storage is in flight, during a query and since "
    "the query before it.",
}
"""Meaning of each metric, printed where the log is verbose."""


def device_lines() -> Iterator[str]:
    """The section that trtexec writes of the GPU."""
    yield "=== Device Information ==="
    yield f"Selected Device: {processor_name()}"
    yield f"Processors: {available_processors()}"
    yield f"Host Memory: {format_size(memory_bytes())}"
    yield f"Kernel: {platform.release()}"


def trace_lines(report: Report, timings: Sequence[Timing], runs: int) -> Iterator[str]:
    """Warm-up, length of the trace, and averages of every ``runs`` inferences in it."""
    yield (f"Warmup completed {report.warm_up_inferences} queries over {report.warm_up_ms:g} ms")
    yield f"Timing trace has {len(timings)} queries over {report.duration_s:g} s"
    yield ""
    yield "=== Trace details ==="
    yield f"Trace averages of {runs} runs:"
    groups = [timings[start : start + runs] for start in range(0, len(timings), runs)]
    whole = [group for group in groups if len(group) == runs]
    omitted = len(whole) - 2 * _MOST_TRACE_LINES
    for number, group in enumerate(whole):
        if omitted > 0 and number == _MOST_TRACE_LINES:
            yield f"... Omitting {omitted} lines"
        if omitted > 0 and _MOST_TRACE_LINES <= number < _MOST_TRACE_LINES + omitted:
            continue
        latency, compute, enqueue = (
            fmean(metric(each) for each in group)
            for metric in (METRICS["Latency"], METRICS["GPU Compute Time"], METRICS["Enqueue Time"])
        )
        yield (
            f"Average on {runs} runs - GPU latency: {compute:g} ms - Host latency: {latency:g} ms "
            f"(enqueue {enqueue:g} ms)"
        )


def summary_lines(
    report: Report, timings: Sequence[Timing], percents: Sequence[float]
) -> Iterator[str]:
    """The performance summary: trtexec's metrics in its order, then waits and reads."""
    yield "=== Performance summary ==="
    yield f"Throughput: {len(timings) / report.duration_s:g} qps"
    for label, metric in METRICS.items():
        yield f"{label}: {_figures([metric(each) for each in timings], percents)}"
    total_ms = sum(each.compute_ms for each in timings)
    yield f"Total Host Walltime: {report.duration_s:g} s"
    yield f"Total GPU Compute Time: {total_ms / 1e3:g} s"


def _figures(values_ms: Sequence[float], percents: Sequence[float]) -> str:
    ordered = sorted(values_ms)
    figures = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": fmean(ordered),
        "median": median(ordered),
        **{f"percentile({p:g}%)": percentile(ordered, p) for p in percents},
    }
    return ", ".join(f"{name} = {ms:g} ms" for name, ms in figures.items())


def metric_warnings(timings: Sequence[Timing]) -> Iterator[str]:
    """trtexec's warnings, by its limits, where they mean something for an engine that swaps."""
    compute = [each.compute_ms for each in timings]
    for label, name in (("H2D Latency", "inputs"), ("D2H Latency", "outputs")):
        if median(METRICS[label](each) for each in timings) >= median(compute):
            yield f"* Throughput may be bound by copies of the {name} rather than by execution."
    if (variation := cv_percent(compute)) > LARGEST_CV_PERCENT:
        yield f"* GPU compute time is unstable, with coefficient of variance = {variation:g}%."
        yield "  Something else may run on this machine, or the clock may change."


def accuracy_lines(judged: Judgement) -> Iterator[str]:
    """The loss of each output that has a reference."""
    for name, loss in judged.losses.items():
        shown = "infinite" if loss is None else f"{loss:.6f}"
        is_within = loss is not None and loss <= judged.limit
        yield (
            f"Accuracy loss for tensor {name} ({judged.algorithm}): {shown}"
            + ("" if is_within else f" [FAIL: > threshold {judged.limit:g}]")
        )


def profile_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of ``--dumpProfile`` from the rows of ``--exportProfile``."""
    count, *layers = rows
    yield f"=== Profile ({count['count']} iterations ) ==="
    yield "   Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer"
    for row in layers:
        yield (
            f"{row['timeMs']:11.2f}{row['averageMs']:13.4f}{row['medianMs']:13.4f}"
            f"{row['percentage']:10.1f}   {row['name']}"
        )
    total_ms = sum(row["timeMs"] for row in layers)
    middle_ms = sum(row["medianMs"] for row in layers)
    yield (
        f"{total_ms:11.2f}{total_ms / max(count['count'], 1):13.4f}{middle_ms:13.4f}"
        f"{100.0:10.1f}   Total"
    )


def layer_lines(layers: Mapping[str, Any]) -> Iterator[str]:
    """``--dumpLayerInfo``: a line for each layer of ``--exportLayerInfo``, then the bindings."""
    yield "Layer Information:"
    for layer in layers["Layers"]:
        taken, given = (
            ", ".join(f"{value['Name']} {as_dims(value['Dimensions'])}" for value in layer[key])
            for key in ("Inputs", "Outputs")
        )
        yield f"{layer['Name']} ({layer['LayerType']}): {taken} -> {given}"
    yield "Bindings:"
    yield from layers["Bindings"]


def output_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """``--dumpOutput``: values of each output, from the rows of ``--exportOutput``."""
    yield "Output Tensors:"
    for row in rows:
        yield f"{row['name']}: ({row['dimensions']})"
        yield " ".join(f"{value:g}" for value in row["values"])
