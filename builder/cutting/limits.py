"""Sizes that a build keeps: of blocks, and of what a compiler may use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isqrt

from swapnet.errors import InputError
from swapnet.manifest import EXTENT_ALIGNMENT
from swapnet.tensorrt import TENSORRT
from swapnet.units import parse_size

__all__ = ["Limits", "choose_limits"]

_BLOCK_RANGE_BYTES = (256 << 10, 8 << 20)
"""Smaller blocks cost more calls than they save bytes; larger ones overlap badly."""

_SESSION_BYTES = 160 << 10
_PACKED_SESSION_BYTES = 320 << 10
"""Memory of a session with threads of its own, for the balance of sizes alone: one of products of
few bits maps ten packed weights, or more (SmolLM2, ONNX Runtime 1.32)."""

_PLACES = 2
"""Blocks in memory at once while streaming, at least: one executes, one is being read. With ``n``
blocks of ``weights / n`` bytes they and the sessions take the least memory together where
``n * _SESSION_BYTES == _PLACES * weights / n``."""

_ENGINE_RANGE_BYTES = (4 << 20, 64 << 20)
_ENGINE_SHARE = 12
"""Blocks of TensorRT are as coarse as lets two of them fit in ``weights:17%``."""

_BUDGET_SHARE = 4
"""A block may take a quarter of the smallest budget: two blocks take half of it, scratch of the
kernels a quarter, activations and skeletons the rest."""

_SMALLEST_WORKSPACE_BYTES = 16 << 20


@dataclass(frozen=True)
class Limits:
    """Bytes that blocks and their compiler may use.

    Attributes
    ----------
    max_block_bytes
        Weights of a block.
    workspace_bytes
        Scratch of a block's kernels; only TensorRT asks.
    tactic_bytes
        Device memory of a kernel that is tried; None for all of it. Only TensorRT asks.
    """

    max_block_bytes: int
    workspace_bytes: int
    tactic_bytes: int | None


def choose_limits(
    backend: str,
    weights_bytes: int,
    *,
    packs: bool = False,
    max_block: str | int | None = None,
    smallest_budget: str | int | None = None,
    workspace: str | int | None = None,
) -> Limits:
    """The limits of a build; what is not given follows from the smallest budget or the weights.

    Parameters
    ----------
    backend
        Blocks of TensorRT are coarser: a cut costs it more.
    weights_bytes
        Weights of the model.
    packs
        Sessions map packed weights of few bits.
    max_block, workspace
        Sizes, or bytes.
    smallest_budget
        A block takes at most a quarter of it, so that one executes while another is read and half
        of it is left; so does the workspace. Blocks of ONNX Runtime do not grow with it.

    Raises
    ------
    InputError
        A size is invalid or too small.
    """
    budget = _bytes(smallest_budget)
    if budget is not None and budget < _BUDGET_SHARE * EXTENT_ALIGNMENT:
        raise InputError(
            f"a smallest budget of {budget} bytes is too small",
            why=f"blocks of {EXTENT_ALIGNMENT} bytes take {_BUDGET_SHARE * EXTENT_ALIGNMENT}",
            hint="give --smallest-budget 16MiB or more",
        )
    session_bytes = _PACKED_SESSION_BYTES if packs else _SESSION_BYTES
    of_sessions = partial(_session_bytes, session_bytes)
    default = _engine_bytes if backend in TENSORRT else of_sessions
    given = _bytes(max_block)
    max_block_bytes = default(weights_bytes, budget) if given is None else given
    if max_block_bytes < EXTENT_ALIGNMENT:
        raise InputError(
            f"blocks of {max_block_bytes} bytes are too small",
            why=f"a block is at least {EXTENT_ALIGNMENT} bytes, one page of direct I/O",
            hint="give --max-block 1MiB or more",
        )
    workspace_bytes = _bytes(workspace)
    if workspace_bytes is None:
        workspace_bytes = (
            max(max_block_bytes, _SMALLEST_WORKSPACE_BYTES)
            if budget is None
            else budget // _BUDGET_SHARE
        )
    return Limits(max_block_bytes, workspace_bytes, budget)


def _bytes(size: str | int | None) -> int | None:
    return parse_size(size) if isinstance(size, str) else size


def _session_bytes(session_bytes: int, weights_bytes: int, budget: int | None) -> int:
    smallest, largest = _BLOCK_RANGE_BYTES
    balanced = isqrt(weights_bytes * session_bytes // _PLACES)
    chosen = max(smallest, min(largest, balanced))
    return chosen if budget is None else min(chosen, budget // _BUDGET_SHARE)


def _engine_bytes(weights_bytes: int, budget: int | None) -> int:
    smallest, largest = _ENGINE_RANGE_BYTES
    if budget is not None:
        return budget // _BUDGET_SHARE
    return max(smallest, min(largest, weights_bytes // _ENGINE_SHARE))
