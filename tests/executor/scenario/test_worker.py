"""The worker process: what it says, and what it leaves out."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from swapnet.executor import Device
from swapnet.executor.scenario import worker
from swapnet.executor.scenario.load_generator import LoadGenerator, open_generator
from swapnet.executor.scenario.messages import Alone, Close, Job, Round
from swapnet.executor.scenario.steps import Change
from swapnet.executor.scenario.traffic import Arrival
from swapnet.process.failure import Failed
from tests.executor.scenario.conftest import MIB, FakeRuntime
from tests.helpers.engines import BuildToy
from tests.helpers.serving import served

Said = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, job: Callable[..., Job]) -> Said:
    """Serves commands in this process; the status, and what it says."""
    runtime = FakeRuntime(64 * MIB, smallest_bytes=16 * MIB)
    monkeypatch.setattr(
        worker, "open_generator", lambda job, say: LoadGenerator(job, cast("Any", runtime), say)
    )

    def serve(*commands: msgspec.Struct) -> tuple[int, list[Any]]:
        status, out = served(worker.work, job(), *commands)
        assert runtime.closed == any(isinstance(command, Close) for command in commands)
        return status, _decoded(io.BytesIO(out))

    return serve


def _decoded(out: io.BytesIO) -> list[Any]:
    """Messages; the bytes that follow outputs in their place."""
    found: list[Any] = []
    while line := out.readline():
        found.append(msgspec.json.decode(line))
        if found[-1]["type"] == "Output":
            found.append(out.read(4))
    return found


@pytest.mark.parametrize("storage_bytes_per_s", [None, 4e8])
def test_a_generator_has_the_device_that_its_job_says(
    job: Callable[..., Job],
    engine: BuildToy,
    monkeypatch: pytest.MonkeyPatch,
    storage_bytes_per_s: float | None,
) -> None:
    made: dict[str, Any] = {}

    def runtime(budget: int, **options: Any) -> FakeRuntime:
        made.update(options)
        return FakeRuntime(budget)

    monkeypatch.setattr("swapnet.executor.runtime.SwapRuntime", runtime)
    monkeypatch.setattr("swapnet.executor.engine.device_for", lambda *_, **__: Device(1))
    asked = job(storage_bytes_per_s=storage_bytes_per_s)
    engines = tuple(
        msgspec.structs.replace(each, folder=str(engine("images").folder)) for each in asked.engines
    )
    open_generator(msgspec.structs.replace(asked, engines=engines), lambda *_: None)
    pace = made["device"].pace
    assert (pace and pace.bytes_per_s) == storage_bytes_per_s


def test_commands_are_answered_in_order(said: Said) -> None:
    status, answers = said(Alone(0, 0), Round((Arrival(0.0, 0, 0),)), Close())
    assert status == 0
    assert answers.pop(2) == np.float32(2.0).tobytes()
    assert [answer["type"] for answer in answers] == [
        *("Ready", "Output", "Measured", "RoundResult", "Ready"),
    ]


def test_an_error_ends_it(said: Said) -> None:
    status, answers = said(Round((), (Change(0.0, MIB),)), Alone(0, 0))
    assert status == 2
    failed = msgspec.convert(answers[-1], Failed)
    assert (failed.error, failed.smallest_bytes) == ("BudgetError", 16 * MIB)


def test_it_imports_no_onnx() -> None:
    script = (
        "import sys, swapnet.executor.scenario.worker, swapnet.executor.runtime;print(*sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "swapnet.executor.scenario.load_generator" in child.stdout.split()
    unwanted = {"onnx", "google.protobuf", "swapnet.builder", "onnxruntime.quantization"}
    assert not unwanted.intersection(child.stdout.split())
