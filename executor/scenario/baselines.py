"""A baseline: whole models by turns, as a server without a planner loads them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from swapnet.arrays import Array
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.planner import make_plan
from swapnet.executor.planning.usage import usage
from swapnet.executor.runtime.dispatcher import Dispatcher, Port
from swapnet.executor.runtime.engine_curve import OPTIONS
from swapnet.executor.runtime.memory import is_interruptible, scratch_bytes, together
from swapnet.executor.runtime.model import ModelStats, settle
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Scheduler
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.sharing import Sharing
from swapnet.executor.stats import Stats
from swapnet.executor.swapping.loading import READERS
from swapnet.machine import trim_heap

__all__ = ["WHOLE_MODEL", "WholeModel", "WholeModels"]

WHOLE_MODEL = "whole-model"

_SEQUENCE = count()


class WholeModels:
    """One executor for each model; those used least recently are closed where there is no room.

    A model larger than the memory for weights is swapped in all of it. Only that memory is shared
    in another way than by `SwapRuntime`: scratch memory, readers and the order of deadlines are the
    same, and a plan is searched once for each budget. Requests are not joined.

    Parameters
    ----------
    budget_bytes
        Memory of all models together.
    device
        Compute threads, and the pool that they belong to.
    lanes
        Steps of different models that are executed at the same moment.
    """

    def __init__(self, budget_bytes: int, *, device: Device, lanes: int = 1) -> None:
        self.budget_bytes = budget_bytes
        self._device = device
        self._lanes = lanes
        self._dispatcher = Dispatcher(lanes=lanes, readers=READERS)
        self._scratch = Scratch(0)
        self._changed = threading.Condition()
        self._models: list[WholeModel] = []  # the least recently used one first
        self._asking: deque[WholeModel] = deque()

    @property
    def shares_bytes(self) -> dict[str, int]:
        """Memory for weights of those that are loaded, in bytes."""
        return {model.name: model.held_bytes for model in self._models}

    def load(
        self,
        folder: Path,
        *,
        name: str,
        priority: float = 1.0,
        deadline_ms: float | None = None,
        rate_per_s: float = 1.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> WholeModel:
        """Load an engine; parameters are those of `SwapRuntime.load`.

        Raises
        ------
        BudgetError
            The model does not fit in the budget alone.
        EngineError, StorageError, BackendError
            The engine can't be opened.
        """
        objectives = Objectives(priority=priority, deadline_ms=deadline_ms, rate_per_s=rate_per_s)
        engine = Engine.open(folder, shapes=shapes, device=self._device)
        keeps_lane = not is_interruptible(engine.manifest)
        port = self._dispatcher.add(name, rate_per_s, keeps_lane=keeps_lane)
        sharing = Sharing(port, self._scratch)
        model = WholeModel(engine, port, objectives, sharing=sharing, held=self.held)
        with self._changed:
            self._models.append(model)
            self._changed.wait_for(lambda: not any(each.is_used for each in self._models))
            for each in self._models:
                each.evict()
            manifests = [each.manifest for each in self._models]
            self._scratch.resize(scratch_bytes(manifests, lanes=self._lanes))
        try:
            with self.held(model):
                return model
        except BaseException:
            with self._changed:
                self._models.remove(model)
            model.close()
            port.tell(Scheduler.unloaded, name)
            raise

    def update(self, changes: Mapping[Any, Any]) -> None:
        """Nothing here depends on what is expected of a model."""

    def set_budget(self, budget: int) -> None:
        """Allow another amount of memory; returns when it is kept.

        Raises
        ------
        BudgetError
            A model does not fit in it alone; the budget before stays in force.
        """
        for model in self._models:
            model.plan(self._available_bytes(budget))
        with self._changed:
            self.budget_bytes = budget
            self._changed.wait_for(lambda: self._make_room(0))

    def close(self) -> None:
        """Finish what was submitted, then release everything."""
        for model in self._models:
            model.close()
        self._dispatcher.close()

    @contextmanager
    def held(self, model: WholeModel) -> Iterator[SharedExecutor]:
        """Keep a model in memory while its thread uses it."""
        with self._changed:
            self._asking.append(model)
            try:
                # In the order of asking: a model that stays in memory can't keep others out.
                self._changed.wait_for(lambda: self._asking[0] is model and self._admit(model))
            finally:
                self._asking.remove(model)
                self._changed.notify_all()
        try:
            yield model.opened()
        finally:
            with self._changed:
                model.is_used = False
                self._changed.notify_all()

    def _admit(self, model: WholeModel) -> bool:
        plan = model.plan(self._available_bytes(self.budget_bytes))
        if model.in_force is not plan:
            model.evict()
            if not self._make_room(plan.budget_bytes - model.alone_bytes):
                return False
            model.in_force = plan
        self._models.remove(model)
        self._models.append(model)
        model.is_used = True
        return True

    def _make_room(self, nbytes: int) -> bool:
        """Close idle models until there is room; False where those in use leave none."""
        most = self._available_bytes(self.budget_bytes) - nbytes
        for model in self._models:
            if sum(each.held_bytes for each in self._models) > most and not model.is_used:
                model.evict()
        return sum(each.held_bytes for each in self._models) <= most

    def _available_bytes(self, budget_bytes: int) -> int:
        manifests = [model.manifest for model in self._models]
        return budget_bytes - together(manifests, lanes=self._lanes).other_bytes


class WholeModel:
    """One model with a thread of its own; made by `WholeModels.load`.

    Attributes
    ----------
    manifest, alone_bytes
        The engine, and what it uses beside weights.
    in_force
        Plan of the executor that is open, or that there is room for.
    is_used
        True while an inference needs it in memory.
    """

    def __init__(
        self,
        engine: Engine,
        port: Port,
        objectives: Objectives,
        *,
        sharing: Sharing,
        held: Callable[[WholeModel], AbstractContextManager[SharedExecutor]],
    ) -> None:
        self.manifest = engine.manifest
        self.name = port.name
        self.alone_bytes = usage(engine.manifest).total_bytes
        self.in_force: Plan | None = None
        self.is_used = False
        self._demand_bytes = engine.demand.total_bytes
        self._plan_of = lru_cache(
            partial(make_plan, engine.manifest, engine.delays, options=OPTIONS)
        )
        self._open = partial(SharedExecutor, engine, options=OPTIONS, sharing=sharing)
        self._executor: SharedExecutor | None = None
        self._objectives = objectives
        self._port = port
        self._held = held
        self._requests: dict[int, tuple[Mapping[str, Any], Future[dict[str, Array]]]] = {}
        self._read_bytes = 0
        self._thread = threading.Thread(target=self._work, name=f"whole-{self.name}", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> ModelStats:
        """Counts since the model was loaded."""
        return ModelStats(waiting=len(self._requests), execution=Stats(read_bytes=self._read_bytes))

    @property
    def held_bytes(self) -> int:
        """Memory that is kept for its weights."""
        return self.in_force.budget_bytes - self.alone_bytes if self.in_force else 0

    def plan(self, most_bytes: int) -> Plan:
        """Plan with everything resident, or for all of the memory; searched the first time."""
        return self._plan_of(min(self._demand_bytes, self.alone_bytes + most_bytes))

    def submit(self, inputs: Mapping[str, Any], *, copy: bool = False) -> Future[dict[str, Array]]:
        """Queue one inference; errors come with the future's result. Inputs are never copied."""
        del copy
        now = time.perf_counter()
        deadline_s = now + self._objectives.patience_s
        job = Job(self.name, next(_SEQUENCE), now, deadline_s, self._objectives.priority, 0.0)
        result: Future[dict[str, Array]] = Future()
        self._requests[job.sequence] = inputs, result
        self._port.tell(Scheduler.asked, job)
        return result

    def opened(self) -> SharedExecutor:
        """The executor of the plan in force."""
        if self._executor is None:
            assert self.in_force is not None
            plan = self.in_force
            try:
                self._executor = self._open(plan.budget_bytes, plan=plan)
            except BaseException:
                self.in_force = None
                raise
            self._read_bytes += plan.resident_bytes
        return self._executor

    def evict(self) -> None:
        """Give the memory back; called while it is not used."""
        executor, self._executor, self.in_force = self._executor, None, None
        if executor is not None:
            executor.close()
            # The C library keeps what its sessions had on the heap: 10 MiB after a ResNet-101.
            trim_heap()

    def close(self) -> None:
        """Finish what was submitted, then release everything."""
        self._port.tell(Scheduler.closing, self.name)
        self._thread.join()
        self.evict()

    def _work(self) -> None:
        while (work := self._port.next_work()).do != "stop":
            inputs, result = self._requests.pop(*work.numbers)
            if result.set_running_or_notify_cancel():
                settle(result, partial(self._serve, inputs))
            self._port.tell(Scheduler.done, self.name)
            del inputs, result

    def _serve(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        with self._held(self) as executor:
            outputs = executor(inputs)
            last = executor.stats.last
            self._read_bytes += last.read_bytes if last else 0
            return outputs
