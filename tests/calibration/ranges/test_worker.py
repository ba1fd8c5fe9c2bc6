"""The observing process: what it is told, what it says, how it may end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swapnet.arrays import save_npz
from swapnet.builder import build
from swapnet.calibration.ranges.collect import Extreme
from swapnet.calibration.ranges.fixed_cost import fixed_bytes, kept_bytes
from swapnet.calibration.ranges.graph import open_model
from swapnet.calibration.ranges.worker import Found, Job, observe, observe_in_child, work
from swapnet.errors import BackendError, BudgetError, EngineError, InputError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import load_manifest
from swapnet.process.cgroup import MemoryGroup, is_available
from swapnet.progress import silent
from tests.calibration.ranges.conftest import Toy
from tests.helpers.serving import answers_of

needs_limits = pytest.mark.skipif(
    not is_available(), reason="no permission for cgroups with memory limits"
)


@pytest.fixture(scope="module")
def job(convolutions: Toy, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Extremes of all values of a model, with everything in memory."""
    folder = tmp_path_factory.mktemp("job")
    opened = open_model(convolutions.path, folder)
    tensors = opened.activations()[1:]
    manifest = build(
        opened.with_extremes(tensors, {}, "e").path, folder / "e", backend="onnxruntime"
    )
    paths = []
    for number, sample in enumerate(convolutions.samples):
        paths.append(str(folder / f"{number}.npz"))
        save_npz(Path(paths[-1]), sample)
    total = demand(manifest).total_bytes
    return Job(str(folder / "e"), total, 1, tuple(paths), "minmax", tensors, ("x",))


def changed(job: Job, **fields: Any) -> Job:
    return msgspec.structs.replace(job, **fields)


def test_every_sample_is_told_of(job: Job) -> None:
    told: list[tuple[str, int, int]] = []
    found = observe(
        Engine.open(job.folder, device=Device(1)), job, lambda *stage: told.append(stage)
    ).extremes
    assert told == [("observe", number, 3) for number in range(4)]
    assert set(found) == {"x", *job.tensors}
    values = [np.load(path)["x"] for path in job.samples]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    assert found["x"] == Extreme(float(low), float(high))


def answers(job: Job, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Any]]:
    """What the process says, said by this one."""
    monkeypatch.setattr("swapnet.executor.engine.device_for", lambda *_, **__: Device(1))
    return answers_of(work, job)


def test_the_process_says_what_it_found(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = answers(job, monkeypatch)
    assert status == 0
    assert [(told["stage"], told["done"]) for told in said[:-1]] == [
        ("observe", n) for n in range(4)
    ]
    assert msgspec.convert(said[-1], Found)


def test_histograms_of_an_input(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"x": Extreme(-20.0, 20.0)}
    asked = changed(job, method="percentile", tensors=(), known=known, percentile=50.0)
    status, said = answers(asked, monkeypatch)
    assert status == 0
    found = msgspec.convert(said[-1], Found)
    assert 0 < found.extremes["x"].high < 5


def test_the_process_says_what_it_lacks(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    smallest, _ = smallest_budget(load_manifest(Path(job.folder)))
    status, said = answers(changed(job, budget_bytes=smallest - 1), monkeypatch)
    assert status == 2
    (failed,) = said
    assert (failed["error"], failed["smallest_bytes"]) == ("BudgetError", smallest)


@pytest.mark.slow
def test_errors_of_the_child_reach_the_caller(job: Job, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="does not fit") as caught:
        observe_in_child(changed(job, budget_bytes=1), silent)
    assert caught.value.smallest_bytes
    with pytest.raises(EngineError):
        observe_in_child(changed(job, folder=str(tmp_path)), silent)
    bad = {"x": np.full((1, 3, 16, 16), np.nan, np.float32)}
    save_npz(tmp_path / "bad.npz", bad)
    with pytest.raises(InputError, match="has NaN for sample 0"):
        observe_in_child(changed(job, samples=(str(tmp_path / "bad.npz"),)), silent)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_the_child_finds_what_this_process_finds(job: Job, method: Any) -> None:
    known = {"x": Extreme(-20.0, 20.0)} if method == "percentile" else {}
    asked = changed(job, method=method, known=known, tensors=job.tensors if not known else ())
    assert observe_in_child(asked, silent) == observe(
        Engine.open(asked.folder, device=Device(1)), asked, silent
    )


@pytest.mark.parametrize(
    ("script", "what", "why"),
    [
        ("echo no library >&2; exit 3", "ended with status 3", "no library"),
        ("kill -9 $$", "was killed by signal 9", "likely out of memory"),
    ],
)
def test_a_child_that_dies(
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    what: str,
    why: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(BackendError, match=what) as caught:
        observe_in_child(job, silent)
    assert caught.value.why == why


def test_extremes_import_no_onnx() -> None:
    script = "import sys, swapnet.calibration.ranges.worker; print(*sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "swapnet.calibration.ranges.collect" in child.stdout.split()
    unwanted = {"onnx", "google.protobuf", "swapnet.builder", "onnxruntime.quantization"}
    assert not unwanted.intersection(child.stdout.split())


def test_histograms_are_kept(job: Job) -> None:
    assert kept_bytes(job) == 0
    two = changed(job, method="percentile", tensors=("a", "b"))
    assert kept_bytes(two) == 4 * 2048 * 12


@pytest.mark.slow
@needs_limits
def test_the_kernel_kills_what_does_not_fit(job: Job) -> None:
    limit = 8 << 20
    with MemoryGroup(limit) as group, pytest.raises(BudgetError, match="killed by the kernel") as e:
        observe_in_child(job, silent, group=group, limit_bytes=limit)
    assert f"the limit of {limit} bytes" in e.value.why


@pytest.mark.slow
@needs_limits
def test_the_runtime_of_histograms_has_their_collector() -> None:
    extremes, histograms = fixed_bytes("minmax", 1), fixed_bytes("percentile", 1)
    assert histograms > extremes > 10 << 20
