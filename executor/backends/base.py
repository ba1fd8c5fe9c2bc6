"""What the executor asks of a runtime library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swapnet.executor.planning.plan import Plan, Step
from swapnet.executor.swapping.moments import Mark
from swapnet.manifest import Manifest
from swapnet.tensors import Array

if TYPE_CHECKING:
    from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader

__all__ = ["Array", "Backend", "Bindings", "Memory", "Segment", "ValueStore"]


@dataclass(frozen=True)
class Bindings:
    """Where everything that does not move lies.

    Attributes
    ----------
    weights
        Address of each weight, by block and name; block `SHARED` has what several blocks use.
    values
        Address of each placed value.
    """

    weights: Mapping[tuple[int, str], int]
    values: Mapping[str, int]


class Segment(Protocol):
    """Consecutive blocks, compiled and bound."""

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        """Execute.

        Parameters
        ----------
        given
            Model inputs and values of unknown size by name; the segment adds those it gives.
        results
            Arrays of known size that take model outputs.

        Raises
        ------
        BackendError
            The runtime library refused.
        """


class Memory(Protocol):
    """Where weights lie: one range of addresses that the backend's kernels can read."""

    address: int
    nbytes: int

    def resize(self, nbytes: int) -> None:
        """Keep the bytes and change the size; `BufferError` where that can't be done."""

    def move(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes inside the memory; the two places may overlap."""

    def fill(self, offset: int, nbytes: int, byte: int) -> None:
        """Overwrite a part: what a test does before each read."""

    def discard(self) -> None:
        """Give all memory back; nothing may use it any more, or its bytes are gone."""


class ValueStore(Protocol):
    """Memory of the values that have a fixed place, and what an inference takes and gives."""

    @property
    def addresses(self) -> Mapping[str, int]:
        """Of each placed value."""

    def __contains__(self, name: str) -> bool: ...

    def array(self, name: str) -> Array:
        """A placed value in host memory."""

    def writing(self, name: str, shape: tuple[int, ...]) -> AbstractContextManager[Array]:
        """Host memory that becomes the placed value when the block of the ``with`` ends."""

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        """Take the inputs of an inference.

        Returns
        -------
        given, results
            What `Segment.run` takes.
        """

    def finish(self, given: Mapping[str, Any], results: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of an inference whose steps have been executed."""

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""


class Backend(Protocol):
    """A runtime library with its memory limit.

    Attributes
    ----------
    name
        As the manifest has it.
    manifest
        The engine, with what it needs here where that is known better than when it was built.
    gpu
        What delays are measured on, where that is a GPU; empty elsewhere.
    is_asynchronous
        What it executes goes on after the call that started it.
    """

    name: str
    manifest: Manifest
    is_asynchronous: bool

    @property
    def gpu(self) -> str: ...

    def available_bytes(self) -> int:
        """Memory that a budget may be of."""

    def arena(self, nbytes: int) -> Memory:
        """Reserve memory for weights.

        Raises
        ------
        BudgetError
            There is not so much.
        """

    def values(self) -> ValueStore:
        """Reserve memory for values; of it, addresses stay the same from plan to plan."""

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        """What brings the reads of a plan to the arena."""

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> Sequence[Segment]:
        """Make the segments of a plan: of each step that is consecutive graph blocks.

        Raises
        ------
        BackendError
            The runtime library refuses a segment.
        EngineError
            A skeleton is missing or was changed.
        """

    def forget_segments(self) -> None:
        """Make all anew the next time; what nobody holds of them is released now."""

    def array(self, value: Any) -> Array:
        """A value that a segment gave, as an array in host memory."""

    def follow(self, marks: Sequence[Mark]) -> None:
        """What is executed from now on begins after these."""

    def mark(self) -> Mark:
        """The moment at which all that was executed so far has ended."""

    def synchronize(self) -> None:
        """Wait until nothing is executed or copied any more.

        Raises
        ------
        BackendError
            Something of it failed.
        """

    def close(self) -> None:
        """Release sessions and memory. Safe to call twice."""
