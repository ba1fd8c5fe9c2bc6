"""Parts that models share which run in one process under one budget."""

from __future__ import annotations

from dataclasses import dataclass

from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.pipeline import Order

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """Parts that one model shares with others.

    Attributes
    ----------
    order
        Decides when this model's reads and steps begin.
    scratch
        Memory that kernels use while a step is executed.
    inside
        Memory for values inside the block that is executed; None for memory of its own.
    """

    order: Order
    scratch: Scratch
    inside: Arena | None = None
