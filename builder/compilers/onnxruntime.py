"""Skeletons for ONNX Runtime, on the CPU or on CUDA: the part itself, with weights as inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from swapnet.builder.compilers.base import Cutting, Engine, EngineMemory, Piece, WeightStyle
from swapnet.builder.compilers.packing import pack
from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.compilers.windows import with_packing
from swapnet.builder.cutting.cut import CUT_COST_BYTES
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.optimise import Operators
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.probing.activations import measure
from swapnet.fingerprint import PORTABLE, cpu_fingerprint, processor_fingerprint
from swapnet.manifest import Compiled, Manifest
from swapnet.progress import Progress
from swapnet.version import VERSION

__all__ = ["OnnxRuntimeCompiler", "OnnxRuntimeCudaCompiler"]

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
    inner_values: ClassVar[bool] = True

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
        # What is packed for this processor is wrong on others.
        return graph if self.portable else with_packing(graph)

    def cutting(self, graph: Graph) -> Cutting:
        return Cutting(CUT_COST_BYTES)

    def styles(self, graph: Graph, pieces: Sequence[Piece]) -> tuple[WeightStyle, ...]:
        return tuple("external" for _ in pieces)

    def compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        model = skeleton(graph, piece.part, f"block {piece.index}", piece.part.packed)
        if piece.part.packed:
            constants = [graph.constants[name] for name in piece.part.packed]
            return Engine(style, packed=pack(model, constants, target.with_suffix(".data")))
        target.write_bytes(model.SerializeToString(deterministic=True))
        return Engine(style)

    def memory(self, folder: Path, manifest: Manifest) -> EngineMemory:
        """Measured in child processes."""
        measured = measure(folder)
        return EngineMemory(
            measured.activation_bytes, measured.session_memory, stripings=measured.stripings
        )


@dataclass(frozen=True)
class OnnxRuntimeCudaCompiler(OnnxRuntimeCompiler):
    """The same skeletons for CUDA, of operators that it has kernels for."""

    inner_values: ClassVar[bool] = False

    def prepare(self, graph: Graph) -> Graph:
        return graph

    @property
    def compiled(self) -> Compiled:
        return Compiled("onnxruntime-cuda", version(), PORTABLE, VERSION)

    @property
    def operators(self) -> Operators:
        return Operators.STANDARD

    def memory(self, folder: Path, manifest: Manifest) -> EngineMemory:
        """Twice the activations on the CPU, and a workspace; not measured on hardware."""
        found = super().memory(folder, manifest)
        merged = 2 * found.session_memory.scratch_bytes + _CUDA_WORKSPACE_BYTES
        return EngineMemory(
            tuple(
                2 * activation_bytes + (_CUDA_WORKSPACE_BYTES if block.is_graph else 0)
                for activation_bytes, block in zip(
                    found.activation_bytes, manifest.blocks, strict=True
                )
            ),
            msgspec.structs.replace(found.session_memory, scratch_bytes=merged),
        )
