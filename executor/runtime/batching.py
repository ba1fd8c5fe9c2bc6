"""Requests of one model that wait together are one inference, where its batch may vary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from swapnet.manifest import Manifest
from swapnet.tensors import Array

__all__ = ["agree", "join", "kind_of", "largest_batch", "part", "rows_of"]

_ROUNDING = 1e-4
"""Largest difference of joined outputs, over the largest magnitude."""


def largest_batch(manifest: Manifest) -> int:
    """Rows that one inference may have; 1 where requests can't be joined.

    They can where the first axis of all inputs and outputs is the same symbol, and the engine was
    planned for more than one row (``--shapes``).
    """
    tensors = (*manifest.inputs, *manifest.outputs)
    first = {tensor.shape[0] if tensor.shape else None for tensor in tensors}
    planned = {shape[0] for shape in manifest.planned_shapes.values() if shape}
    if len(first) != 1 or len(planned) != 1 or not isinstance(first.pop(), str):
        return 1
    return planned.pop()


def rows_of(inputs: Mapping[str, Array]) -> int:
    """Rows of one request."""
    return int(next(iter(inputs.values())).shape[0])


def kind_of(inputs: Mapping[str, Array]) -> Hashable:
    """Equal for requests that differ in their rows only, the same for all inputs of each.

    None for a request that can be joined with none.
    """
    if len({array.shape[0] for array in inputs.values()}) != 1:
        return None
    return tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))


def join(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One input of all rows, in order; as it is where there is one request."""
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}


def part(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The outputs of each request; arrays of its own, unless it is the only one."""
    if len(rows) == 1:
        return [dict(outputs)]
    ends = np.cumsum(rows)[:-1].tolist()
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: parts[name][i].copy() for name in parts} for i in range(len(rows))]


def agree(joined: Sequence[Mapping[str, Array]], alone: Sequence[Mapping[str, Array]]) -> bool:
    """True where joined requests gave what each gives alone: a first axis may be another one.

    Products of another size round differently in the last bits.
    """
    return all(
        _is_close(array, other[name])
        for one, other in zip(joined, alone, strict=True)
        for name, array in one.items()
    )


def _is_close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    scale = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=0.0, atol=_ROUNDING * scale, equal_nan=True))
