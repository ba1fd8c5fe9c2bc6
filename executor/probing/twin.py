"""Two executors of one engine that are compared, and hold its weights in memory once."""

from __future__ import annotations

from collections.abc import Collection

from swapnet.budget import Budget
from swapnet.executor.backends.base import Memory
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.swapping.storage import LoadMode

__all__ = ["Twin"]


class Twin(SwapExecutor):
    """An executor of another's engine that computes with the weights of the other in place.

    It holds its own where the plans differ in what is resident or where it lies, on a GPU, and
    where kernels read weights in windows.

    Parameters
    ----------
    engine, budget, load_mode, options
        As for `SwapExecutor`.
    other
        The other; it keeps its budget, and is closed later.
    """

    def __init__(
        self,
        engine: Engine,
        budget: Budget,
        *,
        other: SwapExecutor,
        load_mode: LoadMode,
        options: PlanOptions,
    ) -> None:
        self._other = other
        super().__init__(engine, budget, load_mode=load_mode, options=options)

    def _load(
        self, plan: Plan, arena: Memory | None = None, resident: Collection[int] = ()
    ) -> None:
        held, state = self._other.plan, self._other._state
        fits = plan.residents == held.residents and not held.ring_bytes
        alone = self.manifest.runs_on_gpu or self.manifest.has_windows  # pages are lent to one
        if fits and state is not None and not alone:
            arena, resident = state.arena, range(len(plan.residents))
        super()._load(plan, arena, resident)
