"""The Trace Event Format, as far as our files use it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_format", "check_nesting", "explained", "slices_of"]

_KEYS = {
    "M": {"name", "ph", "pid", "tid", "args"},
    "C": {"name", "ph", "pid", "tid", "ts", "args"},
    "X": {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"},
    "i": {"name", "cat", "ph", "pid", "tid", "ts", "s", "args"},
}
"""Keys of each phase. Source: "Trace Event Format", sections on complete, counter, instant and
metadata events; `ts` and `dur` are numbers of microseconds, series of a counter are numbers."""


def check_format(file: Mapping[str, Any]) -> None:
    """Fail where a viewer would refuse or drop an event."""
    assert set(file) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert file["displayTimeUnit"] in ("ms", "ns")
    assert file["otherData"]["schema"] == "swapnet-trace/1"
    named: set[tuple[str, int, int]] = set()
    for event in file["traceEvents"]:
        assert set(event) == _KEYS[event["ph"]]
        assert type(event["pid"]) is type(event["tid"]) is int
        for key in {"ts", "dur"} & set(event):
            assert type(event[key]) is int
            assert event[key] >= 0
        if event["ph"] == "M":
            named.add((event["name"], event["pid"], event["tid"]))
        elif event["ph"] == "C":
            assert all(type(value) is int for value in event["args"].values())
            assert min(event["args"].values()) >= 0
        else:
            assert event["dur"] > 0 if event["ph"] == "X" else event["s"] == "t"
            assert ("process_name", event["pid"], 0) in named
            assert ("thread_name", event["pid"], event["tid"]) in named
    check_nesting(file["traceEvents"])


def check_nesting(events: Sequence[Mapping[str, Any]]) -> None:
    """Fail where slices of one thread overlap in part: Perfetto drops the later one."""
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append(event)
    for lane in lanes.values():
        open_ends: list[int] = []
        for event in sorted(lane, key=lambda e: (e["ts"], -e["dur"])):
            while open_ends and open_ends[-1] <= event["ts"]:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1], event
            open_ends.append(end)


def slices_of(events: Sequence[Mapping[str, Any]], *categories: str) -> list[Mapping[str, Any]]:
    """Slices of these categories, in order of time."""
    found = [event for event in events if event.get("cat") in categories]
    return sorted(found, key=lambda event: (event["ts"], event["pid"]))


def explained(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Part of each inference that its copies, waits and steps are."""
    parts = slices_of(events, "copy", "wait", "turn", "step")
    return [
        sum(
            part["dur"]
            for part in parts
            if part["pid"] == whole["pid"]
            and whole["ts"] <= part["ts"] < whole["ts"] + whole["dur"]
        )
        / whole["dur"]
        for whole in slices_of(events, "inference")
    ]
