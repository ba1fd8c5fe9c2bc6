"""The smallest plan runs under its own number; one that is too small is raised, or said."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swapnet.errors import BackendError
from swapnet.executor.device import ThreadPool
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import for_pool
from swapnet.executor.probing import activations, trial
from swapnet.executor.probing.activations import Measurement, measure
from swapnet.executor.probing.trial import confirmed
from swapnet.machine import own_pages
from swapnet.manifest import Manifest
from swapnet.process.cgroup import is_available
from swapnet.process.child import Child, forked
from swapnet.process.failure import ProcessDied, ProcessTimedOut
from swapnet.process.serve import Parent
from swapnet.shapes import SessionMemory
from tests.helpers.engines import BuildToy
from tests.helpers.threads import LIMIT_S

MIB = 1 << 20
DIED = ProcessDied("gone")

needs_groups = pytest.mark.skipif(
    not is_available(), reason="needs root and a cgroup memory controller"
)


class Runs:
    """In place of `Child`: tries that live where their limit is large enough, else they fail."""

    def __init__(self, limits: list[int], needed_bytes: int, failure: BackendError = DIED) -> None:
        self.begun = self.closed = 0
        self._limits = limits
        self._needed_bytes = needed_bytes
        self._failure = failure

    def __call__(self, module: str, who: str, *, patience_s: float) -> Runs:
        assert module == trial.MODULE
        assert patience_s == 7
        self.begun += 1
        return self

    def tell(self, job: trial.Job) -> None:
        assert job.processes == os.devnull

    def hear(self) -> None:
        if self._limits[-1] < self._needed_bytes:
            raise self._failure

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


@pytest.fixture
def manifest(engine: BuildToy) -> Manifest:
    memory = SessionMemory(0, 8 * MIB, 8 * MIB)
    return msgspec.structs.replace(engine("images").manifest, session_memory=memory)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Limits of the groups that are made."""
    made: list[int] = []

    def group(limit_bytes: int) -> Any:
        made.append(limit_bytes)
        of_group = SimpleNamespace(
            processes_file=Path(os.devnull), has_killed=True, peak_bytes=limit_bytes - MIB
        )
        return nullcontext(of_group)

    monkeypatch.setattr(trial, "MemoryGroup", group)
    return made


@pytest.mark.parametrize(("missing_bytes", "tries"), [(0, 1), (MIB, 2), (64 * MIB, 2)])
def test_a_number_that_is_too_small_is_raised_once_more_than_it_is_tried(
    manifest: Manifest,
    limits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    missing_bytes: int,
    tries: int,
) -> None:
    budget_bytes, _ = smallest_budget(for_pool(manifest, ThreadPool.GLOBAL))
    runs = Runs(limits, budget_bytes + missing_bytes)
    monkeypatch.setattr(trial, "Child", runs)
    memory, unconfirmed = confirmed(2, Path(), manifest, b"", patience_s=7)
    assert runs.begun == runs.closed == len(limits) == tries
    assert limits == sorted(limits)
    assert ("the kernel ended it" in unconfirmed) == (missing_bytes == 64 * MIB)
    raised = memory.own_process_bytes - 8 * MIB
    assert abs(memory.process_bytes - 8 * MIB - raised) < 4096
    assert raised >= missing_bytes * (not unconfirmed)
    assert (raised >= 4096) == (missing_bytes > 0)


def test_without_a_limit_the_number_stays(manifest: Manifest) -> None:
    found = confirmed(0, Path(), manifest, b"", patience_s=7)
    assert found == (manifest.session_memory, "")


def test_a_number_stays_where_nothing_was_killed_in_time(
    manifest: Manifest, limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(limits, 1 << 50, ProcessTimedOut("it", 7))
    monkeypatch.setattr(trial, "Child", runs)
    memory, unconfirmed = confirmed(2, Path(), manifest, b"", patience_s=7)
    assert memory == manifest.session_memory
    assert "took longer than 7 s" in unconfirmed
    assert runs.begun == runs.closed == 1


def test_a_crash_of_another_cause_is_an_error(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = nullcontext(SimpleNamespace(processes_file=Path(os.devnull), has_killed=False))
    monkeypatch.setattr(trial, "MemoryGroup", lambda _: alive)
    runs = Runs([0], 1)
    monkeypatch.setattr(trial, "Child", runs)
    with pytest.raises(ProcessDied, match="gone"):
        confirmed(1, Path(), manifest, b"", patience_s=7)
    assert runs.closed == 1


def test_what_did_not_run_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Measurement((), SessionMemory(), {}, unconfirmed="it took longer than 7 s")
    monkeypatch.setattr(activations, "ask", lambda *_, **__: found)
    with caplog.at_level(logging.WARNING):
        assert measure(Path("engines/x")) is found
    (record,) = caplog.records
    assert record.getMessage() == (
        "the smallest budget is not confirmed under the kernel's limit: it took longer than 7 s"
    )


def _shared_kib() -> int:
    """Written pages that another process has too."""
    found = re.search(r"Shared_Dirty:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1])


def work(parent: Parent) -> None:
    """Work of the process that is forked here."""
    before = _shared_kib()
    own_pages()
    parent.answer((before, _shared_kib(), parent.job(str)))


def test_pages_of_a_forked_process_become_its_own() -> None:
    """They stay as they are: the process goes on."""
    with forked(__name__), Child(__name__, "it", patience_s=LIMIT_S) as process:
        process.tell("a text")
        before, after, text = process.hear()
    assert text == "a text"
    assert after < before // 10


TOO_SMALL = """
import sys
from pathlib import Path

import msgspec

from swapnet.executor.engine import Engine
from swapnet.executor.probing.trial import MODULE, confirmed
from swapnet.executor.probing.blocks import ONE_OPERATOR
from swapnet.process.child import forked
from swapnet.shapes import SessionMemory

folder = Path(sys.argv[1])
manifest = Engine.open(folder).manifest
small = msgspec.structs.replace(manifest, session_memory=SessionMemory(0, 1, 1))
with forked(MODULE):
    memory, _ = confirmed(1, folder, small, ONE_OPERATOR, patience_s=float(sys.argv[2]))
sys.stdout.write(str(memory.own_process_bytes))
"""


@pytest.mark.slow
@needs_groups
def test_the_smallest_plan_runs_under_the_kernels_limit(engine: BuildToy) -> None:
    """Forked from new processes: this one has threads."""
    toy = engine("images")
    assert not measure(toy.folder).unconfirmed
    child = subprocess.run(
        [sys.executable, "-c", TOO_SMALL, str(toy.folder), str(LIMIT_S)],
        capture_output=True,
        text=True,
        check=True,
        timeout=2 * LIMIT_S,
    )
    assert int(child.stdout) > 2 * MIB
