"""What readers of trtexec's logs and files look for, by their sources.

- TREx: ``parse_trtexec_log.py`` and ``parser.py`` in tools/experimental/trt-engine-explorer,
  github.com/NVIDIA/TensorRT, branch release/10.16.
- ``profiler.py``: the same repository at a892d222, samples/trtexec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIX = re.compile(r"(\[\d+/\d+/\d+-\d+:\d+:\d+\] \[I\] )")
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
SINGLE = ("Throughput", "Total Host Walltime", "Total GPU Compute Time")
FIGURES = ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency")

TIMES_KEYS = (
    *("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs"),
    *("startD2hMs", "endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs"),
)
PROFILE_KEYS = ("name", "timeMs", "averageMs", "medianMs", "percentage")
PROFILER_KEYS = ("name", "timeMs", "averageMs", "percentage")
LAYER_KEYS = ("Name", "LayerType", "Inputs", "Outputs")
VALUE_KEYS = ("Name", "Dimensions", "Format/Datatype")


def number(text: str) -> float:
    """The first number in a text, as TREx scans it."""
    found = NUMBER.search(text)
    assert found is not None, text
    return float(found[0])


def figures(text: str) -> list[float]:
    """Numbers of ``min = 1 ms, max = 2 ms``."""
    return [number(part.split("=")[1]) for part in text.split(",")]


def section(lines: Iterable[str], title: str) -> dict[str, str]:
    """Keys and values of a section: lines with the prefix and a colon, up to one without."""
    found: dict[str, str] = {}
    inside = False
    for line in lines:
        if not inside:
            inside = title in line
            continue
        match = PREFIX.search(line)
        text = line[match.end() :].strip() if match else ""
        if ":" not in text:
            break
        key, value, *_ = text.split(":")
        found[key] = value[1:]
    return found
