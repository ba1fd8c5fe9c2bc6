"""Rules that share a budget among engines, as a runtime applies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.simulated_cost import MOST_CLAIMS, simulated_cost
from swapnet.executor.runtime.split import RULES, Claim, cost_of, split

__all__ = ["ShareRule"]

_CLEARLY = 0.98
"""Largest cost over the expected one that is clearly lower: smaller differences are chance."""

_KEPT = 4
"""Costs that are remembered: of each rule's shares, and of those in force."""


class ShareRule:
    """A rule of `swapnet.executor.runtime.split.split`.

    ``latency`` gives way to another one that costs clearly less in a simulation.

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

    def __init__(
        self, name: str, *, lanes: int = 1, policy: Policy | str = Policy.DEADLINE
    ) -> None:
        if name not in RULES:
            raise InputError(
                f"there is no split {name!r}",
                why=f"there are {', '.join(RULES)}",
                hint="leave it out for the lowest expected latency",
            )
        self._name = name

        @lru_cache(_KEPT)
        def simulated(claims: tuple[Claim, ...], shares: tuple[tuple[str, int], ...]) -> float:
            return simulated_cost(claims, dict(shares), lanes=lanes, policy=policy)

        self._simulated = simulated

    def shares_bytes(self, claims: Sequence[Claim], available_bytes: int) -> dict[str, int]:
        """Bytes by name; ``available_bytes`` are not less than all smallest shares."""
        found = split(claims, available_bytes, rule=self._name)
        if self._name != "latency" or not _can_simulate(claims):
            return found
        others = [split(claims, available_bytes, rule=rule) for rule in RULES[1:]]
        others = [shares for shares in others if shares != found]
        best = min(others, key=lambda shares: self.cost(claims, shares), default=None)
        is_better = best and self.cost(claims, best) < _CLEARLY * self.cost(claims, found)
        return best if best and is_better else found

    def cost(self, claims: Sequence[Claim], shares_bytes: Mapping[str, int]) -> float:
        """Cost in a simulation; by the formula for many engines, each asked too seldom in one."""
        if not _can_simulate(claims):
            return cost_of(claims, shares_bytes)
        return self._simulated(tuple(claims), tuple(shares_bytes.items()))


def _can_simulate(claims: Sequence[Claim]) -> bool:
    return 1 < len(claims) <= MOST_CLAIMS
