"""The memory budget as the user writes it."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Literal

from swapnet.errors import InputError
from swapnet.units import format_size, parse_size

__all__ = ["Budget", "Demand"]

_PERCENT = re.compile(r"(weights:)?\s*(\d{1,18}(?:\.\d{1,18})?)\s*%")

_EXAMPLES = "64MiB, 25%, weights:25% or auto"


@dataclass(frozen=True)
class Demand:
    """Memory that a model needs at given input shapes when nothing is swapped.

    Attributes
    ----------
    weights_bytes
        All weights.
    other_bytes
        Everything else: activations at their peak, inputs and outputs, staging, skeletons.
    smallest_bytes
        The smallest budget: no weights stay in memory.
    """

    weights_bytes: int
    other_bytes: int
    smallest_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Weights and everything else."""
        return self.weights_bytes + self.other_bytes


@dataclass(frozen=True)
class Budget:
    """All bytes that a model may use.

    ======================  ==========================================================
    written                 means
    ======================  ==========================================================
    ``"64MiB"``             64 * 2**20 bytes
    ``"25%"``               a quarter of the demand
    ``"weights:25%"``       everything but weights, and a quarter of the weight bytes
    ``"weights:0%"``        the smallest budget: no weights stay in memory
    ``"auto"``              the smallest predicted to lose at most 5 % to storage and strips
    ======================  ==========================================================
    """

    amount: float
    of: Literal["bytes", "demand", "weights", "auto"] = "bytes"

    @classmethod
    def parse(cls, value: Budget | str | int) -> Budget:
        """A budget from what the user wrote; an ``int`` counts bytes.

        Raises
        ------
        InputError
            The text is not a budget, or the budget is not above 0.
        """
        if isinstance(value, Budget):
            return value
        if not isinstance(value, str):
            budget = cls(operator.index(value)) if hasattr(value, "__index__") else None
            if budget is None:
                raise InputError(
                    f"{value!r} is not a budget",
                    why=f"it is a {type(value).__name__}, not a whole number or text",
                    hint=f"give whole bytes, or text like {_EXAMPLES}",
                )
        elif value.strip() == "auto":
            return cls(0, "auto")
        elif match := _PERCENT.fullmatch(value.strip()):
            budget = cls(float(match[2]) / 100, "weights" if match[1] else "demand")
        else:
            try:
                budget = cls(parse_size(value))
            except InputError as error:
                raise InputError(
                    f"{value!r} is not a budget",
                    why="a budget is a size, a share of the demand or of the weights, or auto",
                    hint=f"write it like {_EXAMPLES}",
                ) from error
        if budget.amount <= 0 and budget.of != "weights":
            raise InputError(
                f"a budget must be above 0, {value!r} is not",
                why=f"it amounts to {budget.amount:g}",
                hint=f"write it like {_EXAMPLES}",
            )
        return budget

    def check_fixed(self) -> None:
        """Check that the demand is enough to resolve it.

        Raises
        ------
        InputError
            The budget is ``auto``, which takes the delays of an engine.
        """
        if self.of == "auto":
            raise InputError(
                "a budget of auto is not for this",
                why="it is chosen by the measured delays of one engine",
                hint="give a size, like 64MiB, or a share, like weights:25%",
            )

    def resolve(self, demand: Demand) -> int:
        """The budget in bytes for a model of this demand.

        Raises
        ------
        InputError
            As `check_fixed`.
        """
        self.check_fixed()
        if self.of == "bytes":
            return int(self.amount)
        if self.of == "demand":
            return int(self.amount * demand.total_bytes)
        if not self.amount:
            return demand.smallest_bytes
        return demand.other_bytes + int(self.amount * demand.weights_bytes)

    def __str__(self) -> str:
        if self.of == "auto":
            return "auto"
        if self.of == "bytes":
            return format_size(self.amount)
        share = f"{self.amount * 100:g}%"
        return share if self.of == "demand" else f"weights:{share}"
