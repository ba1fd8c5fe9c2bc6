"""Rules that share a budget among engines, as a runtime applies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.simulated_cost import MOST_CLAIMS, simulated_cost
from swapnet.executor.runtime.split import RULES, Claim, cost_of, split

__all__ = ["ShareRule", "SimulatedShareRule", "share_rule"]

_LATENCY = "latency"

_CLEARLY = 0.98
"""Largest cost over the expected one that is clearly lower: smaller differences are chance."""


class ShareRule:
    """Shares by one of the rules of `swapnet.executor.runtime.split.split`."""

    def __init__(self, rule: str) -> None:
        self._rule = rule

    def needed_bytes(self, claims: Sequence[Claim]) -> int:
        """The least memory in which all models can run: all smallest shares."""
        return sum(min(option.nbytes for option in claim.options) for claim in claims)

    def shares_bytes(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """Bytes by name; ``available_bytes`` are at least `needed_bytes`."""
        return {
            share.name: share.nbytes for share in split(claims, available_bytes, rule=self._rule)
        }

    def cost(self, claims: Sequence[Claim], shares_bytes: Mapping[str, int]) -> float:
        """Expected cost of these shares. Costs of different rules are not comparable."""
        return cost_of(claims, shares_bytes)


class SimulatedShareRule(ShareRule):
    """The rule ``latency``, unless another one costs clearly less in a simulation."""

    def __init__(self, *, lanes: int, policy: Policy | str) -> None:
        super().__init__(_LATENCY)
        self._lanes = lanes
        self._policy = policy

    def shares_bytes(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        expected = super().shares_bytes(claims, available_bytes)
        others = [
            ShareRule(rule).shares_bytes(claims, available_bytes)
            for rule in RULES
            if rule != _LATENCY
        ]
        others = [shares for shares in others if shares != expected]
        if not (others and _can_simulate(claims)):
            return expected
        cost, best = min(
            ((self.cost(claims, shares), shares) for shares in others), key=itemgetter(0)
        )
        return best if cost < _CLEARLY * self.cost(claims, expected) else expected

    def cost(self, claims: Sequence[Claim], shares_bytes: Mapping[str, int]) -> float:
        """Cost in a simulation; by the formula for many engines, each asked too seldom in one."""
        if not _can_simulate(claims):
            return super().cost(claims, shares_bytes)
        return simulated_cost(claims, shares_bytes, lanes=self._lanes, policy=self._policy)


def share_rule(name: str, *, lanes: int = 1, policy: Policy | str = Policy.DEADLINE) -> ShareRule:
    """The rule of a name.

    Parameters
    ----------
    name
        One of `swapnet.executor.runtime.split.RULES`.
    lanes, policy
        Settings of the runtime that shares its budget.

    Raises
    ------
    InputError
        There is no rule of this name.
    """
    if name not in RULES:
        raise InputError(
            f"there is no split {name!r}",
            why=f"there are {', '.join(RULES)}",
            hint="leave it out for the lowest expected latency",
        )
    return SimulatedShareRule(lanes=lanes, policy=policy) if name == _LATENCY else ShareRule(name)


def _can_simulate(claims: Sequence[Claim]) -> bool:
    return 1 < len(claims) <= MOST_CLAIMS
