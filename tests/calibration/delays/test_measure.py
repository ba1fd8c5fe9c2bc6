"""The profile of an engine: measured, kept, refreshed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import swapnet.calibration
from swapnet.calibration import ensure_measured, ensure_shapes, measure
from swapnet.calibration.delays import measure as measuring
from swapnet.calibration.delays import worker
from swapnet.calibration.delays.blocks import infer, intervals
from swapnet.calibration.delays.cache import load_requests
from swapnet.calibration.delays.requests import measure_requests
from swapnet.calibration.delays.worker import Job, measure_profile
from swapnet.errors import BackendError, EngineError, InputError, StorageError
from swapnet.executor import SwapExecutor
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.runtime.runtime import SwapRuntime
from swapnet.manifest import load_manifest
from swapnet.profile import PROFILE, Profile, Request, load_profile, save_profile
from swapnet.progress import Progress, silent
from tests.helpers.boards import BOARDS, be_processor
from tests.helpers.engines import Arrays, BuildToy, assert_same
from tests.helpers.engines import Engine as Toy
from tests.helpers.serving import answers_of, child_runs

DEVICE = Device(threads=1)


def job(folder: Path, requests: tuple[Request, ...] = ()) -> Job:
    return Job(str(folder), 1, "auto", {}, requests)


@pytest.fixture
def toy(engine: BuildToy, tmp_path: Path) -> Path:
    """A copy of a small engine with symbolic shapes."""
    made: Toy = engine("dynamic")
    return Path(shutil.copytree(made.folder, tmp_path / "toy"))


@pytest.mark.parametrize("name", ["images", "weightless", "dynamic", "only-lookup"])
def test_every_block_is_measured(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    profile = measure_profile(Engine.open(toy.folder, device=DEVICE), job(toy.folder), silent)
    assert (profile.device, profile.engine) == (DEVICE.fingerprint, toy.manifest.identity)
    assert len(profile.blocks) == len(toy.manifest.blocks)
    assert all(block.busy_ms >= block.idle_ms >= 0 for block in profile.blocks)
    assert all(block.spread >= 0 for block in profile.blocks)
    assert profile.storage.requests == ()
    assert (profile.storage.request_bytes, profile.storage.readers) == (4 << 20, 1)


def test_steps_add_up_to_the_latency(small: Path) -> None:
    inputs = {"x": np.ones(1)}
    with SwapExecutor(small, "100%") as executor:
        took = infer(executor, inputs)
        last = executor.stats.last
        assert last is not None
        waited = sum(step.start - step.wait for step in last.steps) * 1e3
        assert sum(took) + waited == pytest.approx(last.latency_ms)
        works = intervals(executor, inputs, [5.0] * len(took))
        assert all(work.end >= work.start and work.alone_s == 0.005 for work in works)


@pytest.mark.slow
def test_storage_is_measured_where_the_weights_are_large(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(4096, 3), (8192, 2)]
    monkeypatch.setattr(worker, "LEAST_BYTES", 8192)
    monkeypatch.setattr(worker, "measure_requests", partial(measure_requests, pairs=pairs))
    seen: set[str] = set()
    profile = measure_profile(
        Engine.open(small, device=DEVICE), job(small), lambda stage, *_: seen.add(stage)
    )
    assert len(profile.storage.requests) == 4
    assert (profile.storage.request_bytes, profile.storage.readers) in pairs
    assert seen == {"open", "storage", "blocks"}
    known = (Request(1 << 20, 2, 1e9, 1.0, True),)
    again = measure_profile(Engine.open(small, device=DEVICE), job(small, known), silent)
    assert again.storage.requests == known
    assert (again.storage.request_bytes, again.storage.readers) == (1 << 20, 2)


@pytest.mark.slow
def test_measure_writes_what_a_child_measured(toy: Path) -> None:
    profile = measure(toy, device=DEVICE).measured
    manifest = load_manifest(toy)
    assert load_profile(toy, manifest, DEVICE.fingerprint) == profile
    assert load_profile(toy, manifest, "another").is_assumed


def test_what_the_child_refuses_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is not an engine directory"):
        measuring.measure_in_child(job(tmp_path), silent)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.stdin.readline(); sys.exit('odd')", "odd"),
        ("import os; os._exit(3)", "it printed nothing"),
        ("import os; os.close(0); os._exit(3)", "it printed nothing"),
    ],
)
def test_a_child_that_dies_is_named(
    small: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    child_runs(monkeypatch, code)
    with pytest.raises(BackendError, match="ended with status") as caught:
        measuring.measure_in_child(job(small), silent)
    assert caught.value.why == why


def test_the_child_answers_in_lines(small: Path, tmp_path: Path) -> None:
    status, answers = answers_of(worker.work, job(small))
    assert status == 0
    assert msgspec.convert(answers[-1], Profile)
    assert all(answer["type"] == "Reached" for answer in answers[:-1])
    status, answers = answers_of(worker.work, job(tmp_path))
    assert status == 2
    assert answers[-1]["type"] == "Failed"


def test_a_stored_profile_is_taken(toy: Path, jobs: list[Job]) -> None:
    said: list[str] = []
    first = ensure_measured(toy, device=DEVICE, say=said.append).measured
    assert ensure_measured(toy, device=DEVICE, say=said.append).measured == first
    assert len(jobs) == len(said) == 1
    assert "it is not measured yet" in said[0]


@pytest.mark.parametrize("changes", [{"device": "another"}, {"engine": "another"}])
def test_a_stale_profile_is_measured_again(
    toy: Path, jobs: list[Job], changes: dict[str, str]
) -> None:
    said: list[str] = []
    first = ensure_measured(toy, device=DEVICE, say=said.append).measured
    save_profile(toy, msgspec.structs.replace(first, **changes))
    assert ensure_measured(toy, device=DEVICE, say=said.append).measured == first
    assert "of another device or engine" in said[1]
    assert len(jobs) == 2


@pytest.mark.slow
def test_other_shapes_than_those_measured_are_told(
    engine: BuildToy, tmp_path: Path, jobs: list[Job]
) -> None:
    folder = Path(shutil.copytree(engine("dynamic").folder, tmp_path / "dynamic"))
    said: list[str] = []
    opened = ensure_measured(folder, device=DEVICE, say=said.append)
    name, shape = next(iter(opened.manifest.planned_shapes.items()))
    axis = next(i for i, d in enumerate(opened.manifest.inputs[0].shape) if isinstance(d, str))
    other = {name: tuple(dim + (i == axis) for i, dim in enumerate(shape))}
    for _ in range(2):
        ensure_measured(folder, device=DEVICE, shapes=other, say=said.append)
    assert [line for line in said if "delays are of another" in line] == []
    assert sum("it is not measured at these shapes yet" in line for line in said) == 1
    assert len(jobs) == 2


def test_a_profile_does_not_move_from_board_to_board(
    toy: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, board in enumerate(BOARDS, 1):
        said: list[str] = []
        be_processor(monkeypatch, board)
        assert (
            ensure_measured(toy, device=DEVICE, say=said.append).measured.device
            == DEVICE.fingerprint
        )
        assert len(jobs) == count
        assert len(said) == 1
        ensure_measured(toy, device=DEVICE, say=said.append)
        assert (len(jobs), len(said)) == (count, 1)


def test_other_threads_are_another_device(toy: Path, jobs: list[Job]) -> None:
    ensure_measured(toy, device=DEVICE)
    ensure_measured(toy, device=Device(threads=2))
    assert [asked.threads for asked in jobs] == [1, 2]


@pytest.mark.usefixtures("jobs")
def test_what_can_not_be_kept_is_measured_all_the_same(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no", why="it is read-only")

    monkeypatch.setattr(measuring, "save_profile", refuse)
    said: list[str] = []
    assert not ensure_measured(toy, device=DEVICE, say=said.append).measured.is_assumed
    assert "it is read-only" in said[1]
    with pytest.raises(StorageError):
        measure(toy, device=DEVICE)
    assert not (toy / PROFILE).exists()


def test_the_table_of_storage_is_shared_by_engines(
    toy: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "LEAST_BYTES", 1)
    table = (Request(1 << 20, 2, 1e9, 1.0, True),)
    measured: Callable[[Job, Progress], Profile] = vars(measuring)["measure_in_child"]

    def with_table(asked: Job, progress: Progress) -> Profile:
        profile = measured(asked, progress)
        storage = msgspec.structs.replace(profile.storage, requests=table)
        return msgspec.structs.replace(profile, storage=storage)

    monkeypatch.setattr(measuring, "measure_in_child", with_table)
    for fresh in (False, False, True):
        measure(toy, device=DEVICE, fresh=fresh)
    assert [asked.requests for asked in jobs] == [(), table, ()]
    assert load_requests("another key") == ()


@pytest.mark.slow
def test_other_shapes_are_measured_first_and_kept(toy: Path, jobs: list[Job]) -> None:
    said: list[str] = []
    shapes = {"x": (2, 9, 64)}
    profile = ensure_measured(toy, device=DEVICE, shapes=shapes, say=said.append).measured
    assert [line.split(": ")[1][:12] for line in said] == ["measuring ac", "it is not me"]
    manifest = ensure_shapes(toy, shapes, say=said.append).manifest
    assert len(said) == 2
    assert manifest.planned_shapes == {"x": (2, 9, 64), "mask": (2, 9)}
    assert load_profile(toy, manifest, DEVICE.fingerprint) == profile
    assert load_profile(toy, load_manifest(toy), DEVICE.fingerprint).is_assumed
    assert ensure_measured(toy, device=DEVICE, shapes=shapes, say=said.append).measured == profile
    assert len(jobs) == 1
    kept = sorted(path.name for path in (toy / "shapes").iterdir())
    assert kept == ["profile-x-2x9x64_mask-2x9.json", "x-2x9x64_mask-2x9.json"]


@pytest.mark.slow
def test_an_engine_runs_at_other_shapes_and_says_once_that_it_measures(
    engine: BuildToy, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = engine("dynamic")
    shapes = {"x": (2, 9, 64)}
    feeds: Arrays = {
        "x": np.random.default_rng(0).standard_normal((2, 9, 64), np.float32),
        "mask": np.ones((2, 9), np.int64),
    }
    SwapExecutor(toy, "100%", shapes=shapes).close()
    with SwapExecutor(toy, "weights:50%", dims={"batch": 2, "length": 9}) as executor:
        outputs = executor(feeds)
    with SwapRuntime("64MiB") as runtime:
        assert_same(runtime.load(toy, shapes=shapes)(feeds), outputs)
    measuring = [line for line in caplog.messages if "activations" in line]
    assert measuring == [f"{toy}: measuring activations at x: 2x9x64, mask: 2x9 …"]
    for name, expected in made.original(feeds).items():
        found: Any = outputs[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_shapes_of_the_build_are_the_build(toy: Path) -> None:
    manifest = load_manifest(toy)
    assert ensure_shapes(toy).manifest == manifest
    assert ensure_shapes(toy, manifest.planned_shapes).manifest == manifest
    assert not (toy / "shapes").exists()


def test_wrong_shapes_are_refused(toy: Path) -> None:
    with pytest.raises(InputError, match="names 'y'"):
        ensure_shapes(toy, {"y": (1,)})


@pytest.mark.slow
def test_what_is_measured_is_said_on_standard_error(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_shapes(toy, {"x": (1, 2, 64)})
    assert "measuring activations at x: 1x2x64, mask: 1x2" in capsys.readouterr().err


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = swapnet.calibration.nothing
