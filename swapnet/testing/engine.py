"""A device that computes nothing: it checks the pipeline.

A simulated engine (`write_engine`) has blocks without operators, filled with one byte each.
Executing a block verifies that its bytes have arrived and are still there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swapnet.errors import BackendError
from swapnet.executor.backends import OPENERS
from swapnet.executor.backends.base import Array, Bindings
from swapnet.executor.backends.host import HostBackend
from swapnet.executor.planning.plan import Step
from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    SCHEMA,
    WEIGHTS,
    Block,
    Compiled,
    Extent,
    Manifest,
    Source,
    Tensor,
    Weight,
    save_manifest,
    sha256_of,
)

__all__ = ["SimulatedBackend", "block_byte", "write_engine"]


def block_byte(index: int) -> int:
    """The byte that fills the weights of a block; never 0, the byte of fresh memory."""
    return index % 255 + 1


def write_engine(folder: Path, weights_bytes: Sequence[int]) -> Manifest:
    """Write a simulated engine: a chain of blocks with these bytes of weights.

    The model takes and gives ``x``, float64 of shape (1,); each block adds its byte.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scalar = np.dtype(np.float64).itemsize
    names = ["x", *(f"v{i}" for i in range(len(weights_bytes) - 1)), "y"]
    blocks: list[Block] = []
    offset = 0
    with (folder / WEIGHTS).open("wb") as file:
        for index, nbytes in enumerate(weights_bytes):
            data = bytes([block_byte(index)]) * nbytes
            data += bytes(-nbytes % EXTENT_ALIGNMENT)
            file.write(data)
            blocks.append(
                Block(
                    index=index,
                    kind="graph",
                    operators=("Simulated",),
                    inputs=(names[index],),
                    outputs=(names[index + 1],),
                    extent=Extent(offset, len(data)),
                    checksum=sha256_of(data),
                    weights=(Weight(f"w{index}", "uint8", (nbytes,), offset, nbytes),),
                )
            )
            offset += len(data)
    tensors = [Tensor(name, "float64", (1,), scalar) for name in names]
    manifest = Manifest(
        schema=SCHEMA,
        source=Source("simulated", "", ""),
        compiled=Compiled("simulated", "1", "any"),
        max_block_bytes=max(weights_bytes),
        sliced=(),
        inputs=(tensors[0],),
        outputs=(tensors[-1],),
        values=tuple(tensors[1:-1]),
        planned_shapes={"x": (1,)},
        blocks=tuple(blocks),
        weights_nbytes=offset,
    )
    save_manifest(folder, manifest)
    return manifest


class SimulatedBackend(HostBackend):
    """Executes simulated engines.

    Parameters
    ----------
    manifest
        A simulated engine.
    on_step
        Called before each segment with its step; may raise.
    """

    name = "simulated"

    def __init__(self, manifest: Manifest, on_step: Callable[[Step], None] | None = None) -> None:
        super().__init__(manifest)
        self._on_step = on_step

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> list[_SimulatedSegment]:
        return [_SimulatedSegment(self.manifest, s, bindings, self._on_step) for s in steps]

    def close(self) -> None:
        pass


class _SimulatedSegment:
    def __init__(
        self,
        manifest: Manifest,
        step: Step,
        bindings: Bindings,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self._manifest = manifest
        self._step = step
        self._bindings = bindings
        self._on_step = on_step

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        if self._on_step is not None:
            self._on_step(self._step)
        for block in self._manifest.blocks[self._step.first : self._step.last + 1]:
            weight = block.weights[0]
            address = self._bindings.weights[block.index, weight.name]
            found = set(ctypes.string_at(address, weight.nbytes))
            if found != {block_byte(block.index)}:
                raise BackendError(
                    f"block {block.index} ran without its weights",
                    why=f"its bytes are {sorted(found)[:4]}, they should be "
                    f"{block_byte(block.index)}",
                    hint="the pipeline is wrong",
                )
            value = self._read(block.inputs[0], given) + block_byte(block.index)
            self._write(block.outputs[0], value, results)

    def _read(self, name: str, given: dict[str, Any]) -> float:
        if name in given:
            return float(given[name][0])
        return ctypes.c_double.from_address(self._bindings.values[name]).value

    def _write(self, name: str, value: float, results: Mapping[str, Array]) -> None:
        if name in results:
            results[name][0] = value
        else:
            ctypes.c_double.from_address(self._bindings.values[name]).value = value


OPENERS["simulated"] = lambda opening: SimulatedBackend(opening.manifest)
