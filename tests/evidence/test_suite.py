"""``make bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swapnet import models
from swapnet.arrays import save_npz
from swapnet.errors import BackendError, BudgetError
from swapnet.executor.bench.bench import Other, Setup
from swapnet.executor.bench.worker import Program
from swapnet.executor.planning.planner import smallest_budget
from swapnet.models import ZooFiles
from swapnet.process.cgroup import check_available, is_available
from tests.evidence.conftest import Call, a_peer, a_report
from tests.evidence.suite import command
from tests.helpers.control_groups import stand_in
from tests.helpers.engines import BuildToy, Engine

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """A small convolutional model."""
    return engine("images")


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, toy: Engine, tmp_path: Path) -> str:
    """A zoo of one toy, and its name."""
    name = "vgg19"
    save_npz(tmp_path / "example.npz", toy.feeds())
    files = ZooFiles(
        name=name,
        onnx=toy.model,
        example=tmp_path / "example.npz",
        data=tmp_path / "example.npz",
        licence="Apache-2.0",
        sha256=toy.manifest.source.sha256,
    )
    monkeypatch.setattr("tests.evidence.suite._ABLATION_BUDGET", "weights:80%")
    monkeypatch.setattr(models, "get", lambda _: files)
    monkeypatch.setattr(models, "names", lambda: (name, "not-built"))
    monkeypatch.setattr(
        "tests.evidence.suite.current_engine", lambda engines, *_: linked(engines / name, toy)
    )
    return name


def linked(folder: Path, toy: Engine) -> Path:
    if not folder.exists():
        folder.symlink_to(toy.folder)
    return folder


class Bench:
    """Gives reports without measuring, or fails."""

    def __init__(self) -> None:
        self.setups: list[Setup] = []
        self.error: BaseException | None = None

    def __call__(self, setup: Setup) -> Any:
        self.setups.append(setup)
        if self.error is not None:
            raise self.error
        peers = {name: a_peer() for name in setup.others}
        budget_bytes = setup.budget.resolve(setup.engine.demand)
        report = a_report(budget_bytes=budget_bytes, peers=peers)
        return type("Found", (), {"report": report})


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Nothing is measured."""
    import tests.evidence.suite as suite

    fake = Bench()
    monkeypatch.setattr(suite, "bench", fake)
    monkeypatch.setattr(suite, "measure", lambda _: None)
    monkeypatch.setattr(suite, "check_available", lambda: None)
    return fake


@pytest.fixture
def measure(
    call: Call, zoo: str, bench: Bench, drawing: None, tmp_path: Path
) -> Callable[..., Any]:
    """Calls the suite for the toy, which draws its results."""
    del bench, drawing

    def run(*arguments: object) -> Any:
        folders = ["--results", tmp_path / "results", "--engines", tmp_path / "engines"]
        return call(command, zoo, *folders, *arguments)

    return run


@pytest.mark.slow
def test_everything_is_written(
    measure: Callable[..., Any], bench: Bench, toy: Engine, tmp_path: Path
) -> None:
    ran = measure("--budget", "weights:50%", "--budget", "smallest")
    assert ran.status == 0, ran.err
    results = tmp_path / "results"
    assert "[3/3] vgg19 at weights:80%" in ran.err
    record = json.loads((results / "results.json").read_text())
    assert record["schema"] == "swapnet-suite/1"
    assert [case["key"]["budget"] for case in record["cases"]] == [
        "weights:50%",
        "smallest",
        "weights:80%",
    ]
    assert record["machine"]["processor"] == "A processor"
    assert {target["holds"] for target in record["targets"]} <= {True, False, None}
    (outline,) = record["outlines"]
    assert outline["smallest_bytes"] == smallest_budget(toy.in_own_process)[0]
    assert 0 < outline["ideal_bytes"] < outline["smallest_bytes"]
    assert "| vgg19 | smallest |" in (results / "results.md").read_text()
    assert "| vgg19 | weights:80% |" in (results / "ablations.md").read_text()
    assert (results / "vgg19.png").read_bytes().startswith(PNG)
    assert bench.setups[1].budget.amount == outline["smallest_bytes"]
    assert set(bench.setups[0].others) == {"mapped"}
    assert bench.setups[2].unswapped is None
    assert set(bench.setups[2].others) == {"buffered", "no-resident", "no-cyclic"}


@pytest.mark.slow
def test_what_is_there_is_not_measured_again(measure: Callable[..., Any], bench: Bench) -> None:
    options = ("--budget", "weights:50%", "--no-ablations")
    measure(*options)
    assert len(bench.setups) == 1
    assert "there" in measure(*options).err
    assert len(bench.setups) == 1
    measure(*options, "--budget", "smallest")
    assert len(bench.setups) == 2
    measure(*options, "--rounds", 3)
    assert len(bench.setups) == 3
    measure(*options, "--no-memory-limit", "--no-peers")
    assert len(bench.setups) == 4


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured(
    measure: Callable[..., Any], bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--budget", "weights:60%", "--budget", "weights:50%", "--no-ablations")
    whole = Bench.__call__

    def stop(self: Bench, setup: Setup) -> Any:
        if self.setups:
            raise KeyboardInterrupt
        return whole(self, setup)

    monkeypatch.setattr(Bench, "__call__", stop)
    assert measure(*options).status == 1
    assert [path.name for path in (tmp_path / "results" / "cases").iterdir()] == [
        "vgg19-weights-60.json"
    ]
    monkeypatch.setattr(Bench, "__call__", whole)
    assert measure(*options).status == 0
    assert len(bench.setups) == 2


@pytest.mark.slow
def test_a_failure_is_told_and_tried_again(
    measure: Callable[..., Any], bench: Bench, tmp_path: Path
) -> None:
    bench.error = BudgetError("killed", why="too large")
    options = ("--budget", "smallest", "--no-ablations")
    failed = measure(*options)
    assert failed.status == 1
    assert "killed too large" in failed.err
    assert "killed too large" in (tmp_path / "results" / "results.md").read_text()
    bench.error = None
    assert measure(*options).status == 0


def test_budgets_that_are_too_small_are_told(measure: Callable[..., Any], bench: Bench) -> None:
    ran = measure("--budget", "1KiB", "--no-ablations")
    assert ran.status == 0
    assert "needs at least" in ran.err
    assert not bench.setups


@pytest.mark.slow
def test_fixed_costs_are_measured_once(measure: Callable[..., Any], bench: Bench) -> None:
    measure("--budget", "weights:50%", "--budget", "smallest", "--no-ablations")
    assert [setup.fixed_bytes for setup in bench.setups] == [{}, {"swapped": 40 << 20}]


def test_bad_options(
    measure: Callable[..., Any], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert measure("--budget", "much").is_user_error("is not a budget")
    (tmp_path / "file").write_text("")
    assert measure("--results", tmp_path / "file").is_user_error("can't be written")
    assert call(command, "unheard-of").is_user_error("no model named")
    stand_in(monkeypatch, tmp_path / "results", controllers="")
    monkeypatch.setattr("tests.evidence.suite.check_available", check_available)
    assert measure().is_user_error("no cgroup memory controller", "or give --no-memory-limit")
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert measure().is_user_error("swapnet-trt[plot]")


def test_bert_is_offloaded_where_that_can_be(
    monkeypatch: pytest.MonkeyPatch, zoo: str, toy: Engine, tmp_path: Path
) -> None:
    import tests.evidence.suite as suite

    monkeypatch.setattr(suite, "state_dict", lambda _: {})
    monkeypatch.setattr(suite, "_OFFLOADED", zoo)
    python = tmp_path / "python"
    asked = suite.Suite((zoo,), (), tmp_path, tmp_path, peers_python=python)
    (tmp_path / zoo).symlink_to(toy.folder)
    assert list(suite._notes(asked, {zoo: "e"})) == ["accelerate: not measured: make peers"]
    subject = suite._Subject(asked, zoo, tmp_path, tmp_path, {})
    monkeypatch.setattr(suite, "current_engine", lambda *_: toy.folder)
    assert subject.key("smallest", "").peers == ("mapped",)
    python.write_text("#!/bin/sh\nmkdir $4\n")
    python.chmod(0o755)
    assert not list(suite._notes(asked, {zoo: "e"}))
    assert subject.key("smallest", "").peers == ("mapped", "offload")
    assert subject.offload.path.is_dir()
    assert not (tmp_path / "weights.npz").exists()
    python.write_text("#!/bin/sh\necho no torch >&2; exit 1\n")
    with pytest.raises(BackendError, match="can't offload"):
        _ = suite._Subject(asked, zoo, tmp_path, tmp_path, {}).offload


@pytest.mark.usefixtures("drawing")
@pytest.mark.xdist_group("kernel memory")
@pytest.mark.slow
def test_a_toy_is_measured(call: Call, zoo: str, tmp_path: Path) -> None:
    folders = ["--results", tmp_path / "results", "--engines", tmp_path / "engines"]
    limit = [] if is_available() else ["--no-memory-limit"]
    ran = call(command, zoo, *folders, "--budget", "smallest", "--rounds", 2, *limit)
    assert ran.status == 0, ran.err
    record = json.loads((tmp_path / "results" / "results.json").read_text())
    plain, ablated = (case["report"] for case in record["cases"])
    assert plain["streamed_bytes"] > 0
    assert plain["max_rel_error"] < 1e-4
    assert "mapped" in plain["peers"]
    assert plain["paired_predicted_ms"] > 0
    assert plain["rounds"] == 2
    variants = ablated["peers"]
    assert set(variants) == {"buffered", "no-resident", "no-cyclic"}
    assert all(v["ratio"] or v["note"] for v in variants.values())
    assert all(v["max_rel_error"] in (0.0, None) for v in variants.values())


@pytest.mark.slow
def test_accelerate_is_tried_without_a_limit_where_it_died(
    monkeypatch: pytest.MonkeyPatch, zoo: str, toy: Engine, tmp_path: Path
) -> None:
    import tests.evidence.suite as suite

    python = tmp_path / "python"
    python.write_text(
        """#!/bin/sh
read request; echo '{"ready": true}'
while read line; do
    if [ "$line" = '{"type":"Details"}' ]; then echo '{"resident_peak_bytes": 1}'
    else echo '{"timings": [{"latency_ms": 5.0}, {"latency_ms": 6.0}, {"latency_ms": 7.0}]}'; fi
done
"""
    )
    python.chmod(0o755)
    (tmp_path / zoo).symlink_to(toy.folder)
    monkeypatch.setattr(suite, "current_engine", lambda *_: toy.folder)
    subject = suite._Subject(
        suite.Suite((zoo,), (), tmp_path, tmp_path), zoo, tmp_path, toy.folder, {}
    )
    other = Other(tmp_path, "offload", program=Program("tests.evidence.offload", python))
    monkeypatch.setitem(vars(subject), "offload", other)
    killed = a_report(peers={"offload": a_peer(None, note="it was killed", fixed_bytes=1)})
    told = subject._with_unlimited(killed).peers["offload"].note
    assert told.startswith("it was killed; without a limit it takes 6 ms and ")
    python.write_text("#!/bin/sh\nexit 1\n")
    told = subject._with_unlimited(killed).peers["offload"].note
    assert told.startswith("it was killed; without a limit: the process of the offload model ended")
    untold = a_report(peers={"offload": a_peer(None, note="no torch")})
    assert subject._with_unlimited(untold) == untold
