"""Builds in a process of their own."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from swapnet.builder import build, build_with, child
from swapnet.builder.child import Built, Folders, Job, Read, build_in_child, work
from swapnet.builder.options import BuildOptions
from swapnet.errors import BackendError, InputError, ModelError, StorageError
from swapnet.manifest import MANIFEST, WEIGHTS
from swapnet.process.cgroup import MemoryGroup, is_available
from swapnet.process.failure import Failed, ProcessDied
from swapnet.process.serve import Reached
from swapnet.progress import silent
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.serving import child_runs, served
from tests.helpers.zoo import Net

OPTIONS = BuildOptions(backend="onnxruntime", max_block="16KiB")
ANSWERS = Read | Reached | Built | Failed


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    return engine("images")


@pytest.fixture
def job(toy: Engine, tmp_path: Path) -> Job:
    return Job(OPTIONS.checked(), str(toy.model), str(toy.model), str(tmp_path / "engine"))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("staging", "work"):
        (tmp_path / name).mkdir()
    return Folders(str(tmp_path / "staging"), str(tmp_path / "work"))


def answers(job: Job, *further: Folders) -> list[Read | Reached | Built | Failed]:
    _, told = served(work, job, *further)
    return [msgspec.json.decode(line, type=ANSWERS) for line in told.splitlines()]


@pytest.mark.slow
def test_says_what_it_needs_then_builds_into_given_folders(
    job: Job, folders: Folders, toy: Engine, tmp_path: Path
) -> None:
    first, *reached, last = answers(job, folders)
    assert isinstance(first, Read)
    assert first.needed_bytes > 100 << 20
    stages = [answer.stage for answer in reached if isinstance(answer, Reached)]
    assert list(dict.fromkeys(stages)) == ["optimise", "shapes", "compile", "measure"]
    assert isinstance(last, Built)
    build_with(OPTIONS, toy.model, tmp_path / "here")
    written, here = (tmp_path / name / WEIGHTS for name in ("staging", "here"))
    assert written.read_bytes() == here.read_bytes()
    assert (tmp_path / "staging" / MANIFEST).is_file()


def test_a_missing_model_is_said_before_folders_are_asked_for(job: Job) -> None:
    (failed,) = answers(msgspec.structs.replace(job, model="none.onnx"))
    assert isinstance(failed, Failed)
    assert failed.error == "ModelError"


def test_refusals_of_the_disk_are_errors_of_ours(job: Job, folders: Folders) -> None:
    *_, failed = answers(job, Folders("/proc/none", folders.work))
    assert isinstance(failed, Failed)
    assert (failed.error, failed.what) == ("StorageError", f"building {job.target} failed")


def test_a_killed_grandchild_is_explained(
    job: Job, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        error = ProcessDied("the process that measures blocks was killed", why="out of memory")
        error.was_killed = True
        raise error

    monkeypatch.setattr(child, "build_into", die)
    *_, failed = answers(job, folders)
    assert isinstance(failed, Failed)
    assert failed.error == "BackendError"
    assert "the process that measures blocks was killed" in failed.what
    assert "it needs at most about" in failed.why
    assert "is available" in failed.why


KILLED = """
import os, signal, sys
sys.stdin.readline()
if {reads}:
    print('{{"type": "Read", "needed_bytes": 734003200}}', flush=True)
    sys.stdin.readline()
os.kill(os.getpid(), {number})
"""


@pytest.mark.parametrize("reads", [True, False])
def test_a_killed_build_says_what_it_needs_and_leaves_nothing(
    toy: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    child_runs(monkeypatch, KILLED.format(reads=reads, number=int(signal.SIGKILL)))
    announced: list[int] = []
    target = tmp_path / "engine"
    with pytest.raises(BackendError) as caught:
        build_in_child(OPTIONS, toy.model, target, progress=silent, announce=announced.append)
    assert f"{target} could not be built" in caught.value.what
    assert "signal 9" in caught.value.what
    assert ("needs at most about 700MiB" in caught.value.why) == reads
    assert "is available" in caught.value.why
    assert "free some memory" in caught.value.hint
    assert announced == [700 << 20] * reads
    assert not list(tmp_path.iterdir())


WARNS = """
import os, signal, sys
sys.stdin.readline()
print('{"type": "Read", "needed_bytes": 1}', flush=True)
sys.stdin.readline()
print('{"type": "Warned", "text": "of the child"}', flush=True)
os.kill(os.getpid(), signal.SIGABRT)
"""


def test_a_warning_of_the_child_is_said_here(
    toy: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child_runs(monkeypatch, WARNS)
    with pytest.raises(ProcessDied):
        build_in_child(OPTIONS, toy.model, tmp_path / "engine", progress=silent)
    assert [record.getMessage() for record in caplog.records] == ["of the child"]


def test_the_child_sends_warnings_of_the_builder(
    job: Job, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("swapnet")
    handlers = [*logger.handlers]
    monkeypatch.setattr(child, "build_into", lambda *_: logger.warning("%s", "so it is"))
    monkeypatch.setattr(child, "filling", lambda _: nullcontext())
    _, said = served(work, job, folders)
    assert b'{"type":"Warned","text":"so it is"}' in said
    assert logger.handlers == handlers


def test_another_death_is_not_blamed_on_memory(
    toy: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_runs(monkeypatch, KILLED.format(reads=True, number=int(signal.SIGABRT)))
    with pytest.raises(ProcessDied, match="signal 6") as caught:
        build_in_child(OPTIONS, toy.model, tmp_path / "engine", progress=silent)
    assert "available" not in str(caught.value)


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_engine(toy: Engine, tmp_path: Path) -> None:
    build_with(OPTIONS, toy.model, tmp_path / "here")
    apart = replace(OPTIONS, process_per_block=True)
    stages: list[str] = []
    manifest = build_with(
        apart, toy.model, tmp_path / "there", progress=lambda stage, *_: stages.append(stage)
    )
    assert len(manifest.blocks) > 1
    assert {"read", "optimise", "compile", "measure"} <= set(stages)
    here, there = (tmp_path / name / WEIGHTS for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.slow
def test_errors_come_from_the_child_as_they_are(toy: Engine, tmp_path: Path) -> None:
    def build_apart(model: Path, max_block: str = "1MiB") -> None:
        build(model, tmp_path / "engine", process_per_block=True, max_block=max_block)

    with pytest.raises(ModelError, match="there is no such file"):
        build_apart(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="not a size"):
        build_apart(toy.model, max_block="tiny")
    assert not list(tmp_path.iterdir())
    (tmp_path / "engine").write_text("a file")
    with pytest.raises(StorageError, match="is in the way"):
        build_apart(toy.model)


def _large(path: Path) -> int:
    """Write a model with a product of 160 MiB and another; bytes of that product."""
    net = Net()
    value = net.input("x", (2, 4096))
    value = net("MatMul", value, net.constant(np.full((4096, 10240), 0.01, np.float32)))
    value = net("MatMul", value, net.constant(np.full((10240, 1024), 0.01, np.float32)))
    net.output(net("Relu", value))
    onnx.save(net.model(), path)
    return 4096 * 10240 * 4


needs_limits = pytest.mark.skipif(
    not is_available(), reason="no permission for cgroups with memory limits"
)


def _build_within(limit_bytes: int, folder: Path) -> tuple[int, str]:
    """Status and standard error of a build, its measurements included, under a kernel's limit."""
    with MemoryGroup(limit_bytes) as group:
        join = f'echo $$ > "{group.processes_file}"; exec "$@"'
        command = [sys.executable, "-m", "swapnet", "build", "m.onnx", "-o", "out/engine"]
        done = subprocess.run(
            ["sh", "-c", join, "sh", *command],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("kernel memory")
@needs_limits
def test_a_build_takes_little_more_than_its_largest_weight(tmp_path: Path) -> None:
    largest_bytes = _large(tmp_path / "m.onnx")
    status, said = _build_within(largest_bytes * 14 // 10 + (150 << 20), tmp_path)
    assert status == 0, said
    assert "needs at most about" in said
    assert "is available" not in said


@pytest.mark.slow
@pytest.mark.xdist_group("kernel memory")
@needs_limits
def test_a_build_that_the_kernel_ends_says_so(tmp_path: Path) -> None:
    largest_bytes = _large(tmp_path / "m.onnx")
    status, said = _build_within(largest_bytes // 2, tmp_path)
    assert status == 2
    assert "80MiB is available: the kernel may end it" in said
    assert "out/engine could not be built: the process that builds was killed" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").iterdir())
