"""What compiles parts of a graph: one implementation per runtime library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.optimise import Operators
from swapnet.manifest import Compiled, Manifest
from swapnet.progress import Progress

__all__ = ["BlockMemory", "Compiler", "Cutting", "Engine", "Piece", "WeightStyle"]

WeightStyle = Literal["external", "embedded"]
"""Weights are inputs of an engine, or inside it."""


@dataclass(frozen=True)
class Cutting:
    """Where a library lets a graph be cut.

    Attributes
    ----------
    cut_cost_bytes
        What one more block costs, in bytes of live values.
    uncut
        Values that must not cross a cut.
    """

    cut_cost_bytes: int
    uncut: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Piece:
    """A part to compile.

    Attributes
    ----------
    index
        Of its block.
    part
        Operators, and what goes in and out.
    own
        Weights that it stores; the others are shared with other parts, and inputs in any style.
    readable
        Its weights are read by others from storage: they can't be embedded.
    """

    index: int
    part: Part
    own: tuple[str, ...]
    readable: bool = False

    @property
    def title(self) -> str:
        """For messages: the block and its first and last operator."""
        first, last = self.part.operators[0], self.part.operators[-1]
        return f"block {self.index} ({first} … {last})"


@dataclass(frozen=True)
class Engine:
    """What a compiler says of an engine that it wrote.

    Attributes
    ----------
    style
        How weights are given to it.
    activation_bytes
        What its values and kernels take beside weights; 0 where it has to be measured.
    """

    style: WeightStyle
    activation_bytes: int = 0


@dataclass(frozen=True)
class BlockMemory:
    """What a block takes beside its weights, in bytes."""

    activation_bytes: int
    skeleton_bytes: int


class Compiler(Protocol):
    """Turns parts into engines of one library."""

    @property
    def suffix(self) -> str:
        """Of engine files."""

    @property
    def inplace(self) -> bool:
        """Whether an output may lie where an input lies; see `inplace_outputs`."""

    @property
    def compiled(self) -> Compiled:
        """What engines are compiled with and for."""

    @property
    def operators(self) -> Operators:
        """What the library reads."""

    def prepare(self, graph: Graph) -> Graph:
        """The graph as the library takes it best, before it is cut."""

    def cutting(self, graph: Graph) -> Cutting:
        """Where the graph may be cut.

        Raises
        ------
        ModelError
            The library can't execute the graph in parts.
        """

    def styles(self, graph: Graph, pieces: Sequence[Piece]) -> tuple[WeightStyle, ...]:
        """How the weights of each piece are given to it."""

    def compile(
        self, graph: Graph, piece: Piece, style: WeightStyle, target: Path, progress: Progress
    ) -> Engine:
        """Write the engine of a piece to ``target``; another style may take the place of ``style``.

        Raises
        ------
        ModelError
            The library refuses it; the message names block, node and operator.
        """

    def memory(self, folder: Path, manifest: Manifest) -> tuple[BlockMemory, ...]:
        """By block, at the planned shapes, of an engine directory that is written but for this.

        Raises
        ------
        ModelError
            The blocks do not run.
        """
