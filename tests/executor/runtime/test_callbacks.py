"""Done-callbacks run on a model's thread: what they may do there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from swapnet.errors import BackendError
from swapnet.executor import RuntimeModel, SwapRuntime
from tests.helpers.simulated import (
    Engines,
    Gate,
    Simulated,
    budget_for,
    load,
)
from tests.helpers.threads import LIMIT_S

Hooks = dict[str, Callable[[Any], None]]
Open = Callable[..., SwapRuntime]


def in_callback(
    model: RuntimeModel, engine: Simulated, gate: Gate, work: Callable[[], object]
) -> Future[None]:
    """Call something from a done-callback of a request; the gate is where the request waits."""
    called: Future[None] = Future()

    def call(_: object) -> None:
        try:
            work()
        except Exception as error:
            called.set_exception(error)
        else:
            called.set_result(None)

    future = model.submit(engine.feeds())
    assert gate.reached.wait(LIMIT_S)
    future.add_done_callback(call)
    gate.open.set()
    return called


@pytest.mark.parametrize(
    "what",
    ["ask", "ask another", "set_budget", "load", "unload", "unload another", "update", "close"],
)
def test_a_done_callback_may_not_wait_for_its_own_thread(
    engines: Engines, steps: Hooks, opened: Open, what: str
) -> None:
    """It is told what to do instead, and all goes on."""
    steps["a"] = gate = Gate()
    runtime = opened(budget_for(*engines.values(), share=1.0))
    one, other = (load(runtime, engines[name]) for name in "ab")
    work: dict[str, Callable[[], object]] = {
        "ask": partial(one, engines["a"].feeds()),
        "ask another": partial(other, engines["b"].feeds()),
        "set_budget": partial(runtime.set_budget, "1GiB"),
        "load": partial(runtime.load, engines["c"].folder),
        "unload": one.unload,
        "unload another": other.unload,
        "update": partial(one.update, priority=3.0),
        "close": runtime.close,
    }
    before = runtime.budget_bytes, runtime.shares_bytes
    with pytest.raises(BackendError, match="here") as found:
        in_callback(one, engines["a"], gate, work[what]).result(LIMIT_S)
    assert "done-callback" in found.value.why
    assert "another thread" in found.value.hint
    assert (runtime.budget_bytes, runtime.shares_bytes) == before
    for name, model in zip("ab", (one, other), strict=True):
        engines[name].ask(model, 2.0)()


def test_a_done_callback_may_submit(engines: Engines, steps: Hooks, opened: Open) -> None:
    steps["a"] = gate = Gate()
    runtime = opened(budget_for(*engines.values(), share=1.0))
    models = [load(runtime, engines[name]) for name in "ab"]
    checks: list[Callable[[], None]] = []

    def chain() -> None:
        checks.extend(engines[n].ask(m, 7.0) for n, m in zip("ab", models, strict=True))

    in_callback(models[0], engines["a"], gate, chain).result(LIMIT_S)
    assert len(checks) == 2
    for check in checks:
        check()
