"""`SwapRuntime`: several models, one budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, InputError, SwapnetError
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.events import OnEvent
from swapnet.executor.planning.admission import values_too_large
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.usage import scratch_within
from swapnet.executor.runtime.admission import budget_bytes
from swapnet.executor.runtime.batching import largest_batch
from swapnet.executor.runtime.decisions import OnDecision
from swapnet.executor.runtime.dispatcher import Dispatcher
from swapnet.executor.runtime.division import Division, claims_of, divide
from swapnet.executor.runtime.engine_curve import EngineCurve, with_curve
from swapnet.executor.runtime.giving_way import giving_way
from swapnet.executor.runtime.memory import (
    inside_bytes,
    is_interruptible,
    most_scratch_bytes,
    other_bytes,
    scratch_bytes,
    session_bytes,
)
from swapnet.executor.runtime.model import RuntimeModel, unloaded
from swapnet.executor.runtime.objectives import Changes, Objectives
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.scheduler import Scheduler
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.shapes import ensure_shapes
from swapnet.executor.sharing import Sharing
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import READERS
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS, Patience
from swapnet.executor.swapping.storage import LoadMode
from swapnet.machine import memory_bytes
from swapnet.manifest import Manifest
from swapnet.process.forks import Birthplace
from swapnet.strips import Striping

__all__ = ["SwapRuntime"]

_LOGGER = logging.getLogger("swapnet")

_WORTH = 0.9
"""Largest cost of a new split over the current one: smaller gains are not worth new plans."""


class SwapRuntime:
    """Runs several engines inside one memory budget; see docs/multi-dnn.md.

    Engines may be loaded and unloaded at any time. Each gets a share of the budget, by what more
    memory is worth to it; storage and processor serve the most urgent request first.

    Parameters
    ----------
    budget
        ``"256MiB"`` or bytes: all that the models may use together. Shares of a demand are not
        for a runtime: its models come and go.
    device
        Compute threads, and the pool that they belong to.
    load_mode
        The way to read weights.
    storage_timeout_ms
        Longest time that storage may take for one request, as in `SwapExecutor`.
    split
        One of `swapnet.executor.runtime.split.RULES`. ``latency``: the lowest expected latency,
        weighted by priorities and rates. ``equal`` and ``proportional`` are what that is compared
        with.
    lanes
        Steps of different models that are executed at the same moment.
    policy
        Order of requests: `swapnet.executor.runtime.policy.Policy`.
    trace
        Record every request, for a timeline.
    on_event
        Called with the events of all models, as in `SwapExecutor`; on the thread of the model, on
        that of a request that is refused, or on that of `load`, `unload` and `close`. It can't
        load and unload models there, nor change their shares.
    on_decision
        Called with every `swapnet.executor.runtime.decisions.Decision` of the scheduler, in
        order. All of the runtime waits meanwhile: it may keep the decision, and nothing else.

    Raises
    ------
    InputError
        The budget is invalid, or there is no such split or policy.
    BudgetError
        The budget is more than the machine has.

    Examples
    --------
    >>> with SwapRuntime("256MiB") as runtime:  # doctest: +SKIP
    ...     detector = runtime.load("engines/yolov3", priority=2.0, deadline_ms=200)
    ...     reader = runtime.load("engines/ppocrv4_rec", rate_per_s=5.0)
    ...     boxes = detector.submit({"input": image})
    ...     text = reader({"x": line})
    """

    def __init__(
        self,
        budget: Budget | str | int,
        *,
        device: Device | None = None,
        load_mode: LoadMode | str = LoadMode.AUTO,
        storage_timeout_ms: float = STORAGE_TIMEOUT_MS,
        split: str = "latency",
        lanes: int = 1,
        policy: Policy | str = Policy.DEADLINE,
        trace: bool = False,
        on_event: OnEvent | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        if lanes < 1:
            raise InputError(f"{lanes} lanes execute nothing", why="there must be 1 or more")
        self._birthplace = Birthplace("runtime")
        self._rule = ShareRule(split, lanes=lanes, policy=policy)
        self._budget_bytes = budget_bytes(budget)
        self._device = device or Device()
        self._load_mode = LoadMode.parse(load_mode)
        Patience(storage_timeout_ms)  # refuses what is out of its range
        self._storage_timeout_ms = storage_timeout_ms
        self._on_event = on_event
        self._trace = trace
        self._balance = threading.Lock()
        """Held while models come, go, or change their shares."""
        self._changing_thread: int | None = None
        self._models: dict[str, RuntimeModel] = {}
        self._engines: dict[str, EngineCurve] = {}
        """With the blocks in strips that plans in force have."""
        self._grown_bytes: dict[str, int] = {}
        """Limits that values needed which were larger than measured, by model."""
        self._scratch = Scratch(0)
        self._inside = Arena(memory_bytes() // 2) if lanes == 1 else None
        """Values inside the block that is executed; pages are taken as they are needed."""
        self._lanes = lanes
        self._closed = False
        self._dispatcher = Dispatcher(
            policy=policy,
            lanes=lanes,
            readers=READERS,
            divide=self._follow_rates,
            on_decision=on_decision,
        )
        self._scheduler = self._dispatcher.scheduler

    @property
    def budget_bytes(self) -> int:
        """Memory that the models may use together."""
        return self._budget_bytes

    @property
    def models(self) -> tuple[RuntimeModel, ...]:
        """The loaded models, in the order of loading."""
        return tuple(self._models.values())

    @property
    def shares_bytes(self) -> dict[str, int]:
        """Memory for weights, in bytes, by model; everything else is shared or does not vary."""
        return {model.name: self._scheduler.share_bytes(model.name) for model in self.models}

    def load(
        self,
        engine: Engine | str | Path,
        *,
        name: str | None = None,
        priority: float = 1.0,
        deadline_ms: float | None = None,
        rate_per_s: float = 1.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
        dims: Mapping[str, int] | None = None,
    ) -> RuntimeModel:
        """Load an engine; others give it room.

        Parameters
        ----------
        engine
            Engine directory, or an engine that is open.
        name
            Unique; by default that of the folder.
        priority
            Weight of its latency among all.
        deadline_ms
            Time from when a request is submitted to when its answer is due.
        rate_per_s
            Expected requests; what is seen later counts more.
        shapes, dims
            Input shapes and sizes of symbols to plan for, as in `SwapExecutor`. More than one row
            allows requests that wait to be joined.

        Raises
        ------
        BudgetError
            The engine does not fit beside the others; the message names the smallest budget.
        InputError
            The name is taken, or a number is out of its range.
        EngineError, StorageError, BackendError
            The engine can't be opened; all others are as before.
        """
        objectives = Objectives(priority=priority, deadline_ms=deadline_ms, rate_per_s=rate_per_s)
        with giving_way():
            opened = ensure_shapes(
                engine, shapes, dims=dims, device=self._device, say=_LOGGER.warning
            )
            curve = with_curve(opened)
        name = name or opened.folder.absolute().name
        with self._changing():
            self._check_open()
            self._check_loadable(name, opened)
            before = Division(self._scheduler.limit_bytes, self.shares_bytes, dict(self._engines))
            division = self._divide(
                {**self._engines, name: curve},
                {**self._objectives(), name: objectives},
                self._budget_bytes,
            )
            try:
                self._apply(division)
                curve = division.engines[name]
                model = self._open(name, curve, objectives, division.shares_bytes[name])
            except BaseException:
                self._forget(name)
                with suppress(SwapnetError):
                    self._apply(before)
                raise
            self._models[name] = model
            self._engines[name] = curve
            return model

    def unload(self, model: RuntimeModel) -> None:
        """Finish what was submitted to a model, and give its memory to the others.

        Where storage does not answer within 5 seconds, what was submitted fails. In a forked child
        it does nothing.
        """
        if self._birthplace.is_behind:
            return
        model.executor.hurry()
        with self._changing():
            if self._models.get(model.name) is not model:
                return
            model.close()
            self._forget(model.name)
            self._trim_inside()
            with suppress(SwapnetError):
                self._rebalance()

    def update(self, changes: Mapping[RuntimeModel, Changes]) -> None:
        """Change what is promised or expected of some models; the budget is split again, once.

        Parameters
        ----------
        changes
            By model: some of priority, deadline_ms and rate_per_s, as in `load`. A rate that is
            given counts until others are seen, whatever was seen before.

        Raises
        ------
        InputError, BackendError
            A number is out of its range, or a model was unloaded; nothing has changed.
        StorageError, BackendError
            A plan could not be put in force; the one before is.
        """
        with self._changing():
            for model, given in changes.items():
                replace(model.objectives, **given)  # refuses what is out of its range
                if self._models.get(model.name) is not model:
                    raise unloaded(model.name)
            for model, given in changes.items():
                model.expect(given)
            self._rebalance()

    def set_budget(self, budget: Budget | str | int) -> None:
        """Allow another amount of memory; returns when it is kept.

        Requests keep running: each model changes between two of its inferences, first those that
        shrink. Where the limit of scratch memory changes, all models pause for a moment.

        Raises
        ------
        InputError, BudgetError
            The budget is invalid or too small; the current one stays in force.
        StorageError, BackendError
            A plan could not be put in force; its model keeps the one before, and the larger of the
            two budgets is in force.
        """
        wanted = budget_bytes(budget)
        with self._changing():
            self._check_open()
            division = self._divide(self._engines, self._objectives(), wanted)
            self._budget_bytes = max(self._budget_bytes, wanted)
            self._apply(division)
            self._budget_bytes = wanted

    def close(self) -> None:
        """Finish what was submitted, then release everything. Safe to call twice.

        Where storage does not answer within 5 seconds, what was submitted fails. In a forked
        child it does nothing.
        """
        if self._birthplace.is_behind:
            return
        for model in self.models:
            model.executor.hurry()  # what holds the lock may wait for storage
        with self._changing():
            self._closed = True
            for model in self.models:
                model.close()
                self._forget(model.name)
        self._dispatcher.close()

    def __enter__(self) -> SwapRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serving(self) -> RuntimeModel | None:
        return next((model for model in self.models if model.is_served_here()), None)

    def grow(self, model: RuntimeModel, error: BudgetError) -> Future[None]:
        """Give values that did not fit more scratch memory; the bytes are missing that it says.

        The calling thread is that of ``model``, which changes as it is asked to until this is done.
        """
        before_bytes = self._scheduler.limit_bytes
        return self._dispatcher.later(partial(self._grow, model, error, before_bytes))

    def _grow(self, model: RuntimeModel, error: BudgetError, before_bytes: int) -> None:
        """Grow to what the budget leaves, twice what was measured, or all that weights can give.

        The first that is enough is taken, and the limit stays: each of the three happens once.

        Raises
        ------
        BudgetError
            The budget is too small for these values.
        """
        with self._changing():
            if self._models.get(model.name) is not model:
                raise error
            if self._scheduler.limit_bytes != before_bytes:
                return  # for another model, meanwhile
            wanted = before_bytes + error.missing_bytes
            manifests = self._manifests()
            lanes = self._lanes
            stripings = self._stripings()
            most = most_scratch_bytes(manifests, self._budget_bytes, stripings, lanes=lanes)
            if wanted > most:
                raise values_too_large(error, wanted, most, self._budget_bytes)
            spare = before_bytes + scratch_within(self._unused_bytes())
            twice = 2 * scratch_bytes(manifests, stripings, lanes=lanes)
            enough = (limit for limit in (spare, min(twice, most), most) if limit >= wanted)
            self._grown_bytes[model.name] = next(enough)
            self._rebalance()

    def _open(
        self, name: str, curve: EngineCurve, objectives: Objectives, share_bytes: int
    ) -> RuntimeModel:
        manifest = curve.engine.manifest
        port = self._dispatcher.add(
            name,
            objectives.rate_per_s,
            rows=largest_batch(manifest),
            keeps_lane=not is_interruptible(manifest),
        )
        with giving_way():
            executor = SharedExecutor(
                curve.engine,
                curve.budget(share_bytes),
                load_mode=self._load_mode,
                storage_timeout_ms=self._storage_timeout_ms,
                options=curve.options,
                sharing=Sharing(port, self._scratch, self._inside),
                trace=self._trace,
                on_event=self._on_event,
                name=name,
            )
        try:
            model = RuntimeModel(name, executor, objectives, port, self)
        except BaseException:
            executor.close()
            raise
        self._dispatcher.tell(Scheduler.shared, name, share_bytes)
        return model

    def _forget(self, name: str) -> None:
        for known in (self._models, self._engines, self._grown_bytes):
            known.pop(name, None)
        self._dispatcher.tell(Scheduler.unloaded, name)

    def _objectives(self) -> dict[str, Objectives]:
        return {
            name: replace(model.objectives, rate_per_s=model.rate_per_s())
            for name, model in self._models.items()
        }

    def _divide(
        self,
        engines: Mapping[str, EngineCurve],
        objectives: Mapping[str, Objectives],
        budget_bytes: int,
    ) -> Division:
        """Scratch memory and shares for weights, together as much as a budget allows.

        Raises
        ------
        BudgetError
            The budget is too small for all of them.
        """
        try:
            with giving_way():
                division = divide(
                    self._rule,
                    engines,
                    objectives,
                    budget_bytes,
                    lanes=self._lanes,
                    least_scratch_bytes=max(self._grown_bytes.values(), default=0),
                )
        except BudgetError as error:
            self._dispatcher.tell(Scheduler.refused, "", str(error))
            raise
        rates = {name: objectives[name].rate_per_s for name in engines}
        self._dispatcher.tell(Scheduler.divided, time.perf_counter(), rates)
        return division

    def _rebalance(self) -> None:
        self._apply(self._divide(self._engines, self._objectives(), self._budget_bytes))

    def _apply(self, division: Division) -> None:
        """Put a division in force, in the stages that the scheduler gives.

        Where other blocks are in strips, all models give their memory back first.

        Raises
        ------
        StorageError, BackendError
            The first that failed; the model keeps its plan, and further stages do not begin.
        """
        wanted = division.limit_bytes, division.shares_bytes
        engines = {name: division.engines[name] for name in self._models}
        if any(each.striping != self._engines[n].striping for n, each in engines.items()):
            shares = {name: division.shares_bytes[name] for name in engines}
            self._carry_out(shares, [division.limit_bytes], engines)
        while stage := self._dispatcher.tell(Scheduler.sharing, *wanted):
            shares = {each.model: each.numbers[0] for each in stage if each.model}
            self._carry_out(shares, [*(each.numbers[0] for each in stage if not each.model)])

    def _carry_out(
        self,
        shares: Mapping[str, int],
        limits: Sequence[int],
        cut: Mapping[str, EngineCurve] | None = None,
    ) -> None:
        """Put plans for other shares in force, all at once; each model between two inferences.

        Where the limit of scratch memory changes, all pause until the old is given back.

        Sessions belong to a limit. The new ones are made before, while requests go on, where the
        budget has room for both: they take no scratch memory until they run. Otherwise each model
        makes its own afterwards, and its next request waits for them.

        ``cut`` has the engines with other blocks in strips. Their values lie elsewhere, so all
        memory is given back before the first takes its own.
        """
        curves = self._engines if cut is None else cut
        with giving_way():
            plans = {
                name: self._models[name].executor.prepare(
                    curves[name].budget(nbytes), curves[name].options
                )
                for name, nbytes in shares.items()
            }
        # True where the budget has room for all sessions a second time.
        has_room = self._unused_bytes() >= session_bytes(self._manifests())
        is_prepared = cut is None and has_room
        if is_prepared:
            for limit_bytes in limits:
                self._scratch.resize(limit_bytes)
            for name, plan in plans.items():
                with giving_way(), suppress(SwapnetError):  # raised where the plan is adopted
                    self._models[name].executor.prepare_sessions(plan)
        arrived, go_on = threading.Barrier(len(plans) + 1), threading.Event()

        def switch(name: str, plan: Plan) -> None:
            if limits:
                try:
                    self._models[name].executor.pause(
                        keep_sessions=is_prepared, keep_memory=cut is None
                    )
                finally:
                    arrived.wait()
                    go_on.wait()
            self._models[name].adopt(plan)
            # Here, so that its next inference finds the share that the plan is for.
            self._dispatcher.tell(Scheduler.shared, name, shares[name])

        ends = [self._models[n].between(partial(switch, n, plan)) for n, plan in plans.items()]
        for limit_bytes in limits:
            try:
                arrived.wait()
                if cut is not None:
                    self._engines.update(cut)
                    self._trim_inside()
                if not is_prepared:
                    self._scratch.resize(limit_bytes)
                self._dispatcher.tell(Scheduler.resized, limit_bytes)
            except BaseException:  # Ctrl-C while it waits: nobody may wait for this thread
                arrived.abort()
                self._scratch.resize(self._scheduler.limit_bytes)
                raise
            finally:
                go_on.set()
        if failed := [error for end in ends if (error := end.exception()) is not None]:
            raise failed[0]

    def _manifests(self) -> list[Manifest]:
        return [curve.engine.manifest for curve in self._engines.values()]

    def _stripings(self) -> list[Striping | None]:
        return [curve.striping for curve in self._engines.values()]

    def _trim_inside(self) -> None:
        if self._inside is not None:
            self._inside.trim(inside_bytes(self._manifests(), self._stripings()))

    def _unused_bytes(self) -> int:
        """Memory of the budget that no plan in force uses."""
        lanes = self._lanes
        limit = self._scheduler.limit_bytes
        used = other_bytes(self._manifests(), limit, self._stripings(), lanes=lanes)
        return self._budget_bytes - used - sum(self.shares_bytes.values())

    def _follow_rates(self) -> None:
        """Split for the rates that are seen, where that is worth it; in a thread for it."""
        with self._changing(), suppress(SwapnetError):
            objectives = self._objectives()
            division = self._divide(self._engines, objectives, self._budget_bytes)
            claims = claims_of(division.engines, objectives)
            both = (division.shares_bytes, self.shares_bytes)
            then, now = (self._rule.cost(claims, shares) for shares in both)
            if then < _WORTH * now:
                self._apply(division)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While models come, go, or change their shares: one at a time.

        Raises
        ------
        BackendError
            Called on a model's own thread, which would be waited for, by ``on_event`` during such a
            change, or in a forked process.
        """
        self._birthplace.check()
        waiting, here = self.serving(), threading.get_ident()
        if waiting is not None or self._changing_thread == here:
            raise BackendError(
                "models can't come, go or change their shares here",
                why="this is on_event, which is called in the middle of such a change"
                if waiting is None
                else f"this is a done-callback, or on_event, on the thread of {waiting.name}",
                hint="do it from another thread",
            )
        with self._balance:
            self._changing_thread = here
            try:
                yield
            finally:
                self._changing_thread = None

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(
                "the runtime is closed",
                why="it was used after close()",
                hint="open a new SwapRuntime",
            )

    def _check_loadable(self, name: str, engine: Engine) -> None:
        if name in self._models:
            raise InputError(
                f"there is a model {name!r} already",
                why=f"loaded are {', '.join(self._models)}",
                hint="give another name=",
            )
        if engine.manifest.runs_on_gpu:
            raise BackendError(
                f"{engine.folder} runs on a GPU",
                why="a runtime shares the memory and the processors of the host",
                hint="build it with --backend onnxruntime, or use a SwapExecutor for it",
            )
