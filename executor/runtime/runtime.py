"""`SwapRuntime`: several models, one budget."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from swapnet.budget import Budget
from swapnet.errors import BackendError, InputError, SwapnetError
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.events import OnEvent
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.usage import mappable_bytes
from swapnet.executor.runtime.admission import budget_bytes, too_small
from swapnet.executor.runtime.balancer import Balancer
from swapnet.executor.runtime.engine_curve import OPTIONS, EngineCurve, with_curve
from swapnet.executor.runtime.giving_way import giving_way
from swapnet.executor.runtime.lanes import Lanes
from swapnet.executor.runtime.memory import scratch_bytes, sizes_may_depend_on_data, together
from swapnet.executor.runtime.model import RuntimeModel, Urgencies, unloaded
from swapnet.executor.runtime.objectives import Changes, Objectives
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.rates import RateMeter
from swapnet.executor.runtime.share_rules import share_rule
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.shapes import ensure_shapes
from swapnet.executor.sharing import Sharing
from swapnet.executor.swapping.loading import READERS
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS, Patience
from swapnet.executor.swapping.readers import Channel
from swapnet.executor.swapping.storage import LoadMode
from swapnet.process.forks import Birthplace

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
    on_event
        Called with the events of all models, as in `SwapExecutor`; on the thread of the model, on
        that of a request that is refused, or on that of `load`, `unload` and `close`.

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
        on_event: OnEvent | None = None,
    ) -> None:
        if lanes < 1:
            raise InputError(f"{lanes} lanes execute nothing", why="there must be 1 or more")
        self._birthplace = Birthplace("runtime")
        self._rule = share_rule(split, lanes=lanes, policy=policy)
        self._budget_bytes = budget_bytes(budget)
        self._device = device or Device()
        self._load_mode = LoadMode.parse(load_mode)
        Patience(storage_timeout_ms)  # refuses what is out of its range
        self._storage_timeout_ms = storage_timeout_ms
        self._on_event = on_event
        self._lanes = Lanes(lanes, policy)
        self._balance = threading.RLock()
        """Held while models come, go, or change their shares."""
        self._models: dict[str, RuntimeModel] = {}
        self._engines: dict[str, EngineCurve] = {}
        self._shares_bytes: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        """Rates that the budget was split for."""
        self._scratch = Scratch(0)
        self._channel = Channel(READERS)
        self._closed = False
        self._balancer = Balancer(self._follow_rates)

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
        return dict(self._shares_bytes)

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
        objectives = Objectives(priority, deadline_ms, rate_per_s)
        with giving_way():
            opened = ensure_shapes(
                engine, shapes, dims=dims, device=self._device, say=_LOGGER.warning
            )
            curve = with_curve(opened)
        name = name or opened.folder.absolute().name
        with self._changing():
            self._check_open()
            self._check_loadable(name, opened)
            engines = {**self._engines, name: curve}
            shares_bytes = self._split(engines, {**self._objectives(), name: objectives})
            before = dict(self._shares_bytes)
            try:
                self._make_room({n: b for n, b in shares_bytes.items() if n != name})
                self._fit_scratch(engines.values())
                model = self._open(name, curve, objectives, shares_bytes[name])
            except BaseException:
                self._forget(name)
                with suppress(SwapnetError):
                    self._fit_scratch(self._engines.values())
                with suppress(SwapnetError):
                    self._apply(before)
                raise
            self._models[name] = model
            self._engines[name] = curve
            self._shares_bytes[name] = shares_bytes[name]
            with suppress(SwapnetError):
                self._apply(shares_bytes)
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
            if self._models:
                self._fit_scratch(self._engines.values())
                with suppress(SwapnetError):
                    self._rebalance()
            else:
                self._scratch.resize(0)

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
        shrink.

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
            before, self._budget_bytes = self._budget_bytes, wanted
            try:
                self._rebalance()
            except BaseException:
                self._budget_bytes = max(before, wanted)
                raise

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
            self._balancer.stop()
            for model in self.models:
                model.close()
                self._forget(model.name)
            self._channel.close()
        self._balancer.close()

    def __enter__(self) -> SwapRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def asked(self) -> None:
        """Wake the balancer where rates are not those expected."""
        self._balancer.look(self._rates, lambda: {m.name: m.rate_per_s() for m in self.models})

    def serving(self) -> RuntimeModel | None:
        return next((model for model in self.models if model.is_served_here()), None)

    def _open(
        self, name: str, curve: EngineCurve, objectives: Objectives, share_bytes: int
    ) -> RuntimeModel:
        urgencies = Urgencies(RateMeter(objectives.rate_per_s))
        with giving_way():
            executor = SharedExecutor(
                curve.engine,
                curve.alone_bytes + share_bytes,
                load_mode=self._load_mode,
                storage_timeout_ms=self._storage_timeout_ms,
                options=OPTIONS,
                sharing=Sharing(self._channel, self._scratch, urgencies),
                on_event=self._on_event,
                name=name,
            )
        try:
            return RuntimeModel(name, executor, objectives, self._lanes, urgencies, self)
        except BaseException:
            executor.close()
            raise

    def _forget(self, name: str) -> None:
        for known in (self._models, self._engines, self._shares_bytes, self._rates):
            known.pop(name, None)

    def _objectives(self) -> dict[str, Objectives]:
        return {
            name: replace(model.objectives, rate_per_s=model.rate_per_s())
            for name, model in self._models.items()
        }

    def _split(
        self, engines: Mapping[str, EngineCurve], objectives: Mapping[str, Objectives]
    ) -> dict[str, int]:
        """Bytes for the weights of each engine, together as much as the budget leaves.

        Raises
        ------
        BudgetError
            The budget is too small for all of them.
        """
        if not engines:
            return {}
        claims = [engine.claim(name, objectives[name]) for name, engine in engines.items()]
        available = self._available_bytes(engines.values())
        needed = self._rule.needed_bytes(claims)
        if needed > available:
            smallest_bytes = self._budget_bytes - available + needed
            raise too_small(tuple(engines), smallest_bytes, self._budget_bytes)
        self._rates.update({name: objectives[name].rate_per_s for name in engines})
        with giving_way():
            return self._rule.shares_bytes(claims, available)

    def _rebalance(self) -> None:
        shares_bytes = self._split(self._engines, self._objectives())
        if self._scratch_bytes(self._engines.values()) < self._scratch.limit_bytes:
            self._fit_scratch(self._engines.values())
        self._apply(shares_bytes)
        self._fit_scratch(self._engines.values())

    def _apply(self, shares_bytes: Mapping[str, int]) -> None:
        """Apply the new shares: shrink first, then grow."""
        self._make_room(shares_bytes)
        self._adopt({n: b for n, b in shares_bytes.items() if b > self._shares_bytes[n]})

    def _make_room(self, shares_bytes: Mapping[str, int]) -> None:
        self._adopt({n: b for n, b in shares_bytes.items() if b < self._shares_bytes[n]})

    def _adopt(self, shares_bytes: Mapping[str, int]) -> None:
        """Put plans in force, all at once; each model between two of its inferences.

        Raises
        ------
        StorageError, BackendError
            The first that failed; the model keeps its plan.
        """
        with giving_way():
            plans = {
                name: self._models[name].executor.prepare(
                    self._engines[name].alone_bytes + share_bytes
                )
                for name, share_bytes in shares_bytes.items()
            }
        changes = [
            self._models[name].between(partial(self._change, name, plan, shares_bytes[name]))
            for name, plan in plans.items()
        ]
        failed = [error for change in changes if (error := change.exception()) is not None]
        if failed:
            raise failed[0]

    def _change(self, name: str, plan: Plan, share_bytes: int) -> None:
        # In the model's thread, so that its next inference finds the share that the plan is for.
        self._models[name].adopt(plan)
        self._shares_bytes[name] = share_bytes

    def _fit_scratch(self, engines: Iterable[EngineCurve]) -> None:
        """Make scratch memory as large as engines need; all of them pause while it changes."""
        limit = self._scratch_bytes(engines)
        if limit == self._scratch.limit_bytes:
            return
        models = self.models
        arrived, go_on = threading.Barrier(len(models) + 1), threading.Event()

        def stop(model: RuntimeModel) -> None:
            try:
                model.executor.pause()
            finally:
                arrived.wait()
                go_on.wait()

        pauses = [model.between(partial(stop, model)) for model in models]
        arrived.wait()
        try:
            self._scratch.resize(limit)
        finally:
            go_on.set()
        for pause in pauses:
            pause.result()

    def _scratch_bytes(self, engines: Iterable[EngineCurve]) -> int:
        """Scratch memory for engines: as measured, and what the budget leaves beside all weights.

        Only values whose size may depend on data can need the second part.
        """
        curves = tuple(engines)
        manifests = [curve.engine.manifest for curve in curves]
        measured = scratch_bytes(manifests, lanes=self._lanes.count)
        if not any(map(sizes_may_depend_on_data, manifests)):
            return measured
        spare = self._available_bytes(curves) - sum(curve.largest_bytes for curve in curves)
        return measured + mappable_bytes(max(spare, 0)) // 4096 * 4096

    def _available_bytes(self, engines: Iterable[EngineCurve]) -> int:
        manifests = [e.engine.manifest for e in engines]
        return self._budget_bytes - together(manifests, lanes=self._lanes.count).other_bytes

    def _follow_rates(self) -> None:
        """Split for the rates that are seen, where that is worth it; in the balancer's thread."""
        with self._changing(), suppress(SwapnetError):
            objectives = self._objectives()
            shares_bytes = self._split(self._engines, objectives)
            claims = [
                engine.claim(name, objectives[name]) for name, engine in self._engines.items()
            ]
            then, now = (
                self._rule.cost(claims, each) for each in (shares_bytes, self._shares_bytes)
            )
            if then < _WORTH * now:
                self._apply(shares_bytes)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While models come, go, or change their shares: one at a time.

        Raises
        ------
        BackendError
            Called on a model's own thread, which would be waited for, or in a forked process.
        """
        self._birthplace.check()
        if (waiting := self.serving()) is not None:
            raise BackendError(
                "models can't come, go or change their shares here",
                why=f"this is a done-callback, which runs on the thread of {waiting.name}",
                hint="do it from another thread",
            )
        with self._balance:
            yield

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
