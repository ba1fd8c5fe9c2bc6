"""One model among others: its queue, its errors, its order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from functools import partial

import pytest

from swapnet.errors import BackendError, InputError
from swapnet.executor import SwapRuntime
from swapnet.executor.planning.plan import Step
from swapnet.executor.runtime.decisions import Decision
from tests.helpers.simulated import Gate, Simulated, budget_for
from tests.helpers.threads import LIMIT_S, ended, started

Until = Callable[[Callable[[], bool]], None]
Hooks = dict[str, Callable[[Step], None]]
Open = Callable[..., SwapRuntime]


def logged(
    log: list[str], name: str, before: Callable[[Step], None] | None = None
) -> Callable[[Step], None]:
    def note(step: Step) -> None:
        log.append(f"{name}{step.first}")
        if before is not None:
            before(step)

    return note


def test_the_earliest_deadline_computes_first(
    engines: dict[str, Simulated], steps: Hooks, opened: Open, until: Until
) -> None:
    """A first step is stopped, then requests with late and early deadlines come."""
    log: list[str] = []
    gate = Gate()
    decided: list[Decision] = []
    runtime = opened(
        budget_for(*engines.values(), share=4.0), split="equal", on_decision=decided.append
    )
    deadlines = {"a": None, "b": 60_000.0, "c": 2_000.0}
    models = {
        n: ended(partial(runtime.load, engines[n].folder, deadline_ms=ms))
        for n, ms in deadlines.items()
    }
    steps.update({n: logged(log, n, gate if n == "a" else None) for n in models})
    models["a"].update(deadline_ms=90_000.0)
    checks = [engines["a"].ask(models["a"])]
    assert gate.reached.wait(LIMIT_S)
    for name in "bc":
        checks.append(engines[name].ask(models[name]))
        until(lambda name=name: ("began", (name,)) in [each[:2] for each in decided])  # type: ignore[misc]
    gate.open.set()
    for check in checks:
        check()
    assert log.index("c0") < log.index("b0")


def test_two_lanes_compute_at_the_same_time(
    engines: dict[str, Simulated], steps: Hooks, opened: Open
) -> None:
    """Each waits in a step for the other one's."""
    both = threading.Barrier(2, timeout=LIMIT_S)

    def meet(step: Step) -> None:
        if step.first == 0:
            both.wait()

    names = ("a", "b")
    used = [engines[name] for name in names]
    runtime = opened(budget_for(*used, share=1.5, lanes=2), lanes=2)
    for name in names:
        steps[name] = meet
    models = [ended(partial(runtime.load, one.folder)) for one in used]
    for check in [one.ask(model) for one, model in zip(used, models, strict=True)]:
        check()


def test_an_error_of_one_model_does_not_reach_the_others(
    engines: dict[str, Simulated], steps: Hooks, opened: Open
) -> None:
    used = [engines["a"], engines["b"]]
    runtime = opened(budget_for(*used, share=0.6))
    broken, healthy = (ended(partial(runtime.load, one.folder)) for one in used)

    def fail(step: Step) -> None:
        if step.first == 2:
            raise BackendError("broken")

    steps["a"] = fail
    futures = [broken.submit(used[0].feeds()) for _ in range(4)]
    checks = [used[1].ask(healthy, index) for index in range(4)]
    for future in futures:
        with pytest.raises(BackendError, match="broken"):
            future.result(LIMIT_S)
    for check in checks:
        check()
    del steps["a"]
    used[0].ask(broken)()
    assert (broken.stats.requests, broken.stats.failures) == (5, 4)
    assert (healthy.stats.requests, healthy.stats.failures) == (4, 0)


def test_wrong_inputs_come_with_the_future(engines: dict[str, Simulated], opened: Open) -> None:
    runtime = opened(budget_for(engines["a"], share=1.0))
    model = ended(partial(runtime.load, engines["a"].folder))
    with pytest.raises(InputError, match="unknown input"):
        model.submit({"z": 0}).result(LIMIT_S)
    engines["a"].check(ended(partial(model, engines["a"].feeds(2.0))), 2.0)


@pytest.mark.parametrize("copied", [True, False])
def test_a_queued_request_keeps_its_inputs_unless_told_not_to_copy(
    engines: dict[str, Simulated], steps: Hooks, opened: Open, copied: bool
) -> None:
    gate = Gate()
    steps["a"] = gate
    runtime = opened(budget_for(engines["a"], share=1.0))
    model = ended(partial(runtime.load, engines["a"].folder))
    check = engines["a"].ask(model)
    assert gate.reached.wait(LIMIT_S)
    frame = engines["a"].feeds(3.0)
    queued = model.submit(frame) if copied else model.submit(frame, copy=False)
    frame["x"][...] = 5.0
    gate.open.set()
    check()
    engines["a"].check(queued.result(LIMIT_S), 3.0 if copied else 5.0)


def test_a_cancelled_request_is_not_served(
    engines: dict[str, Simulated], steps: Hooks, opened: Open
) -> None:
    gate, log = Gate(), list[str]()
    steps["a"] = logged(log, "a", gate)
    runtime = opened(budget_for(engines["a"], share=1.0))
    model = ended(partial(runtime.load, engines["a"].folder))
    check = engines["a"].ask(model)
    assert gate.reached.wait(LIMIT_S)
    cancelled = model.submit(engines["a"].feeds())
    last = engines["a"].ask(model, 3.0)
    assert model.stats.waiting == 2
    assert cancelled.cancel()
    assert model.stats.waiting == 1
    gate.open.set()
    check()
    last()
    with pytest.raises(CancelledError):
        cancelled.result()
    assert log.count("a0") == 2
    assert model.stats.requests == 2


@pytest.mark.parametrize("waits", [False, True])
def test_an_inference_that_is_cancelled_ends_with_its_step(
    engines: dict[str, Simulated], steps: Hooks, opened: Open, until: Until, waits: bool
) -> None:
    """While its first step is executed, or while it waits for its turn; the next one is whole."""
    gate, log, decided = Gate(), list[str](), list[Decision]()
    runtime = opened(budget_for(*engines.values(), share=1.0), on_decision=decided.append)
    a, b = (ended(partial(runtime.load, engines[name].folder)) for name in "ab")
    steps["a"] = logged(log, "a", None if waits else gate)
    steps["b"] = logged(log, "b", gate)
    check = engines["b"].ask(b) if waits else None
    if waits:
        assert gate.reached.wait(LIMIT_S)
    future = a.submit(engines["a"].feeds())
    until(lambda: ("began", ("a",)) in [each[:2] for each in decided])
    assert gate.reached.wait(LIMIT_S)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    last = engines["a"].ask(a, 3.0)
    gate.open.set()
    assert wait([future], LIMIT_S).done
    last()
    if check is not None:
        check()
    assert log.count("a0") == 2 - waits
    assert log.count("a1") == 1
    assert (a.stats.requests, a.stats.failures, a.stats.inferences) == (1, 0, 1)


def test_unloading_finishes_what_was_submitted(
    engines: dict[str, Simulated], steps: Hooks, opened: Open, until: Until
) -> None:
    gate, decided = Gate(), list[Decision]()
    steps["a"] = gate
    runtime = opened(budget_for(engines["a"], share=1.0), on_decision=decided.append)
    model = ended(partial(runtime.load, engines["a"].folder))
    checks = [engines["a"].ask(model, value) for value in range(3)]
    assert gate.reached.wait(LIMIT_S)
    unloading = started(model.unload)
    until(lambda: "closing" in [each.event for each in decided])
    with pytest.raises(BackendError, match="not loaded any more"):
        model.submit(engines["a"].feeds())
    assert [each.do for each in decided[-1].instructions] == ["refuse"]
    assert not unloading.done()
    gate.open.set()
    unloading.result(LIMIT_S)
    for check in checks:
        check()
    ended(model.unload)
    with pytest.raises(BackendError, match="not loaded any more"):
        model(engines["a"].feeds())
    assert runtime.models == ()
    assert runtime.shares_bytes == {}


def test_an_unloaded_model_has_no_rate_though_another_has_its_name(
    engines: dict[str, Simulated], opened: Open
) -> None:
    runtime = opened(budget_for(engines["a"], share=1.0))
    load = partial(runtime.load, engines["a"].folder)
    gone = ended(load)
    ended(gone.unload)
    assert ended(partial(load, rate_per_s=3.0)).rate_per_s() == pytest.approx(3.0, rel=0.1)
    assert gone.rate_per_s() == 0.0


def test_closing_finishes_what_was_submitted(engines: dict[str, Simulated], opened: Open) -> None:
    used = list(engines.values())
    with opened(budget_for(*used, share=0.5)) as runtime:
        models = [ended(partial(runtime.load, one.folder)) for one in used]
        checks = [one.ask(m, v) for v in range(5) for one, m in zip(used, models, strict=True)]
    for check in checks:
        check()
    with pytest.raises(BackendError, match="the runtime is closed"):
        runtime.load(used[0].folder)
    with pytest.raises(BackendError, match="the runtime is closed"):
        runtime.set_budget("1GiB")
    with pytest.raises(BackendError, match="not loaded any more"):
        models[0].submit(used[0].feeds())
