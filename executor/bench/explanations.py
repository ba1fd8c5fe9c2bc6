"""Explanations of the report's lines: for ``--verbose``, and for docs/reading-a-report.md."""

from __future__ import annotations

from textwrap import wrap

__all__ = ["EXPLAINED", "explained"]

_WIDTH, _INDENT = 80, "    "

EXPLAINED = {
    "Model": "The ONNX file that the engine was built from, its backend, and the way that weights "
    "are read: direct reading leaves the page cache out.",
    "Engine": "Size of the engine directory on disk, and the number of blocks that the model was "
    "cut into.",
    "Budget": "Memory that the model may use, and what it would use unswapped. The peak is "
    "measured above the fixed cost, which any process with the same libraries takes; in brackets "
    "the way of counting.",
    "Weights": "All weights of the model; the part that stays in memory; the places that the "
    "others take turns in; and the bytes that are read from storage for each inference.",
    "Open": "Time to open the engine at this budget, without the import of the runtime library: "
    "sessions of all steps, reading resident weights, and the search of the plan. In the page "
    "cache: whether the kernel had most of the weights in memory then. For packed weights: what "
    "their sessions read through the page cache, and the most memory for that, before weights "
    "take theirs.",
    "First inference": "Latency of the first inference after opening. It waits for weights that "
    "later ones read ahead.",
    "Warm-up": "Inferences of the swapped model before the measurement, and the time that they "
    "took with the other sides in turn. They are in no other figure.",
    "Timing trace": "Counted inferences, the sum of their latencies and pauses, and the rounds "
    "that they came in. In each round all sides run, and the first inference of each side does "
    "not count. In brackets the time of the clock.",
    "Pauses": "Time between two inferences, and the bytes that were read meanwhile for the next "
    "one. With a rate, a deadline is missed where an inference ends after the next frame is due.",
    "Throughput": "Counted inferences over the sum of their latencies. trtexec divides by the "
    "time of the clock, in which the other sides run here.",
    "Latency": "Time from checked inputs to outputs. A percentile is a measured value: no "
    "interpolation, by trtexec's rule in float32. One that is marked stands on too few "
    "inferences, so it is the maximum.",
    "Parts": "Medians of the latency's parts: inputs before the first step, all steps with their "
    "waits, outputs after the last step. Enqueue is the time that the host needs to launch all "
    "steps; on the CPU it equals compute.",
    "Variation": "Standard deviation over the mean. Resident execution is the model with "
    "everything in memory: where it varies by more than 2.5 % the machine is not quiet.",
    "Unswapped": "ONNX Runtime with the whole model in memory and its own best settings, in turn "
    "with ours. The ratio is ours over it, the median over pairs of rounds. The difference is "
    "that of the outputs.",
    "References": "The largest difference of an output from its reference file, by the measure and "
    "against the limit that were asked for.",
    "Memory-mapped": "ONNX Runtime with memory-mapped weights, under the same limit.",
    "The other engine": "Another engine of the model, in the same bytes of budget.",
    "Bound": "No swapping can be faster: the larger of the unswapped time and the time to read "
    "the streamed bytes that no pause before it took. The floor knows the memory too: bytes that "
    "can't be in memory when a step ends are read before the step that needs them. Contended is "
    "measured: execution in memory while all of them are read. Where a ratio is below 1, the "
    "machine has changed between the two sides, or bytes were read in pauses.",
    "Predicted": "Latency by the stored delays of this device; by those delays with execution "
    "time and bandwidth of each round; and the measured latency against the second.",
    "Stall": "Time that steps waited for their bytes, its share of the median latency, the share "
    "of the reading time that was hidden, and the bandwidth of storage with nothing else running.",
    "Verdict": "not swapped: nothing is streamed. storage-bound: reading takes as long as the "
    "unswapped model, or longer. compute-bound: at most 5 % of the latency waits for storage. "
    "latency-bound: there is time to read, and still steps wait. Budgets are those of the planner "
    "with the delays of this measurement; bytes in lower precision are estimates.",
    "Warning": "A reason not to trust the figures, or a difference from the unswapped model above "
    "the limit.",
}
"""Meaning of each label of the report."""


def explained(text: str) -> str:
    """The report with an explanation under the first line of each label."""
    lines, left = [], dict(EXPLAINED)
    for line in text.splitlines():
        lines.append(line)
        if explanation := left.pop(line.partition(":")[0], ""):
            lines += wrap(explanation, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join(lines)
