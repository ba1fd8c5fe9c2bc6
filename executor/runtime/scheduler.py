"""The scheduler of several DNNs: which request is served, which step computed, which bytes read.

A state machine: events in, instructions out. It has no thread, lock or clock, so it is driven by
the threads of a runtime (`swapnet.executor.runtime.dispatcher`) and by a virtual clock
(`swapnet.executor.runtime.simulate`). The same events give the same instructions.

*Requests*: a model serves the first that came, and with it those behind it that can be joined.
Changes of a model come before requests, between two of them.

*Compute*: a step is ready when its bytes have arrived. A free lane goes to the ready step of the
most urgent request (`Policy`). After its step an inference gives up its lane, unless its values lie
in memory that others use. A step that found too little memory beside others is computed again
alone: running steps end first, and no other begins.

*Storage*: a free reader goes to the most urgent request whose ring has room; then to the model
whose next request is expected first.

*Memory*: whoever gives memory goes first. Shares of weights shrink, or the limit of scratch memory
does; then the limit grows, then shares do. Each stage ends before the next begins, so all models
together stay within the budget. A plan changes between two inferences of its model.

*Rates*: where one that is seen differs by a factor of two from the one that the budget was divided
for, it is to be divided again.

*Refusals*: a model that closes takes no request, and gives up one that waits for memory. Whether
engines, plans and arrays fit is arithmetic on manifests, before there is a request: others do it,
and its refusals are events (`Scheduler.refused`), so that a log of decisions has them.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal, NamedTuple

from swapnet.executor.runtime.policy import Job, Policy, Ranked, Ranks
from swapnet.executor.runtime.rates import RateMeter
from swapnet.executor.swapping.ring import Ring

__all__ = ["Instruction", "Scheduler"]

_DRIFT = 2.0
"""A rate that differs from the one that the budget was divided for by this factor is another."""

_REST_S = 2.0
"""Time between two looks at rates."""


class Instruction(NamedTuple):
    """Something to begin.

    Attributes
    ----------
    do
        ``step``: compute the model's next step, until `Scheduler.ended`, ``crowded`` or ``left``.
        ``read``: begin a read of its plan, until ``landed`` or ``lost``. ``serve``: serve requests
        together, ``change``: make a change that waits, both until ``done``. ``stop``: nothing comes
        any more. ``refuse``: the request is not taken. ``resume``, ``abandon``: go on with what was
        ``suspended``, or give it up. ``divide``: divide the budget again. ``evict``, ``grant``: put
        a plan for a smaller share of memory in force, or for another one, until ``shared``.
        ``resize``: change the limit of scratch memory, before the grants that follow, until
        ``resized``.
    model
        Its name; empty for ``divide`` and ``resize``.
    numbers
        Those of the requests, or of the read; the bytes of a share or a limit.
    """

    do: (
        Literal["step", "read", "serve", "change", "stop", "refuse", "resume", "abandon"]
        | Literal["divide", "evict", "grant", "resize"]
    )
    model: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.do, self.model, *map(str, self.numbers))))


class _Model:
    """A model; its request is the one that is served, or those that are served together."""

    def __init__(self, name: str, order: int, meter: RateMeter, rows: int, keeps: bool) -> None:
        self.name = name
        self.order = order
        self.rows = rows
        self.keeps_lane = keeps
        self.running: Sequence[Ranked] = ()
        self.waiting: deque[Ranked] = deque()
        self.changes = 0
        """Changes that wait."""
        self.is_changing = self.is_suspended = self.is_closing = False
        self.verdict: Literal["resume", "abandon"] | None = None
        """What becomes of a request that is suspended, once its changes are made."""
        self.share_bytes = 0
        self.ring = Ring((0,), ())
        self.plan = -1
        self.may_read = False
        self.infers = False
        """Its inference has steps left."""
        self.asks = False
        """Its step is ready, or computed."""
        self.lanes = 0
        """Lanes that it has: all of them where it computes alone."""
        self.read_for: Ranked | None = None
        """The request that waits for a reader, come or expected."""
        self.step = Instruction("step", name)
        self.next_job = Job(name, order, inf, inf, 1.0, 0.0)
        self.expect(meter)

    def expect(self, meter: RateMeter) -> None:
        """Take the next request from a rate; requests that have come are before it."""
        self.meter = meter
        self.expected = Ranked((inf, meter.next_s, self.order), 0.0, self.next_job)

    def pending(self, ahead: int) -> Ranked:
        """The request of an inference, counted from the one that is executed or comes next."""
        if self.running:
            if not ahead:
                return self.running[0]
            ahead -= 1
        return self.waiting[ahead] if ahead < len(self.waiting) else self.expected


class Scheduler:
    """Decides what is served, computed and read; see the module. Not thread-safe.

    Its events are methods. Each gives the instructions that follow from it, in order, and raises
    ValueError where it can't happen.

    Parameters
    ----------
    policy
        The order of requests.
    lanes, readers
        Steps that may be computed, and reads that may be in flight, at the same moment.

    Raises
    ------
    InputError
        There is no such policy.
    """

    def __init__(
        self, policy: Policy | str = Policy.DEADLINE, *, lanes: int = 1, readers: int = 1
    ) -> None:
        self.lanes = lanes
        self.limit_bytes = 0
        """Limit of scratch memory in force."""
        self._ranks = Ranks(policy)
        self._models: dict[str, _Model] = {}
        self._ready: list[Ranked] = []
        """Requests whose next step could be computed, the most urgent first."""
        self._crowded: list[Ranked] = []
        """Requests whose step has to be computed alone."""
        self._reads: list[Ranked] = []
        """Requests for which something could be read, come or expected."""
        self._free_lanes = lanes
        self._free_readers = readers
        self._loaded = 0
        self._rates_per_s: dict[str, float] = {}
        """Those that the budget was divided for."""
        self._looked_s = 0.0
        self._told: list[Instruction] = []

    def ring(self, model: str) -> Ring:
        """Counts of the plan in force; not to be changed."""
        return self._models[model].ring

    def rate_per_s(self, model: str, at_s: float) -> float:
        """Requests per second, as expected and as seen; of a model that is gone, 0."""
        found = self._models.get(model)
        return 0.0 if found is None else found.meter.rate_per_s(at_s)

    def share_bytes(self, model: str) -> int:
        """Share that the plan in force is for; of a model that is gone, 0."""
        found = self._models.get(model)
        return 0 if found is None else found.share_bytes

    # Events of models

    def loaded(
        self, model: str, at_s: float, rate_per_s: float, rows: int = 1, keeps_lane: bool = False
    ) -> Sequence[Instruction]:
        """A model has come: so many rows may be joined, and it keeps its lane between steps."""
        if model in self._models:
            raise ValueError(f"there is a model {model} already")
        self._loaded += 1
        meter = RateMeter(rate_per_s, at_s)
        self._models[model] = _Model(model, self._loaded, meter, rows, keeps_lane)
        return self._dispatch()

    def closing(self, model: str) -> Sequence[Instruction]:
        """A model takes no more requests, and stops when those that have come are served."""
        found = self._models[model]
        found.is_closing = True
        if found.is_suspended:
            found.verdict = found.verdict or "abandon"
        self._offer(found)
        return self._dispatch()

    def unloaded(self, model: str) -> Sequence[Instruction]:
        """A model is gone, or did not come."""
        self._rates_per_s.pop(model, None)
        self._ranks.forget(model)
        if (gone := self._models.pop(model, None)) is not None:
            self._leave(gone)
            gone.may_read = False
            self._ask_read(gone)
        return self._dispatch()

    def planned(
        self, model: str, plan: int, needs: tuple[int, ...], afters: tuple[int, ...]
    ) -> Sequence[Instruction]:
        """A plan is in force, and nothing of it has been read; counts as in `Ring`."""
        found = self._models[model]
        if found.infers:
            raise ValueError(f"{model} uses the memory of plan {found.plan}")
        found.ring = Ring(needs, afters)
        found.plan = plan
        found.may_read = True
        self._ask_read(found)
        return self._dispatch()

    def halted(self, model: str, plan: int) -> Sequence[Instruction]:
        """Nothing more is to be read by a plan."""
        found = self._models.get(model)
        if found is not None and found.plan == plan:
            found.may_read = False
            self._ask_read(found)
        return self._dispatch()

    def expected(self, model: str, at_s: float, rate_per_s: float) -> Sequence[Instruction]:
        """Another rate is expected, whatever was seen before."""
        found = self._models[model]
        found.expect(RateMeter(rate_per_s, at_s))
        self._ask_read(found)
        return self._dispatch()

    def divided(self, at_s: float, rates_per_s: Mapping[str, float]) -> Sequence[Instruction]:
        """The budget was divided for these rates."""
        self._rates_per_s.update(rates_per_s)
        self._looked_s = at_s
        return self._dispatch()

    def sharing(self, limit_bytes: int, shares_bytes: Mapping[str, int]) -> Sequence[Instruction]:
        """Scratch memory and shares are to be these; told again after each stage, until all are."""
        models = [each for name, each in self._models.items() if name in shares_bytes]
        shrinks = limit_bytes < self.limit_bytes
        gives = shrinks or any(shares_bytes[m.name] < m.share_bytes for m in models)
        crosses = shrinks or (limit_bytes > self.limit_bytes and not gives)
        if crosses:
            self._told.append(Instruction("resize", "", (limit_bytes,)))
        for model in models:
            now, then = model.share_bytes, shares_bytes[model.name]
            nbytes = min(now, then) if gives else then
            if crosses or nbytes != now:
                self._told.append(
                    Instruction("evict" if nbytes < now else "grant", model.name, (nbytes,))
                )
        return self._dispatch()

    def shared(self, model: str, nbytes: int) -> Sequence[Instruction]:
        """The plan in force of a model is for this share."""
        self._models[model].share_bytes = nbytes
        return self._dispatch()

    def resized(self, limit_bytes: int) -> Sequence[Instruction]:
        """This limit of scratch memory is in force."""
        self.limit_bytes = limit_bytes
        return self._dispatch()

    # Events of requests and changes

    def refused(self, model: str, why: str) -> Sequence[Instruction]:
        """A load, a budget or arrays of a request do not fit; for the log, nothing follows."""
        return self._dispatch()

    def asked(self, job: Job) -> Sequence[Instruction]:
        """A request has come."""
        model = self._models[job.model]
        if model.is_closing:
            return [Instruction("refuse", job.model, (job.sequence,))]
        model.waiting.append(self._ranks.rank(job))
        model.meter.note(job.arrival_s)
        model.expect(model.meter)
        self._offer(model)
        self._ask_read(model)
        if self._rates_per_s and job.arrival_s - self._looked_s >= _REST_S:
            self._look(job.arrival_s)
        return self._dispatch()

    def cancelled(self, model: str, sequence: int) -> Sequence[Instruction]:
        """A request is not to be served, unless it has begun."""
        if (found := self._models.get(model)) is not None:
            found.waiting = deque(r for r in found.waiting if r.job.sequence != sequence)
            self._ask_read(found)
        return self._dispatch()

    def changing(self, model: str) -> Sequence[Instruction]:
        """A change of the model waits for the end of what it serves."""
        self._models[model].changes += 1
        self._offer(self._models[model])
        return self._dispatch()

    def suspended(self, model: str) -> Sequence[Instruction]:
        """What is served waits for memory; the model may change meanwhile."""
        found = self._models[model]
        found.is_suspended = True
        found.verdict = "abandon" if found.is_closing else None
        self._offer(found)
        return self._dispatch()

    def resumed(self, model: str, sequence: int, has_memory: bool) -> Sequence[Instruction]:
        """A request that was suspended has its memory, or gets none."""
        found = self._models.get(model)
        if found is not None and found.is_suspended and sequence in _numbers(found.running):
            found.verdict = found.verdict or ("resume" if has_memory else "abandon")
            self._offer(found)
        return self._dispatch()

    def done(self, model: str) -> Sequence[Instruction]:
        """What the model was told to serve, or to change, is done."""
        found = self._models[model]
        if found.is_changing:
            found.is_changing = False
        else:
            self._leave(found)
            found.running = ()
        self._offer(found)
        self._ask_read(found)
        return self._dispatch()

    # Events of steps

    def began(self, model: str) -> Sequence[Instruction]:
        """An inference begins: its first step is to be computed."""
        found = self._models[model]
        if not found.running or found.infers:
            raise ValueError(f"{model} has no inference to begin")
        found.infers = True
        self._ask_step(found)
        return self._dispatch()

    def ended(self, model: str, plan: int) -> Sequence[Instruction]:
        """The step that was computed has ended."""
        found = self._models[model]
        if not (found.asks and found.lanes and found.plan == plan):
            raise ValueError(f"{model} computes no step of plan {plan}")
        found.asks = False
        found.infers = not found.ring.end()
        kept = 1 if found.keeps_lane or not found.infers else 0
        self._free_lanes += found.lanes - kept
        found.lanes = kept
        self._ask_step(found)
        self._ask_read(found)
        return self._dispatch()

    def crowded(self, model: str) -> Sequence[Instruction]:
        """The step found too little memory beside others, and is to be computed again alone."""
        found = self._models[model]
        if not (found.asks and found.lanes):
            raise ValueError(f"{model} computes no step")
        self._give_back(found)
        insort(self._crowded, found.running[0])
        return self._dispatch()

    def left(self, model: str) -> Sequence[Instruction]:
        """An inference has ended, well or not: nothing is to be computed for it."""
        self._leave(self._models[model])
        return self._dispatch()

    # Events of reads

    def landed(self, model: str, plan: int, number: int) -> Sequence[Instruction]:
        """The bytes of a read are there."""
        self._free_readers += 1
        found = self._models.get(model)
        if found is not None and found.plan == plan:
            found.ring.land(number)
            self._ask_step(found)
        return self._dispatch()

    def lost(self, model: str, plan: int) -> Sequence[Instruction]:
        """A read has failed."""
        self._free_readers += 1
        return self.halted(model, plan)

    # What follows

    def _offer(self, model: _Model) -> None:
        """Give a model its next work, if it is free."""
        if model.is_changing or (model.running and not model.is_suspended):
            return
        if model.changes:
            model.changes -= 1
            model.is_changing = True
            self._told.append(Instruction("change", model.name))
        elif model.running:
            if model.verdict is not None:
                model.is_suspended = False
                self._told.append(Instruction(model.verdict, model.name, _numbers(model.running)))
        elif model.waiting:
            model.running = _joined(model.waiting, model.rows)
            self._told.append(Instruction("serve", model.name, _numbers(model.running)))
        elif model.is_closing:
            self._told.append(Instruction("stop", model.name))

    def _leave(self, model: _Model) -> None:
        """End an inference where it is."""
        if model.lanes:
            self._give_back(model)
        elif model.asks:
            request = model.running[0]
            (self._ready if request in self._ready else self._crowded).remove(request)
        model.infers = model.asks = False

    def _give_back(self, model: _Model) -> None:
        self._free_lanes += model.lanes
        model.lanes = 0

    def _ask_step(self, model: _Model) -> None:
        """Let an inference wait for a lane, if the bytes of its next step are there."""
        if model.asks or not model.infers or model.ring.lead < 0:
            return
        model.asks = True
        if model.lanes:
            self._told.append(model.step)
        else:
            insort(self._ready, model.running[0])

    def _compute(self, request: Ranked, lanes: int) -> None:
        _, start, job = request
        self._ranks.serve(start)
        model = self._models[job.model]
        model.lanes = lanes
        self._free_lanes -= lanes
        self._told.append(model.step)

    def _ask_read(self, model: _Model) -> None:
        """Let a model wait for a reader, if its ring has room: for a request, or before one."""
        ring = model.ring
        request = model.pending(ring.ahead) if model.may_read and ring.room > 0 else None
        if request is not model.read_for:
            if model.read_for is not None:
                self._reads.remove(model.read_for)
            if request is not None:
                insort(self._reads, request)
            model.read_for = request

    def _dispatch(self) -> Sequence[Instruction]:
        """Give free lanes and free readers to the first in each queue."""
        while self._free_lanes and self._ready and not self._crowded:
            self._compute(self._ready.pop(0), 1)
        if self._crowded and self._free_lanes == self.lanes:
            self._compute(self._crowded.pop(0), self.lanes)
        while self._free_readers and self._reads:
            _, start, job = self._reads[0]
            self._ranks.serve(start)
            model = self._models[job.model]
            self._free_readers -= 1
            self._told.append(Instruction("read", model.name, (model.ring.claim(),)))
            self._ask_read(model)
        told, self._told = self._told, []
        return told

    def _look(self, at_s: float) -> None:
        """Have the budget divided again where a rate is not about the one it was divided for."""
        self._looked_s = at_s
        for name, rate in self._rates_per_s.items():
            seen = self.rate_per_s(name, at_s)
            if name in self._models and not rate / _DRIFT <= seen <= max(rate, 1e-9) * _DRIFT:
                self._told.append(Instruction("divide", ""))
                return


def _numbers(requests: Sequence[Ranked]) -> tuple[int, ...]:
    return tuple([job.sequence for _, _, job in requests])


def _joined(waiting: deque[Ranked], rows: int) -> list[Ranked]:
    """Take the request that came first, and those after it that can be served with it."""
    taken = [waiting.popleft()]
    first = taken[0].job
    left = rows - first.rows
    while rows > 1 and waiting and waiting[0].job.kind == first.kind is not None:
        left -= waiting[0].job.rows
        if left < 0:
            break
        taken.append(waiting.popleft())
    return taken
