"""How models divide a budget: each has a part of it, or whole models take turns in all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.rehearsal import MOST_CLAIMS, rehearse
from swapnet.executor.runtime.residency import Residency
from swapnet.executor.runtime.split import RULES, Claim, cost_of, split

__all__ = ["DIVISIONS", "Division", "Parts", "Rehearsed", "WholeModels", "division_for"]

_LATENCY, _WHOLE = "latency", "whole-model"

_CLEARLY = 0.98
"""Of a cost: less than the rest is chance."""

DIVISIONS = (*RULES, _WHOLE)
"""By name."""


class Division(Protocol):
    """Who may use how much of the memory for weights, and when."""

    def needed_bytes(self, claims: Sequence[Claim]) -> int:
        """The least memory in which all models can run."""

    def shares(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """Bytes by name; there is as much as is needed."""

    def cost(self, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        """What shares are expected to cost; of two divisions' costs nothing can be said."""

    def hold(
        self, name: str, nbytes: int, evict: Callable[[], None]
    ) -> AbstractContextManager[bool]:
        """See `Residency.hold`."""

    def leave(self, name: str) -> None:
        """A model's share changes; called between two of its inferences."""

    def forget(self, name: str) -> None:
        """A model is gone."""

    def resize(self, available_bytes: int) -> None:
        """There is another amount of memory from now on."""


class Parts:
    """Each model has a share, which is its own.

    Parameters
    ----------
    rule
        See `swapnet.executor.runtime.split.split`.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule

    def needed_bytes(self, claims: Sequence[Claim]) -> int:
        """All smallest shares."""
        return sum(map(_smallest, claims))

    def shares(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """By the rule."""
        return {
            share.name: share.nbytes for share in split(claims, available_bytes, rule=self._rule)
        }

    def cost(self, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        """By the formula."""
        return cost_of(claims, shares)

    def hold(
        self, name: str, nbytes: int, evict: Callable[[], None]
    ) -> AbstractContextManager[bool]:
        """It is there."""
        del name, nbytes, evict
        return nullcontext(False)

    def leave(self, name: str) -> None:
        """What it keeps of its share stays."""

    def forget(self, name: str) -> None:
        """Nothing is known of it."""

    def resize(self, available_bytes: int) -> None:
        """Shares tell all."""


class Rehearsed(Parts):
    """The shares of the least expected latency, if no other rule does clearly better on a clock.

    Parameters
    ----------
    lanes, policy
        Of the runtime.
    """

    def __init__(self, *, lanes: int, policy: Policy | str) -> None:
        super().__init__(_LATENCY)
        self._lanes = lanes
        self._policy = policy

    def shares(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """Of all rules', those with the lowest cost in a rehearsal."""
        expected = super().shares(claims, available_bytes)
        others = [Parts(rule).shares(claims, available_bytes) for rule in RULES if rule != _LATENCY]
        others = [shares for shares in others if shares != expected]
        if not (others and _can_rehearse(claims)):
            return expected
        best = min(others, key=lambda shares: self.cost(claims, shares))
        clearly = self.cost(claims, best) < _CLEARLY * self.cost(claims, expected)
        return best if clearly else expected

    def cost(self, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        """In a rehearsal; by the formula where each of many engines is asked too seldom in one."""
        if not _can_rehearse(claims):
            return super().cost(claims, shares)
        return rehearse(claims, shares, lanes=self._lanes, policy=self._policy)


class WholeModels:
    """Each model gets all that it can use, and others leave for it; see `Residency`."""

    def __init__(self) -> None:
        self._residency = Residency(0)

    def needed_bytes(self, claims: Sequence[Claim]) -> int:
        """The largest of the smallest shares."""
        return max(map(_smallest, claims))

    def shares(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """Everything, for each, as far as there is so much."""
        largest = (max(option.nbytes for option in claim.options) for claim in claims)
        return {
            claim.name: min(nbytes, available_bytes)
            for claim, nbytes in zip(claims, largest, strict=True)
        }

    def cost(self, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        """By the formula, which does not know that they take turns."""
        return cost_of(claims, shares)

    def hold(
        self, name: str, nbytes: int, evict: Callable[[], None]
    ) -> AbstractContextManager[bool]:
        """See `Residency.hold`."""
        return self._residency.hold(name, nbytes, evict)

    def leave(self, name: str) -> None:
        """It is loaded anew with its next share."""
        self._residency.leave(name)

    def forget(self, name: str) -> None:
        """See `Residency.forget`."""
        self._residency.forget(name)

    def resize(self, available_bytes: int) -> None:
        """See `Residency.resize`."""
        self._residency.resize(available_bytes)


def division_for(name: str, *, lanes: int = 1, policy: Policy | str = Policy.DEADLINE) -> Division:
    """One of `DIVISIONS`.

    Parameters
    ----------
    name
        Of it.
    lanes, policy
        Of the runtime whose budget is divided.

    Raises
    ------
    InputError
        There is none of this name.
    """
    if name not in DIVISIONS:
        raise InputError(
            f"there is no split {name!r}",
            why=f"there are {', '.join(DIVISIONS)}",
            hint="leave it out for the lowest expected latency",
        )
    if name == _WHOLE:
        return WholeModels()
    return Rehearsed(lanes=lanes, policy=policy) if name == _LATENCY else Parts(name)


def _can_rehearse(claims: Sequence[Claim]) -> bool:
    return 1 < len(claims) <= MOST_CLAIMS


def _smallest(claim: Claim) -> int:
    return min(option.nbytes for option in claim.options)
