"""A `SwapExecutor` beside others: from outside comes when it computes and when its plan changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swapnet.budget import Budget
from swapnet.executor.backends.base import Array
from swapnet.executor.engine import Engine
from swapnet.executor.events import OnEvent
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.sharing import Sharing
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS
from swapnet.executor.swapping.storage import LoadMode

__all__ = ["SharedExecutor"]


class SharedExecutor(SwapExecutor):
    """Executes an engine that shares storage, scratch memory and processors with others.

    A BudgetError with ``missing_bytes`` is not counted: it is for `grown` or `refuse`.

    Parameters
    ----------
    engine, budget, load_mode, storage_timeout_ms, options, trace
        As for `SwapExecutor`.
    sharing
        The model's part in reading and in scratch memory; None where it has its own.
    plan
        A plan of this engine for the budget; None to search one.
    on_event, name
        Called with events, and the name in them.
    """

    def __init__(
        self,
        engine: Engine | str | Path,
        budget: Budget | str | int,
        *,
        load_mode: LoadMode | str = LoadMode.AUTO,
        storage_timeout_ms: float = STORAGE_TIMEOUT_MS,
        options: PlanOptions | None = None,
        sharing: Sharing | None = None,
        plan: Plan | None = None,
        trace: bool = False,
        on_event: OnEvent | None = None,
        name: str = "",
    ) -> None:
        self._name = name
        self._sharing = sharing
        self._given_plan = plan
        super().__init__(
            engine,
            budget,
            load_mode=load_mode,
            storage_timeout_ms=storage_timeout_ms,
            options=options,
            trace=trace,
            on_event=on_event,
        )

    def hurry(self) -> None:
        """Wait 5 seconds at most for storage from now on: the model is to be closed."""
        self._patience.hurry()

    def check(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None, *, copy: bool
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Arrays for a call, of a request that is served later.

        Raises
        ------
        InputError, BudgetError
            They do not fit the model, or are larger than planned for.
        """
        return self._check(inputs, out, copy=copy)

    def grown(self) -> None:
        """Note that values which did not fit have more scratch memory."""
        self._events.note("grown", plan=self._plan)
        self._events.tell()

    def refuse(self, error: Exception) -> None:
        """Note that values which did not fit get no more scratch memory."""
        self._note_failure(error)
        self._events.tell()

    def prepare(self, budget: Budget | str | int, options: PlanOptions | None = None) -> Plan:
        """The plan for another budget and restrictions, for `adopt`; requests keep running.

        Raises
        ------
        InputError, BudgetError
            The budget is invalid or too small.
        """
        return self._make_plan(Budget.parse(budget), options)

    def prepare_sessions(self, plan: Plan) -> None:
        """Make the sessions of a plan under the scratch memory in force; requests keep running.

        Raises
        ------
        BackendError, EngineError
            The runtime library refuses a step, or a skeleton was changed.
        """
        blocks = self.manifest.blocks
        self._backend.prepare_segments([s for s in plan.steps if blocks[s.first].is_graph])

    def adopt(self, plan: Plan) -> None:
        """Put a prepared plan in force, between two inferences; at the next one after `pause`.

        Raises
        ------
        StorageError, BackendError
            As `set_budget`.
        """
        self._adopt(plan)
        with self._turn:
            self._opened()  # after a pause that kept nothing

    def pause(self, *, keep_sessions: bool = False, keep_memory: bool = True) -> None:
        """Forget segments, so that scratch memory can change; the next inference loads again.

        Parameters
        ----------
        keep_sessions
            Keep those of `prepare_sessions`.
        keep_memory
            Leave weights where they are. Else all memory is given back.
        """
        with self._turn:
            self._parked = self._park()
            if not keep_sessions:
                self._backend.forget_segments()
            packs = self.manifest.has_windows and not keep_sessions
            if self._parked is not None and (packs or not keep_memory):
                self._parked.discard()
                self._parked = None
            if not keep_memory:
                self._values.close()
                self._values = self._new_values(self._striping)
