"""Files of one benchmark in the shapes of trtexec, which its readers take.

Schemas of these files stand in the report's ``exports``, and in the count record of a profile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from statistics import mean, median
from typing import Any

import numpy as np

from swapnet.executor.backends.base import Array
from swapnet.executor.bench.timing import Timing
from swapnet.executor.planning.plan import Plan
from swapnet.executor.report import trace
from swapnet.manifest import Block, Manifest, Tensor
from swapnet.symbols import size_of
from swapnet.tensors import ELEMENT_BYTES

__all__ = [
    "SCHEMAS",
    "layer_info_json",
    "operators_in",
    "outputs_json",
    "planned_dims",
    "profile_json",
    "times_json",
]

SCHEMAS = {
    "times": "swapnet-times/1",
    "profile": "swapnet-profile/1",
    "layer_info": "swapnet-layer-info/1",
    "output": "swapnet-output/1",
    "trace": trace.SCHEMA,
}
"""Schema of each file, by the name of its option."""

_FORMATS = {
    "float32": "Row major linear FP32",
    "float16": "Row major linear FP16 format",
    "bfloat16": "Row major linear BFloat16 format",
    "float64": "Double",
    "int8": "Row major Int8 format",
    "int16": "Int16",
    "int32": "Row major linear Int32",
    "int64": "Row major linear Int64 format",
    "uint8": "Row major linear UInt8 format",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "bool": "Row major linear BOOL",
}
"""Words of TensorRT's engine inspector, by element type; the engine explorer TREx reads them."""

_WEIGHT_TYPES = {"float32": "Float", "float16": "Half", "int8": "Int8", "int32": "Int32"}


def times_json(timings: Sequence[Timing]) -> list[dict[str, float]]:
    """``--exportTimes``: trtexec's twelve keys for each counted inference, in milliseconds.

    Inputs and outputs are copies in host memory on a CPU. Waits for storage are in ``computeMs``.
    """
    rows = []
    for each in timings:
        begin, end = each.start_ms + each.input_ms, each.start_ms + each.latency_ms
        rows.append(
            {
                "startEnqMs": begin,
                "endEnqMs": begin + each.enqueue_ms,
                "startH2dMs": each.start_ms,
                "endH2dMs": begin,
                "startComputeMs": begin,
                "endComputeMs": begin + each.compute_ms,
                "startD2hMs": end - each.output_ms,
                "endD2hMs": end,
                "h2dMs": each.input_ms,
                "computeMs": each.compute_ms,
                "d2hMs": each.output_ms,
                "latencyMs": each.latency_ms,
            }
        )
    return rows


def profile_json(plan: Plan, manifest: Manifest, timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """``--exportProfile``: the number of counted inferences, then a row for each step and wait.

    Waits for storage are rows of their own before their step; steps that read nothing have none.
    """
    rows: list[tuple[str, list[float]]] = []
    arrived = 0
    for number, step in enumerate(plan.steps):
        blocks = manifest.blocks[step.first : step.last + 1]
        if step.reads > arrived:
            waits = [each.waits_ms[number] for each in timings]
            rows.append((f"wait {trace.block_range(step)}", waits))
        arrived = step.reads
        name = _name(trace.block_range(step), blocks)
        rows.append((name, [each.steps_ms[number] for each in timings]))
    total = sum(sum(times) for _, times in rows) or 1.0
    return [
        {"count": len(timings), "schema": SCHEMAS["profile"]},
        *(
            {
                "name": name,
                "timeMs": sum(times),
                "averageMs": mean(times),
                "medianMs": median(times),
                "percentage": 100 * sum(times) / total,
            }
            for name, times in rows
            if times
        ),
    ]


def layer_info_json(manifest: Manifest) -> dict[str, Any]:
    """``--exportLayerInfo``: a layer for each block, with values and weights; and the bindings."""
    return {
        "Layers": [_layer(manifest, block) for block in manifest.blocks],
        "Bindings": [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)],
    }


def outputs_json(manifest: Manifest, outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    """``--exportOutput``: name, dimensions and values of each output of the last inference."""
    rows = []
    for name, array in outputs.items():
        values: Any = array
        if manifest.tensors[name].dtype == "bfloat16":
            values = (array.astype(np.uint32) << 16).view(np.float32)
        elif array.dtype == np.bool_:
            values = array.astype(np.uint8)
        rows.append(
            {
                "name": name,
                "dimensions": "x".join(map(str, array.shape)),
                "values": values.ravel().tolist(),
            }
        )
    return rows


def planned_dims(manifest: Manifest, tensor: Tensor) -> list[int]:
    """The shape of a value at the planned input shapes; -1 where it is unknown, as in TensorRT.

    The size in bytes tells one dimension that no symbol of an input decides.
    """
    dims = [size_of(dim, manifest.symbols) for dim in tensor.shape]
    row_bytes = ELEMENT_BYTES[tensor.dtype] * prod(dim for dim in dims if dim is not None)
    if dims.count(None) == 1 and row_bytes and tensor.nbytes % row_bytes == 0:
        dims[dims.index(None)] = tensor.nbytes // row_bytes
    return [-1 if dim is None else dim for dim in dims]


def operators_in(blocks: Sequence[Block], most: int | None = None) -> str:
    """``2 Conv, Relu``: operators with their numbers, the most frequent ones first."""
    kinds = Counter(kind for block in blocks for kind in block.operators).most_common(most)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds)


def _name(place: str, blocks: Sequence[Block]) -> str:
    """``block 3: 2 Conv, Relu``: the place of blocks and their most frequent operators."""
    return ": ".join(filter(None, (place, operators_in(blocks, 3))))


def _layer(manifest: Manifest, block: Block) -> dict[str, Any]:
    layer: dict[str, Any] = {
        "Name": _name(f"block {block.index}", [block]),
        "LayerType": "Block" if block.is_graph else "Lookup",
        "Inputs": [_value(manifest, manifest.tensors[name]) for name in block.inputs],
        "Outputs": [_value(manifest, manifest.tensors[name]) for name in block.outputs],
        "Operators": list(block.operators),
    }
    counts: Counter[str] = Counter()
    for weight in block.weights:
        counts[weight.dtype] += prod(weight.shape)
    if block.lookup is not None:
        counts[block.lookup.dtype] += block.lookup.count * prod(block.lookup.row_shape)
    if counts:
        dtype = max(counts, key=lambda name: counts[name] * ELEMENT_BYTES[name])
        kind = _WEIGHT_TYPES.get(dtype, dtype)
        layer["Weights"] = {"Type": kind, "Count": counts[dtype]}
    return layer


def _value(manifest: Manifest, tensor: Tensor) -> dict[str, Any]:
    return {
        "Name": tensor.name,
        "Dimensions": planned_dims(manifest, tensor),
        "Format/Datatype": _FORMATS[tensor.dtype],
    }
