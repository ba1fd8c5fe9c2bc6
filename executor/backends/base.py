"""What the executor asks of a runtime library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from swapnet.executor.plan import Step

__all__ = ["Array", "Backend", "Bindings", "Segment"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Bindings:
    """Where everything that does not move lies.

    Attributes
    ----------
    weights
        Address of each weight, by block and name; block -1 has what several blocks share.
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


class Backend(Protocol):
    """A runtime library with its memory limit."""

    name: str

    def segments(self, steps: Sequence[Step], bindings: Bindings) -> Sequence[Segment]:
        """Make the segments of a plan: of each step that is consecutive graph blocks.

        Raises
        ------
        BackendError
            The runtime library refuses a segment.
        EngineError
            A skeleton is missing or was changed.
        """

    def array(self, value: Any) -> Array:
        """A value that a segment gave, as an array in host memory."""

    def close(self) -> None:
        """Release sessions and memory. Safe to call twice."""
