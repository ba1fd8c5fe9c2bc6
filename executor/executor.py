"""`SwapExecutor`: one model inside one budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, InputError, StorageError, SwapnetError
from swapnet.executor.backends import open_backend
from swapnet.executor.backends.base import Array, Backend, Memory, ValueStore
from swapnet.executor.backends.scratch import Scratch, release_frames
from swapnet.executor.conversations import Conversations, State
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.events import Events, OnEvent
from swapnet.executor.execution import Execution
from swapnet.executor.gpu.accelerator import Accelerator
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.inputs import check_inputs, check_outputs
from swapnet.executor.planning.admission import admitted_bytes, values_too_large
from swapnet.executor.planning.plan import Plan, PlanOptions, Read
from swapnet.executor.planning.planner import make_plan, most_scratch_bytes
from swapnet.executor.planning.usage import READ_BYTES, scratch_within
from swapnet.executor.shapes import ensure_context, ensure_shapes
from swapnet.executor.sharing import Sharing
from swapnet.executor.state import says_context
from swapnet.executor.stats import Stats
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS, Patience, StalledError
from swapnet.executor.swapping.relocation import moves
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.executor.swapping.verify import check_weights
from swapnet.manifest import WEIGHTS, Manifest
from swapnet.process.forks import Birthplace
from swapnet.strips import Striping
from swapnet.units import format_size

__all__ = ["SwapExecutor"]

E = TypeVar("E", bound="SwapExecutor")

_LOGGER = logging.getLogger("swapnet")

_SLOWED_BYTES = 16 * READ_BYTES
"""Requests in flight: with a pace, one comes after the others."""

_KEPT_PLANS = 4
"""Plans of the latest budgets that are kept: a budget that is restored needs no search."""


class SwapExecutor:
    """Executes an engine inside a memory budget.

    Parameters
    ----------
    engine
        Engine directory, or an engine that is open.
    budget
        ``"64MiB"``, ``"25%"`` of the demand, ``"weights:25%"``, bytes, or ``"auto"``: the smallest
        that is predicted to lose at most 5 % of the latency to storage and strips, by measured
        delays.
    device
        Compute threads and their pool; by default those of the engine.
    load_mode
        Way to read weights; the property `load_mode` has the way that is used.
    options
        Restrictions of the plan.
    shapes, dims
        Input shapes to plan for, by input, and sizes by symbol; by default those of the build.
        Activations are measured first at sizes that are new, in a process of its own; the logger
        ``swapnet`` says so.
    context
        Most tokens in the cache of a decoder. The executor then keeps what the model gives as
        present and takes as past; neither is an input or output of a call (`state`). By default it
        keeps nothing, and both are.
    state
        Names of that cache, as ``"present.*=past.*"``; by default those that exporters use.
    rows
        With a context, the most tokens of a call whose logits are wanted, the last ones; 0 for all.
    conversations
        With a context, the number of caches: a call can compute a token of each.
    verify
        Compare all checksums first.
    storage_timeout_ms
        Longest time that storage may take for one request. Then the inference fails, or what else
        waits for it.
    trace
        Record every request, for a timeline.
    before_read
        Called before each request overwrites its place; tests poison the place.
    on_event
        Called with an `Event` after each thing that happens, on a thread that uses the executor, or
        on the executor's own for what was submitted. Several threads may call it at once. No lock
        is held: it may use the executor. Its first exception is logged; none reaches an inference.
    gpu
        GPU in place of the device's, such as a simulated one.

    Raises
    ------
    EngineError
        The engine directory is missing, damaged, or compiled for something else.
    BudgetError
        The budget is too small for the model or larger than the machine's memory.
    StorageError
        The weights can't be read.
    BackendError
        The runtime library refuses a segment.

    Notes
    -----
    Safe to call from several threads: inferences run one after the other. A failed inference
    leaves the executor usable. Outputs are new arrays that belong to the caller, or those that it
    gave for them. A process that is forked afterwards opens an executor of its own: this one raises
    BackendError there.

    Examples
    --------
    >>> with SwapExecutor("engines/resnet101", budget="64MiB") as executor:  # doctest: +SKIP
    ...     outputs = executor({"input": image})
    """

    _sharing: Sharing | None = None
    _given_plan: Plan | None = None
    _name = ""

    def __init__(
        self,
        engine: Engine | str | Path,
        budget: Budget | str | int,
        *,
        device: Device | None = None,
        load_mode: LoadMode | str = LoadMode.AUTO,
        options: PlanOptions | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        dims: Mapping[str, int] | None = None,
        context: int | None = None,
        state: str = "",
        rows: int = 0,
        conversations: int = 1,
        verify: bool = False,
        storage_timeout_ms: float = STORAGE_TIMEOUT_MS,
        trace: bool = False,
        before_read: Callable[[Any, Read], None] | None = None,
        on_event: OnEvent | None = None,
        gpu: Accelerator | None = None,
    ) -> None:
        begun = time.perf_counter()
        self._birthplace = Birthplace("executor")
        self._birthplace.keep(self)
        if context is not None and (shapes or dims):
            raise InputError(
                "a context and other input shapes are given",
                why="the shapes follow from the context",
                hint="leave shapes= and dims= out",
            )
        if context is None:
            opening = ensure_shapes(engine, shapes, dims=dims, device=device, say=_LOGGER.warning)
        else:
            opening = ensure_context(
                *(engine, context),
                state=state,
                rows=rows,
                conversations=conversations,
                device=device,
                say=_LOGGER.warning,
            )
        self._trace = trace
        self._before_read = before_read
        self._parked: Memory | None = None
        self._late_arenas: list[Memory] = []
        self._plan: Plan
        self._turn = threading.Lock()
        self._admission = threading.Lock()
        self._queue: ThreadPoolExecutor | None = None
        self._closing = self._closed = False
        self._state: Execution | None = None
        self._stats = Stats()
        """Without what was read for the plan in force."""
        self._counting = threading.Lock()
        self._options = options or PlanOptions()
        self._scratch = self._sharing.scratch if self._sharing else Scratch(0)
        parsed = Budget.parse(budget)
        pace = opening.device.pace
        name = self._name or opening.folder.absolute().name
        self._events = Events(on_event, name)
        self._patience = Patience(
            storage_timeout_ms,
            slowed_ms=_SLOWED_BYTES / pace.bytes_per_s * 1e3 if pace else 0,
        )
        with ExitStack() as opened:
            self._backend: Backend = open_backend(
                opening.folder,
                opening.manifest,
                opening.device,
                self._scratch,
                gpu=gpu,
            )
            opened.callback(self._backend.close)
            self.engine = opening.as_loaded(self._backend.manifest, self._backend.gpu)
            cache = self.engine.cache
            self._asked = cache.asked(self.manifest) if cache else self.manifest
            identity = opening.built.identity
            self._available_bytes = self._backend.available_bytes()
            self._kept: Conversations | None = None
            if cache is not None:
                memory = self._memory_on_gpu(cache.nbytes) if self._backend.gpu else None
                self._kept = Conversations(cache, self._turn, identity, memory)
                opened.callback(self._kept.close)
            self._storage = WeightFile(
                self.engine.folder / WEIGHTS,
                LoadMode.parse(load_mode),
                pace=pace,
            )
            opened.callback(self._storage.close)
            if self._storage.nbytes != self.manifest.weights_nbytes:
                raise StorageError(
                    f"{self._storage.path} is damaged",
                    why=f"it has {self._storage.nbytes} bytes, it should have "
                    f"{self.manifest.weights_nbytes}",
                    hint="build the engine again: swapnet build",
                )
            if verify:
                check_weights(self.manifest, self._storage)
            self._plan_of = lru_cache(_KEPT_PLANS)(
                partial(make_plan, self.manifest, self.engine.delays)
            )
            planning = time.perf_counter()
            with says_context(cache, parsed, self.manifest):
                plan = self._given_plan or self._make_plan(parsed)
            planned = time.perf_counter()
            self._striping = plan.striping
            self._values = self._new_values(plan.striping)
            opened.callback(lambda: self._values.close())
            self._load(plan)
            self._resources = opened.pop_all()
        assert self._state is not None
        self._stats = self._stats.opened(
            self._state,
            open_ms=(time.perf_counter() - begun) * 1e3,
            plan_ms=(planned - planning) * 1e3,
        )
        self._events.note("opened", plan=self._plan)
        self._events.tell()

    @property
    def manifest(self) -> Manifest:
        """The engine's manifest, as its backend found it."""
        return self.engine.manifest

    @property
    def load_mode(self) -> LoadMode:
        """The way that weights are read."""
        return self._storage.mode

    @property
    def gpu(self) -> str:
        """The GPU that executes, and the memory that weights lie in; empty on the CPU."""
        return self._backend.gpu

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._plan

    @property
    def stats(self) -> Stats:
        """Counts since the executor was opened, until now."""
        self._birthplace.check()
        with self._counting:
            state = self._state
            return self._stats if state is None else self._stats.with_reads(state)

    def state(self, conversation: int = 0) -> State:
        """The cache of a conversation, to look at, forget, save and load between inferences.

        Raises
        ------
        BackendError
            The executor was opened without ``context``.
        InputError
            There are fewer ``conversations``.
        """
        if self._kept is None:
            raise BackendError(
                "the executor keeps no cache",
                why="it was opened without a context",
                hint="open it with one: SwapExecutor(…, context=512)",
            )
        return self._kept.state(conversation)

    def __call__(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        *,
        conversations: Mapping[int, bool] | None = None,
    ) -> dict[str, Array]:
        """Run one inference.

        Parameters
        ----------
        inputs
            One array per model input, by name: of NumPy, or of any library that exports DLPack from
            host memory; neither is copied where it is C-contiguous.
        out
            Arrays for some of the model outputs, by name: of the output's element type and shape,
            C-contiguous, writable, and apart from all inputs. The outputs are written there; where
            their size is known beforehand, straight by the kernels. After an error they hold
            anything.
        conversations
            Numbers of the conversations that the rows of the inputs belong to, neighbours in
            ascending order, and whether their tokens stay in the cache; by default those of the
            first ones. A row's mask has ones for its tokens, then zeros. Of several conversations,
            one that is not kept has the given tokens only.

        Returns
        -------
        dict
            One array per model output, by name: that of ``out``, or a new one.

        Raises
        ------
        InputError
            A name, element type, shape or index is wrong, or an output can't be written to ``out``.
        BudgetError
            A shape is larger than planned for.
        StorageError
            A block could not be read, or did not come in time; the message names it.
        BackendError
            The runtime library refused.
        """
        self._birthplace.check()
        return self._infer_checked(*self._check(inputs, out), conversations)

    async def infer(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Run one inference that the event loop need not wait for; otherwise as a call.

        Nothing is copied: all arrays must stay as they are until the inference has ended. Where the
        task is cancelled, a request that waits is not served; one that runs goes on, and still
        writes to ``out``.
        """
        import asyncio  # 2 MiB that only its users pay for

        return await asyncio.wrap_future(self.submit(inputs, out, copy=False))

    def _check(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None, *, copy: bool = False
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        try:
            checked = check_inputs(self._asked, inputs, copy=copy)
            return checked, check_outputs(self._asked, out, checked)
        except SwapnetError as error:
            with self._counting:
                self._stats = replace(self._stats, refused=self._stats.refused + 1)
            self._events.note("refused", error=error)
            self._events.tell()
            raise

    def _infer_checked(
        self,
        checked: dict[str, Array],
        out: Mapping[str, Array],
        conversations: Mapping[int, bool] | None = None,
    ) -> dict[str, Array]:
        try:
            with self._turn:
                if self._closed:
                    raise _closed()
                try:
                    outputs = self._execute(checked, out, conversations)
                except CancelledError:
                    raise
                except Exception as error:
                    if self._sharing is None or not getattr(error, "missing_bytes", 0):
                        self._note_failure(error)
                    raise
                last = self._state.last if self._state else None
                assert last is not None
                with self._counting:
                    self._stats = self._stats.ended(last)
                self._events.note("inference", plan=self._plan, inference=last)
                return outputs
        finally:
            self._events.tell()

    def _note_failure(self, error: Exception) -> None:
        with self._counting:
            self._stats = replace(self._stats, failures=self._stats.failures + 1)
        self._note_late(error)
        self._events.note("failed", plan=self._plan, error=error)

    def _note_late(self, error: BaseException) -> None:
        if isinstance(error, StalledError):
            self._events.note("late", plan=self._plan, error=error)

    def _execute(
        self,
        checked: dict[str, Array],
        out: Mapping[str, Array],
        conversations: Mapping[int, bool] | None = None,
    ) -> dict[str, Array]:
        while True:
            try:
                if self._kept is None:
                    return self._opened().infer(checked, out)
                return self._kept.infer(self._opened().infer, checked, out, conversations)
            except BudgetError as error:
                if self._sharing is not None or not error.missing_bytes:
                    raise
                release_frames(error)
                self._grow_scratch(error)

    def _grow_scratch(self, error: BudgetError) -> None:
        """Give values whose size depends on data a larger arena, inside the budget.

        First they get what the plan leaves of the budget; where that is too little, weights give
        all that they can. The new limit stays, so each of the two happens once.

        Raises
        ------
        BudgetError
            The budget is too small for these values.
        """
        plan, before = self._plan, self._scratch.limit_bytes
        wanted = before + error.missing_bytes
        spare = before + scratch_within(plan.budget_bytes - plan.planned_bytes)
        most = most_scratch_bytes(self.manifest, plan.budget_bytes)
        if wanted > most:
            raise values_too_large(error, wanted, most, plan.budget_bytes) from error
        least = spare if spare >= wanted else most
        self._options = replace(self._options, least_scratch_bytes=least)
        self._replace_plan(self._plan_for(plan.budget_bytes, self._options))

    def submit(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        *,
        copy: bool = True,
    ) -> Future[dict[str, Array]]:
        """Queue one inference; errors come with the future's result.

        Parameters
        ----------
        inputs
            One array per model input, by name; read before this returns.
        out
            Arrays for some of the model outputs, as in a call; not to be used until the future is
            done.
        copy
            Copy the arrays, which the caller may then overwrite. Copies take the memory of the
            inputs for each request that waits, beside the budget. With False the arrays must stay
            as they are until the future is done.

        Raises
        ------
        BackendError
            The executor is closed.
        """
        self._birthplace.check()
        try:
            checked, destinations = self._check(inputs, out, copy=copy)
        except SwapnetError as error:
            refused: Future[dict[str, Array]] = Future()
            refused.set_exception(error)
            return refused
        with self._admission:
            if self._closing:
                raise _closed()
            if self._queue is None:
                self._queue = ThreadPoolExecutor(1, thread_name_prefix="swapnet-submit")
            return self._queue.submit(self._infer_checked, checked, destinations)

    def set_budget(self, budget: Budget | str | int) -> None:
        """Change the budget between inferences, with a new plan; the engine is not built again.

        Requests keep running while the plan is made. Then one request waits until blocks that stay
        resident have been moved, new residents read, and segments bound to their addresses.

        Raises
        ------
        InputError, BudgetError
            The budget is invalid or too small; the current plan stays in force.
        StorageError, BackendError
            The new plan could not be loaded. The plan before is loaded again: now, or at the next
            inference if that fails.
        """
        self._birthplace.check()
        self._adopt(self._make_plan(Budget.parse(budget)))

    def _adopt(self, plan: Plan) -> None:
        try:
            with self._turn:
                if self._closed:
                    raise _closed()
                self._replace_plan(plan)
        finally:
            self._events.tell()

    def _replace_plan(self, plan: Plan) -> None:
        before, arena = self._plan, self._park()
        grows = plan.budget_bytes == before.budget_bytes and (
            plan.usage.scratch_bytes > before.usage.scratch_bytes
        )
        try:
            if arena is None:
                self._plan = plan
            else:
                self._relocate(arena, before, plan)
        except BaseException as error:
            if arena is not None:
                self._discard(arena, is_late=isinstance(error, StalledError))
            if not isinstance(error, StalledError):
                with suppress(SwapnetError):
                    self._load(before)
            self._note_late(error)
            raise
        if plan != before:
            self._events.note("grown" if grows else "plan", plan=plan)

    def close(self) -> None:
        """Finish what was submitted, then release everything. Safe to call twice.

        Where storage does not answer within 5 seconds, what was submitted fails. In a forked child
        it does nothing.
        """
        if self._birthplace.is_behind:
            return
        self._patience.hurry()
        with self._admission:
            queue, self._queue = self._queue, None
            self._closing = True
        if queue is not None:
            queue.shutdown()
        with self._turn:
            was_open, self._closed = not self._closed, True
            arena = self._park()
            if arena is not None:
                arena.discard()
            if not self._late_arenas:
                self._resources.close()
            if was_open:
                self._events.note("closed", plan=self._plan)
        self._events.tell()

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> Execution:
        if self._closed:
            raise _closed()
        if self._state is None:
            # A change of budget failed, and the plan before could not be loaded again.
            parked, self._parked = self._parked, None
            self._load(self._plan, parked, () if parked is None else self._residents(self._plan))
        assert self._state is not None
        return self._state

    def _make_plan(self, budget: Budget, options: PlanOptions | None = None) -> Plan:
        options = options or self._options
        budget_bytes = admitted_bytes(
            budget,
            self.manifest,
            self._available_bytes,
            profile=self.engine.delays,
            options=options,
        )
        return self._plan_for(budget_bytes, options)

    def _plan_for(self, budget_bytes: int, options: PlanOptions) -> Plan:
        if options.least_scratch_bytes:
            most = most_scratch_bytes(self.manifest, budget_bytes)
            least = min(options.least_scratch_bytes, most)
            # Other scratch memory takes sessions of its own, so joins are free as at the opening.
            joined = options.joined if self._scratch.fits(least) else None
            options = replace(options, least_scratch_bytes=least, joined=joined)
        return self._plan_of(budget_bytes, options)

    def _new_values(self, striping: Striping | None) -> ValueStore:
        inside = None if self._sharing is None else self._sharing.inside
        return self._backend.values(inside, striping)

    def _memory_on_gpu(self, nbytes: int) -> GpuArena:
        """Memory of zeros for a cache."""
        memory = self._backend.arena(nbytes)
        assert isinstance(memory, GpuArena)
        memory.fill(0, nbytes, 0)
        self._backend.synchronize()
        return memory

    def _load(
        self, plan: Plan, arena: Memory | None = None, resident: Collection[int] = ()
    ) -> None:
        arena = arena or self._backend.arena(plan.arena_bytes)
        if self._sharing is None and not self._scratch.fits(plan.usage.scratch_bytes):
            self._backend.forget_segments()  # their arena is given back before the next is filled
            self._scratch.resize(plan.usage.scratch_bytes)
        if plan.striping != self._striping:
            self._values.close()
            self._values = self._new_values(plan.striping)
            self._striping = plan.striping
        try:
            self._state = Execution(
                self.manifest,
                plan,
                self._storage,
                self._backend,
                patience=self._patience,
                values=self._values,
                arena=arena,
                resident=resident,
                sharing=self._sharing,
                trace=self._trace,
                before_read=self._before_read,
            )
        except BaseException as error:
            self._discard(arena, is_late=isinstance(error, StalledError))
            raise
        self._plan = plan
        if self.manifest.has_windows:
            is_joined = any(first < last for first, last in self._windowed(plan))
            joined = plan.joined if is_joined else frozenset[int]()
            self._options = replace(self._options, joined=joined)
        _LOGGER.info(
            "%s: plan for %s: %d blocks in %d steps, %s resident, %s streamed (%s), "
            "%.1f ms predicted",
            self.engine.folder,
            format_size(plan.budget_bytes),
            len(self.manifest.blocks),
            len(plan.steps),
            format_size(plan.resident_bytes),
            format_size(plan.streamed_bytes),
            self.load_mode,
            plan.predicted_ms,
        )

    def _relocate(self, arena: Memory, before: Plan, plan: Plan) -> None:
        """Load a plan into the memory of the one before: blocks that stay resident only move."""
        kept = moves(before.residents, plan.residents)
        try:
            if self._packs(before, plan):
                raise BufferError
            arena.resize(max(before.arena_bytes, plan.arena_bytes))
            for move in kept:
                arena.move(move.source, move.target, move.nbytes)
            arena.resize(plan.arena_bytes)
        except BufferError:
            arena.discard()
            self._load(plan)
            return
        self._load(plan, arena, self._stay(move.position for move in kept))

    def _packs(self, before: Plan, plan: Plan) -> bool:
        """Whether sessions are made that pack weights, in memory that the arena must not have."""
        needed = self._windowed(plan)
        if self._sharing is None and not self._scratch.fits(plan.usage.scratch_bytes):
            return bool(needed)
        return not needed <= self._windowed(before)

    def _windowed(self, plan: Plan) -> set[tuple[int, int]]:
        """First and last block of the steps with windows."""
        windowed = [block.index for block in self.manifest.blocks if block.windows]
        spans = {(step.first, step.last) for step in plan.steps}
        return {(a, z) for a, z in spans if any(a <= block <= z for block in windowed)}

    def _stay(self, positions: Iterable[int]) -> set[int]:
        """Positions among these that need not be read again: an embedded engine needs new bytes."""
        made = {b.index for b in self.manifest.blocks if b.weight_style == "embedded"}
        return set(positions) - made

    def _residents(self, plan: Plan) -> set[int]:
        return self._stay(i for i, place in enumerate(plan.residents) if place.resident)

    def _park(self) -> Memory | None:
        """Stop the plan in force; the memory that its weights lie in, if there is any."""
        arena, self._parked = self._parked, None
        if self._state is not None:
            arena = self._state.arena
            if not self._state.close():
                self._discard(arena, is_late=True)
                arena = None
            with self._counting:
                self._stats = self._stats.with_reads(self._state)
                self._state = None
        return arena

    def _discard(self, arena: Memory, *, is_late: bool) -> None:
        """Give an arena back; not to a GPU while a late request may still write to it."""
        if is_late and self._backend.is_asynchronous:
            self._late_arenas.append(arena)
        else:
            arena.discard()


def _closed() -> BackendError:
    return BackendError(
        "the executor is closed",
        why="it was used after close()",
        hint="open a new SwapExecutor",
    )
