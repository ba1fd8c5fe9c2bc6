"""Skeletons for ONNX Runtime, on the CPU or on CUDA: the part itself, with weights as inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swapnet.builder.compilers.base import BlockMemory, Cutting, Engine, Piece, WeightStyle
from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.cut import CUT_COST_BYTES
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.optimise import Operators
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.probing.activations import measure
from swapnet.fingerprint import PORTABLE, cpu_fingerprint, processor_fingerprint
from swapnet.manifest import SESSION_BYTES, Compiled, Manifest
from swapnet.progress import Progress
from swapnet.version import VERSION

__all__ = ["OnnxRuntimeCompiler", "OnnxRuntimeCudaCompiler"]

_OPERATORS = 6
_OPERATOR_BYTES = 12 << 10
"""A session takes `SESSION_BYTES` with `_OPERATORS` operators, and `_OPERATOR_BYTES` more for each
further one: measured on 32 sessions of 613 operators, as memory beyond their graphs."""

_CUDA_WORKSPACE_BYTES = 16 << 20
"""Workspace of convolutions in cuDNN: assumed, not measured on hardware."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeCompiler:
    """Skeletons for the CPU.

    Attributes
    ----------
    portable
        Leave out hardware layouts, so that engines run on any processor.
    full_range
        int8 weights have all 8 bits: x86 without VNNI would add up their products wrong. Not
        together with ``portable``.
    """

    portable: bool = False
    full_range: bool = False
    suffix: ClassVar[str] = ".onnx"
    inplace: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.portable and self.full_range:
            raise ValueError("a portable engine's int8 weights have 7 bits")

    @property
    def compiled(self) -> Compiled:
        here = processor_fingerprint() if self.full_range else cpu_fingerprint()
        fingerprint = PORTABLE if self.portable else here
        return Compiled("onnxruntime", version(), fingerprint, VERSION)

    @property
    def operators(self) -> Operators:
        return Operators.PORTABLE if self.portable else Operators.HARDWARE

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def cutting(self, graph: Graph) -> Cutting:
        return Cutting(CUT_COST_BYTES)

    def styles(self, graph: Graph, pieces: Sequence[Piece]) -> tuple[WeightStyle, ...]:
        return tuple("external" for _ in pieces)

    def compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        model = skeleton(graph, piece.part, f"block {piece.index}")
        target.write_bytes(model.SerializeToString(deterministic=True))
        return Engine(style)

    def memory(self, folder: Path, manifest: Manifest) -> tuple[BlockMemory, ...]:
        """Measured in a child process; skeletons are counted in proportion to their operators."""
        measured = measure(folder)
        sizes = [len(block.operators) + 1 if block.is_graph else 0 for block in manifest.blocks]
        share = measured.skeleton_bytes / max(sum(sizes), 1)
        return tuple(
            BlockMemory(peak, int(share * size) + _session_bytes(size) if size else 0)
            for peak, size in zip(measured.limiting_activation_bytes, sizes, strict=True)
        )


def _session_bytes(operators: int) -> int:
    """Bytes of a session beside its graph."""
    return SESSION_BYTES + _OPERATOR_BYTES * max(operators - _OPERATORS, 0)


@dataclass(frozen=True)
class OnnxRuntimeCudaCompiler(OnnxRuntimeCompiler):
    """The same skeletons for CUDA, of operators that it has kernels for."""

    @property
    def compiled(self) -> Compiled:
        return Compiled("onnxruntime-cuda", version(), PORTABLE, VERSION)

    @property
    def operators(self) -> Operators:
        return Operators.STANDARD

    def memory(self, folder: Path, manifest: Manifest) -> tuple[BlockMemory, ...]:
        """Twice the activations on the CPU, and a workspace; not measured on hardware."""
        return tuple(
            BlockMemory(
                2 * memory.activation_bytes + (_CUDA_WORKSPACE_BYTES if block.is_graph else 0),
                memory.skeleton_bytes,
            )
            for memory, block in zip(super().memory(folder, manifest), manifest.blocks, strict=True)
        )
