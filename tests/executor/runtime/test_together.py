"""Real engines in a runtime: joined requests, and values of unknown size beside others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.errors import InputError
from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.events import Event
from swapnet.executor.runtime.memory import is_interruptible, together
from tests.helpers.cycles import same
from tests.helpers.engines import Arrays, BuildToy, Engine, build_toy
from tests.helpers.threads import LIMIT_S, ended, started
from tests.helpers.zoo import Net, Toy

pytestmark = pytest.mark.slow

Open = Callable[..., SwapRuntime]
Answers = Callable[[str, int], tuple[Arrays, Arrays]]
Alone = Callable[[Arrays], Arrays]


def load(runtime: SwapRuntime, toy: Engine) -> RuntimeModel:
    return ended(partial(runtime.load, toy.folder, name=toy.model.stem))


def submit_at_once(
    model: RuntimeModel, requests: Sequence[Arrays], outs: Sequence[Arrays] = ()
) -> list[Future[dict[str, np.ndarray]]]:
    """All of them wait before the first is served."""
    go_on = threading.Event()
    stopped = model.between(lambda: None if go_on.wait(LIMIT_S) else pytest.fail("for ever"))
    pairs = zip_longest(requests, outs, fillvalue=None)
    futures = [model.submit(request or {}, out) for request, out in pairs]
    assert model.stats.waiting == len(requests)
    go_on.set()
    stopped.result(LIMIT_S)
    return futures


# Joined requests


def alone(toy: Engine, folder: Path) -> Alone:
    """The whole model, for one request after another."""
    session = toy.optimised(folder)
    names = [tensor.name for tensor in toy.manifest.outputs]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def whole(engine: BuildToy, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The toy whose requests are joined."""
    return alone(engine("lookups"), tmp_path_factory.mktemp("whole"))


def indices(*rows: int) -> list[Arrays]:
    random = np.random.default_rng(0)
    return [{"ids": random.integers(0, 4096, (n, 3))} for n in rows]


def assert_close(found: Arrays, expected: Arrays) -> None:
    """Products of another size round differently."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, strict=True)


def test_requests_that_wait_are_one_inference(engine: BuildToy, opened: Open, whole: Alone) -> None:
    """Once it was seen that this changes nothing: the first joined ones run alone too."""
    model = load(opened("64MiB"), engine("lookups"))
    first, then = indices(1, 2, 1), indices(*[1] * 8, 2, 2, 3, 2, 4)
    before = model.stats.inferences
    for requests, inferences in ((first, 1 + 3), (then, 2 + 1 + 3)):
        futures = submit_at_once(model, requests)
        for request, future in zip(requests, futures, strict=True):
            assert_close(future.result(LIMIT_S), whole(request))
        assert model.stats.inferences - before == inferences
        before = model.stats.inferences
    assert model.stats.requests == len(first) + len(then)
    assert model.stats.inferences < model.stats.requests
    outputs = [out for future in futures for out in future.result().values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(outputs) for b in outputs[i + 1 :])


def test_joined_requests_are_answered_in_the_arrays_that_came_with_them(
    engine: BuildToy, opened: Open, whole: Alone
) -> None:
    """The first time each runs alone too; one whose array is too small fails alone."""
    model = load(opened("64MiB"), engine("lookups"))
    for count in (2, 3):
        requests = indices(*range(1, count + 1))
        expected = [whole(request) for request in requests]
        outs = [{n: np.zeros_like(a) for n, a in outputs.items()} for outputs in expected]
        if count == 3:
            outs[1] = {name: array[:1] for name, array in outs[1].items()}
        futures = submit_at_once(model, requests, outs)
        for index, future in enumerate(futures):
            if count == 3 and index == 1:
                with pytest.raises(InputError, match="does not fit into the array"):
                    future.result(LIMIT_S)
                continue
            answer = future.result(LIMIT_S)
            assert all(answer[name] is array for name, array in outs[index].items())
            assert_close(outs[index], expected[index])
    assert (model.stats.requests, model.stats.failures) == (5, 1)
    assert model.stats.inferences == 3 + 2


@pytest.mark.parametrize("known", [False, True])
def test_one_that_is_wrong_fails_alone(
    engine: BuildToy, opened: Open, whole: Alone, known: bool
) -> None:
    """Whether or not joining was seen to work before."""
    model = load(opened("64MiB"), engine("lookups"))
    if known:
        for future in submit_at_once(model, indices(1, 1)):
            future.result(LIMIT_S)
    requests = indices(1, 1, 1, 1)
    requests[2]["ids"][0, 1] = 9999
    futures = submit_at_once(model, requests)
    with pytest.raises(InputError, match="outside its table"):
        futures[2].result(LIMIT_S)
    for index in (0, 1, 3):
        assert_close(futures[index].result(LIMIT_S), whole(requests[index]))
    assert model.stats.failures == 1
    before = model.stats.inferences
    for _ in range(2):
        for future in submit_at_once(model, indices(1, 1, 2)):
            future.result(LIMIT_S)
    assert model.stats.inferences - before == 2 + 3 * (not known)


def test_a_cancelled_request_is_not_joined(engine: BuildToy, opened: Open, whole: Alone) -> None:
    model = load(opened("64MiB"), engine("lookups"))
    go_on = threading.Event()
    stopped = model.between(lambda: None if go_on.wait(LIMIT_S) else pytest.fail("for ever"))
    requests = indices(1, 1, 1)
    futures = [model.submit(request) for request in requests]
    assert futures[1].cancel()
    go_on.set()
    stopped.result(LIMIT_S)
    for index in (0, 2):
        assert_close(futures[index].result(LIMIT_S), whole(requests[index]))
    assert model.stats.requests == 2


def test_one_that_is_cancelled_while_answers_are_compared_says_nothing_of_joining(
    engine: BuildToy, opened: Open
) -> None:
    futures: list[Future[dict[str, np.ndarray]]] = []

    def cancel(event: Event) -> None:
        if event.kind == "inference":
            futures[0].cancel()

    model = load(opened("64MiB", on_event=cancel), engine("lookups"))
    go_on = threading.Event()
    stopped = model.between(lambda: None if go_on.wait(LIMIT_S) else pytest.fail("for ever"))
    futures += [model.submit(request) for request in indices(1, 1)]
    go_on.set()
    stopped.result(LIMIT_S)
    futures[1].result(LIMIT_S)
    before = model.stats.inferences
    for _ in range(2):
        for future in submit_at_once(model, indices(1, 1)):
            future.result(LIMIT_S)
    assert model.stats.inferences - before == 3 + 1


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A first axis that is no batch: each row depends on all others."""

    def make() -> onnx.ModelProto:
        net = Net()
        value = net.dense(net.input("x", ("rows", 64)), 64, 64)
        net.output(net("Softmax", net.dense(value, 64, 64), axis=0))
        return net.model()

    toy = Toy(make, shapes={"x": (4, 64)})
    return build_toy("mixing", tmp_path_factory.mktemp("mixing"), toy)


def test_rows_that_depend_on_each_other_are_not_joined(
    mixing: Engine, opened: Open, tmp_path: Path
) -> None:
    whole = alone(mixing, tmp_path)
    model = load(opened("64MiB"), mixing)
    assert model._can_join
    random = np.random.default_rng(0)
    requests: list[Arrays] = [
        {"x": random.standard_normal((rows, 64), np.float32)} for rows in (1, 2, 1, 1, 1, 1)
    ]
    for inferences in (1 + 6, 6):
        before = model.stats.inferences
        futures = submit_at_once(model, requests)
        for request, future in zip(requests, futures, strict=True):
            assert same(future.result(LIMIT_S), whole(request))
        assert model.stats.inferences - before == inferences


# Values of unknown size


@pytest.mark.parametrize("lanes", [1, 2])
def test_values_of_unknown_size_beside_others(
    engine: BuildToy, opened: Open, answers: Answers, lanes: int
) -> None:
    """They lie in the scratch memory that all share, from the first step to the last."""
    names = ("dynamic", "loop", "used-twice", "lookups")
    toys = [engine(name) for name in names]
    assert [is_interruptible(toy.manifest) for toy in toys] == [True, False, True, True]
    for name in names:
        for seed in range(2):
            answers(name, seed)
    demand = together([toy.manifest for toy in toys], lanes=lanes)
    runtime = opened(demand.other_bytes + demand.weights_bytes // 2, lanes=lanes)
    models = [load(runtime, toy) for toy in toys]

    def ask(index: int, first: int) -> None:
        for count in range(first, first + 15):
            feeds, expected = answers(names[index], count % 2)
            assert same(models[index].submit(feeds).result(LIMIT_S), expected)

    threads = [started(partial(ask, i, first)) for i in range(len(toys)) for first in range(2)]
    for thread in threads:
        thread.result(2 * LIMIT_S)
    assert sum(model.stats.failures for model in models) == 0
