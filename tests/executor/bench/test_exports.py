from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from swapnet.executor.bench.exports import (
    SCHEMAS,
    layer_info_json,
    outputs_json,
    planned_dims,
    profile_json,
    times_json,
)
from swapnet.executor.bench.timing import Timing
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.planner import make_plan
from swapnet.manifest import Manifest, Tensor
from swapnet.profile import assumed_profile
from tests.helpers.trtexec_readers import (
    LAYER_KEYS,
    PROFILE_KEYS,
    PROFILER_KEYS,
    TIMES_KEYS,
    VALUE_KEYS,
)

MIB = 1 << 20
Simulated = Callable[[Sequence[int]], tuple[Path, Manifest]]


@pytest.fixture
def planned(simulated: Simulated) -> tuple[Manifest, Plan]:
    """An engine of four blocks with operators, half of them in memory."""
    _, manifest = simulated([MIB] * 4)
    blocks = tuple(
        msgspec.structs.replace(block, operators=("Conv", "Relu", "Conv"))
        for block in manifest.blocks
    )
    manifest = msgspec.structs.replace(manifest, blocks=blocks)
    return manifest, make_plan(manifest, assumed_profile(manifest), 7 * MIB)


def timing(plan: Plan, wait_ms: float = 1.0, start_ms: float = 100.0) -> Timing:
    """An inference of 2 ms for each step, of which waits come first."""
    count = len(plan.steps)
    return Timing(
        latency_ms=0.5 + 2 * count + 0.25,
        start_ms=start_ms,
        input_ms=0.5,
        compute_ms=2.0 * count,
        output_ms=0.25,
        stall_ms=wait_ms * count,
        enqueue_ms=2.0 * count,
        steps_ms=(2 - wait_ms,) * count,
        waits_ms=(wait_ms,) * count,
    )


def test_times_have_the_keys_of_trtexec(planned: tuple[Manifest, Plan]) -> None:
    _, plan = planned
    (row,) = times_json([timing(plan)])
    assert tuple(row) == TIMES_KEYS
    assert row["endH2dMs"] == row["startComputeMs"] == row["startEnqMs"] == 100.5
    assert row["endComputeMs"] == row["startD2hMs"]
    for name in ("h2d", "compute", "d2h"):
        start, end = row[f"start{name.capitalize()}Ms"], row[f"end{name.capitalize()}Ms"]
        assert end - start == row[f"{name}Ms"]
    assert row["latencyMs"] == row["h2dMs"] + row["computeMs"] + row["d2hMs"]


def test_a_profile_has_rows_for_steps_and_waits(planned: tuple[Manifest, Plan]) -> None:
    manifest, plan = planned
    timings = [timing(plan), timing(plan)]
    count, *rows = profile_json(plan, manifest, timings)
    assert len(plan.steps) > 1
    assert count == {"count": 2, "schema": SCHEMAS["profile"]}
    assert len(times_json(timings)) == count["count"]
    assert all(tuple(row) == PROFILE_KEYS for row in rows)
    assert set(PROFILER_KEYS) <= set(rows[0])
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    waits = [name for name in names if name.startswith("wait ")]
    streamed = {read.block for read in plan.reads}
    reading = [s for s in plan.steps if streamed.intersection(range(s.first, s.last + 1))]
    assert len(waits) == len(reading) > 0
    assert "block 3: 4 Conv, 2 Relu" in names or any("2 Conv, Relu" in name for name in names)
    assert sum(row["percentage"] for row in rows) == pytest.approx(100)
    assert sum(row["timeMs"] for row in rows if row["name"] not in waits) == len(timings) * len(
        plan.steps
    )


def test_steps_that_read_nothing_have_no_waits(planned: tuple[Manifest, Plan]) -> None:
    manifest, _ = planned
    whole = make_plan(manifest, assumed_profile(manifest), 64 * MIB)
    _, *rows = profile_json(whole, manifest, [timing(whole)])
    assert len(rows) == len(whole.steps)


def test_a_profile_of_nothing_is_empty(planned: tuple[Manifest, Plan]) -> None:
    manifest, plan = planned
    assert profile_json(plan, manifest, []) == [{"count": 0, "schema": SCHEMAS["profile"]}]


def test_layers_are_blocks(planned: tuple[Manifest, Plan]) -> None:
    manifest, _ = planned
    info = layer_info_json(manifest)
    assert info["Bindings"] == ["x", "y"]
    assert [layer["Name"] for layer in info["Layers"]][3] == "block 3: 2 Conv, Relu"
    for layer, block in zip(info["Layers"], manifest.blocks, strict=True):
        assert set(LAYER_KEYS) <= set(layer)
        assert tuple(layer["Inputs"][0]) == VALUE_KEYS
        assert layer["Inputs"][0]["Dimensions"] == [1]
        assert [value["Name"] for value in layer["Outputs"]] == list(block.outputs)
    json.dumps(info)


@pytest.mark.parametrize(
    ("shape", "nbytes", "dims"),
    [
        (("batch", 2), 24, [3, 2]),
        (("rows", 2), 40, [5, 2]),
        (("rows", 16, "columns"), 640, [-1, 16, -1]),
        (("rows", 3), 40, [-1, 3]),
        ((), 4, []),
    ],
)
def test_dimensions_are_planned_ones(
    planned: tuple[Manifest, Plan], shape: tuple[int | str, ...], nbytes: int, dims: list[int]
) -> None:
    manifest = msgspec.structs.replace(planned[0], symbols={"batch": 3})
    assert planned_dims(manifest, Tensor("v", "float32", shape, nbytes)) == dims


def test_outputs_are_written_with_their_values(planned: tuple[Manifest, Plan]) -> None:
    manifest, _ = planned
    outputs = {"y": np.array([[1.5], [2.5]])}
    assert outputs_json(manifest, outputs) == [
        {"name": "y", "dimensions": "2x1", "values": [1.5, 2.5]}
    ]
    (flags,) = outputs_json(manifest, {"y": np.array([True, False])})
    assert flags["values"] == [1, 0]
    tensors = tuple(msgspec.structs.replace(t, dtype="bfloat16") for t in manifest.outputs)
    half = msgspec.structs.replace(manifest, outputs=tensors)
    (bits,) = outputs_json(half, {"y": np.array([0x3F80], np.uint16)})
    assert bits["values"] == [1.0]
