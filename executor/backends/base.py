"""A runtime library as the executor sees it.

A `Step` is the plan's unit of execution. A `Segment` is the compiled object that executes a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swapnet.executor.planning.plan import Place, Plan, Step
from swapnet.executor.swapping.actual_shapes import ActualShapes, StripShapes
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.moments import Mark
from swapnet.manifest import Manifest
from swapnet.strips import Striping
from swapnet.tensors import Array

if TYPE_CHECKING:
    from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader

__all__ = ["Array", "Backend", "Bindings", "Memory", "Segment", "ValueStore"]


@dataclass(frozen=True)
class Bindings:
    """Addresses of weights and values that do not move.

    Attributes
    ----------
    weights
        Address of each weight, by block and name; those that it shares are among them.
    values
        Address of each placed value.
    arena, places
        Memory for weights, and the place of each block in it. Without an arena, windows stay
        mapped to ``weights.bin``.
    actual
        Shapes of values in the running inference; None where all of them are fixed.
    strip
        Shapes of the rows that lie at ``values`` in a segment of strips; None in others.
    """

    weights: Mapping[tuple[int, str], int]
    values: Mapping[str, int]
    arena: Memory | None = None
    places: Sequence[Place] = ()
    actual: ActualShapes | None = None
    strip: StripShapes | None = None


class Segment(Protocol):
    """A step, compiled and bound to addresses."""

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        """Execute the step.

        Parameters
        ----------
        given
            Model inputs and values of unknown size by name; the segment adds its outputs of
            unknown size.
        results
            Arrays of known size that take model outputs.

        Raises
        ------
        BackendError
            The runtime library refused.
        """


class Memory(Protocol):
    """Memory for weights: one range of addresses that the backend's kernels can read."""

    address: int
    nbytes: int

    def resize(self, nbytes: int) -> None:
        """Change the size and keep the bytes; `BufferError` where that can't be done."""

    def move(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes inside the memory; the two places may overlap."""

    def fill(self, offset: int, nbytes: int, byte: int) -> None:
        """Overwrite a part; tests do so before each read."""

    def discard(self) -> None:
        """Give all memory back; the bytes are lost."""


class ValueStore(Protocol):
    """Memory for values with a fixed place, and for inputs and outputs of an inference."""

    @property
    def actual(self) -> ActualShapes | None:
        """Shapes of values in the running inference; None where all of them are fixed."""

    @property
    def addresses(self) -> Mapping[str, int]:
        """Address of each placed value, and of what strips read and give."""

    def __contains__(self, name: str) -> bool: ...

    def array(self, name: str) -> Array:
        """A placed value in host memory."""

    def writing(self, name: str, shape: tuple[int, ...]) -> AbstractContextManager[Array]:
        """Host memory that becomes the placed value when the ``with`` statement ends."""

    def begin(
        self, inputs: Mapping[str, Array], out: Mapping[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Take the inputs of an inference.

        Parameters
        ----------
        inputs
            Checked arrays for all model inputs.
        out
            Checked arrays of the caller that take some of the model outputs.

        Returns
        -------
        given, results
            Arguments of `Segment.run`.
        """

    def give_back(self, block: int) -> None:
        """Give back the pages of all values that have died before a block, in this inference."""

    def finish(
        self, given: Mapping[str, Any], results: Mapping[str, Array], out: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The outputs of an inference whose steps have been executed.

        Raises
        ------
        InputError
            An output has another shape than the caller's array.
        """

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""


class Backend(Protocol):
    """A runtime library with its memory limit.

    Attributes
    ----------
    name
        Name in manifests.
    manifest
        The engine, with the needs that it was found to have on this GPU.
    gpu
        Description of the GPU that executes; empty on the CPU.
    is_asynchronous
        True where work goes on after the call that started it.
    """

    name: str
    manifest: Manifest
    is_asynchronous: bool

    @property
    def gpu(self) -> str: ...

    def available_bytes(self) -> int:
        """Memory that this backend can use; the upper limit of a budget."""

    def arena(self, nbytes: int) -> Memory:
        """Reserve memory for weights.

        Raises
        ------
        BudgetError
            There is not enough memory.
        """

    def values(self, inside: Arena | None = None, striping: Striping | None = None) -> ValueStore:
        """Reserve memory for values; their addresses stay the same from plan to plan.

        Values inside blocks lie in ``inside``, where other engines have theirs too. With other
        blocks in strips they are reserved again; a GPU has none in strips.
        """

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        """The loader that brings the reads of a plan to the arena."""

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> Sequence[Segment]:
        """Make the segment of each step; the steps have graph blocks only.

        Raises
        ------
        BackendError
            The runtime library refuses a segment.
        EngineError
            A skeleton is missing or was changed.
        """

    def prepare_segments(self, steps: Sequence[Step]) -> None:
        """Make what segments need beside addresses, while those in force are used.

        It is of the scratch memory that is in force now. Errors are those of `segments`.
        """

    def forget_segments(self) -> None:
        """Make all segments again the next time; memory of unused ones is released now."""

    def array(self, value: Any) -> Array:
        """A value that a segment gave, as an array in host memory."""

    def follow(self, marks: Sequence[Mark]) -> None:
        """Begin later work after these marks."""

    def mark(self) -> Mark:
        """The moment at which all work that was started until now has ended."""

    def synchronize(self) -> None:
        """Wait until nothing is executed or copied any more.

        Raises
        ------
        BackendError
            An execution or a copy failed.
        """

    def close(self) -> None:
        """Release sessions and memory. Safe to call twice."""
