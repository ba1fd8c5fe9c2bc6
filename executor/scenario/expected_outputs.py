"""Outputs with unlimited memory, and the check of other outputs against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swapnet.arrays import Array
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.scenario.messages import Key

__all__ = ["JOINED_LIMIT", "ExpectedOutputs"]

JOINED_LIMIT = 1e-5
"""Largest difference of a request that was answered with others, over the largest output."""


class ExpectedOutputs:
    """Outputs of each DNN for each of its inputs.

    Parameters
    ----------
    joined
        True for each DNN with requests that may be answered together: that sums in another order.
    """

    def __init__(self, joined: Sequence[bool]) -> None:
        self._joined = joined
        self._right: set[Key] = set()
        self._expected: dict[tuple[int, int], dict[str, Array]] = {}

    @property
    def known(self) -> tuple[Key, ...]:
        """Keys of all outputs that were found right."""
        return tuple(sorted(self._right))

    def expect(self, key: Key, outputs: dict[str, Array]) -> None:
        """Remember what unlimited memory gave."""
        self._right.add(key)
        self._expected[key[:2]] = outputs

    def judge(self, outputs: Mapping[Key, Mapping[str, Array]]) -> None:
        """Look at outputs that were not known."""
        for key, arrays in outputs.items():
            model, sample, _ = key
            expected = self._expected[model, sample]
            if self._joined[model] and _is_close(arrays, expected):
                self._right.add(key)

    def are_right(self, key: Key) -> bool:
        """True where these outputs are the expected ones."""
        return key in self._right


def _is_close(found: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    same = found.keys() == expected.keys() and all(
        found[name].shape == array.shape and found[name].dtype == array.dtype
        for name, array in expected.items()
    )
    return same and largest_difference(found, expected)[1] <= JOINED_LIMIT
