"""Compilers of parts of a graph: one implementation per runtime library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from swapnet.builder.compilers.packing import Packed
from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.optimise import Operators
from swapnet.manifest import Compiled, Manifest
from swapnet.progress import Progress
from swapnet.shapes import SessionMemory
from swapnet.strips import Striping

__all__ = ["Compiler", "Cutting", "Engine", "EngineMemory", "Piece", "WeightStyle"]

WeightStyle = Literal["external", "embedded"]
"""Weights are inputs of an engine, or inside it."""


@dataclass(frozen=True)
class Cutting:
    """Places where a library lets a graph be cut.

    Attributes
    ----------
    cut_cost_bytes
        Cost of one more block, in bytes of live values.
    uncut
        Values that must not cross a cut.
    """

    cut_cost_bytes: int
    uncut: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Piece:
    """A part to compile, for the block ``index``.

    Attributes
    ----------
    own
        Weights that it stores; the others are shared with other parts, and inputs in any style.
    originals
        Packed weights that it stores beside its extent.
    readable
        Its weights are read by others from storage: they can't be embedded.
    """

    index: int
    part: Part
    own: tuple[str, ...]
    originals: tuple[str, ...] = ()
    readable: bool = False

    @property
    def title(self) -> str:
        """Name for messages: the block and its first and last operator."""
        first, last = self.part.operators[0], self.part.operators[-1]
        return f"block {self.index} ({first} … {last})"


@dataclass(frozen=True)
class Engine:
    """Properties of an engine that a compiler wrote.

    ``activation_bytes`` are those of values and kernels beside weights; 0 if they must be measured.
    ``packed`` is the engine where weights are windows: no file is written before their places are
    known.
    """

    style: WeightStyle
    activation_bytes: int = 0
    packed: Packed | None = None


@dataclass(frozen=True)
class EngineMemory:
    """Bytes that an engine takes beside its weights, at the planned shapes.

    Attributes
    ----------
    activation_bytes
        Peak of each block.
    session_memory
        Memory of ONNX Runtime's sessions together.
    skeleton_bytes
        Loaded engine of each block on the host; empty where it is its file.
    stripings
        Ways to execute blocks in strips.
    """

    activation_bytes: tuple[int, ...]
    session_memory: SessionMemory
    skeleton_bytes: tuple[int, ...] = ()
    stripings: tuple[Striping, ...] = ()


class Compiler(Protocol):
    """Turns parts into engines of one library."""

    @property
    def suffix(self) -> str:
        """Suffix of engine files."""

    @property
    def inplace(self) -> bool:
        """Whether an output may lie where an input lies; see `inplace_outputs`."""

    @property
    def inner_values(self) -> bool:
        """Whether values inside a block get places of their own, by formulas too, and blocks may be
        executed in strips of rows."""

    @property
    def compiled(self) -> Compiled:
        """Versions and devices that engines are compiled with and for."""

    @property
    def operators(self) -> Operators:
        """Operators that the library reads."""

    def prepare(self, graph: Graph) -> Graph:
        """The graph as the library takes it best, before it is cut."""

    def cutting(self, graph: Graph) -> Cutting:
        """Places where the graph may be cut.

        Raises
        ------
        ModelError
            The library can't execute the graph in parts.
        """

    def styles(self, graph: Graph, pieces: Sequence[Piece]) -> tuple[WeightStyle, ...]:
        """The way in which the weights of each piece are given to it."""

    def compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        """Write the engine of a piece to ``target``; another style may take the place of ``style``.

        Raises
        ------
        ModelError
            The library refuses it; the message names block, node and operator.
        """

    def memory(self, folder: Path, manifest: Manifest) -> EngineMemory:
        """Memory at the planned shapes, of an engine directory that lacks only this.

        Raises
        ------
        ModelError
            The blocks do not run.
        """
