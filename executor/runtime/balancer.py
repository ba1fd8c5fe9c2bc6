"""A thread that has a budget split again where models are asked at other rates than expected."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

__all__ = ["Balancer"]

_DRIFT = 2.0
"""A rate that differs from the one that the budget was split for by this factor is another."""


class Balancer:
    """Looks at rates where requests come, and splits in a thread of its own.

    Parameters
    ----------
    rebalance
        Called in the thread, after rates have drifted. What it raises is logged, and it is tried
        again when they drift.
    rest_s
        Between two looks.
    """

    def __init__(self, rebalance: Callable[[], None], *, rest_s: float = 2.0) -> None:
        self._rebalance = rebalance
        self._rest_s = rest_s
        self._drifted = threading.Event()
        self._closed = False
        self._looked_s = time.perf_counter()
        self._thread = threading.Thread(target=self._work, name="swapnet-balancer", daemon=True)
        self._thread.start()

    def look(
        self, expected_per_s: Mapping[str, float], seen: Callable[[], Mapping[str, float]]
    ) -> None:
        """Compare rates, unless that was done a moment ago; does not wait for a split.

        Parameters
        ----------
        expected_per_s
            Rates that the budget was split for, by model.
        seen
            Gives those that are seen; a model of which nothing was expected does not count.
        """
        now = time.perf_counter()
        if now - self._looked_s < self._rest_s:
            return
        self._looked_s = now
        if any(_differ(expected_per_s.get(name), rate) for name, rate in seen().items()):
            self._drifted.set()

    def stop(self) -> None:
        """Split no more; a split that is being made goes on."""
        self._closed = True
        self._drifted.set()

    def close(self) -> None:
        """Stop the thread and wait for it; not from within it. Safe to call twice."""
        self.stop()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._drifted.wait()
            self._drifted.clear()
            if self._closed:
                return
            try:
                self._rebalance()
            except Exception:
                logging.getLogger(__name__).exception("the budget keeps its split")


def _differ(expected_per_s: float | None, rate_per_s: float) -> bool:
    """True where a rate is not about the one that the budget was split for."""
    if expected_per_s is None:
        return False
    return not expected_per_s / _DRIFT <= rate_per_s <= max(expected_per_s, 1e-9) * _DRIFT
