"""What models share that run in one process under one budget."""

from __future__ import annotations

from dataclasses import dataclass

from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.channel import Channel
from swapnet.executor.pipeline import Urgency

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """One model's part in it.

    Attributes
    ----------
    channel
        Reads for all of them.
    scratch
        What kernels use while a step is executed.
    urgency
        Of this model's reads, among all.
    """

    channel: Channel
    scratch: Scratch
    urgency: Urgency
