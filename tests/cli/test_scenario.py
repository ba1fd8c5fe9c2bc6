"""``swapnet scenario``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swapnet import models
from swapnet.arrays import save_npz
from swapnet.errors import BudgetError
from swapnet.executor.samples import save_samples
from swapnet.executor.scenario.experiment import Outcome
from swapnet.executor.scenario.experiment_options import ExperimentOptions
from swapnet.executor.scenario.report import Phase, Report
from swapnet.models import ZooFiles
from swapnet.process.cgroup import is_available
from tests.cli.conftest import Call
from tests.executor.scenario.conftest import MIB, a_line, a_report
from tests.helpers.engines import BuildToy
from tests.helpers.traces import check_format, slices_of


@pytest.fixture
def device(engine: BuildToy, tmp_path: Path) -> Path:
    """A scenario of two toys that are asked ten times a second and more."""
    entries = [
        f"[[models]]\nname = '{name}'\nengine = '{engine(name).folder}'\nrate_per_s = {rate}\n"
        for name, rate in (("images", 10), ("wide-opset-21", 20))
    ]
    path = tmp_path / "device.toml"
    path.write_text("title = 'Two toys'\n" + "\n".join([*entries, "priority = 3", ""]))
    return path


class Experiment:
    """Gives a report without measuring, or fails."""

    def __init__(self) -> None:
        self.options: list[ExperimentOptions] = []
        self.report = a_report()
        self.error: BaseException | None = None

    def __call__(self, options: ExperimentOptions, _: object) -> Any:
        self.options.append(options)
        if self.error is not None:
            raise self.error
        return Outcome(self.report, ())


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Nothing is measured."""
    fake = Experiment()
    monkeypatch.setattr("swapnet.cli.scenario.run.experiment", fake)
    monkeypatch.setattr("swapnet.cli.scenario.parts.with_delays", lambda engine, *_, **__: engine)
    return fake


def run(call: Call, device: object, *arguments: object) -> Any:
    return call("scenario", "run", device, "--threads", 1, "--budget", "weights:50%", *arguments)


def test_scenarios_are_listed(call: Call) -> None:
    shown = call("scenario", "list")
    assert shown.status == 0
    assert "self_driving" in shown.out


@pytest.mark.slow
def test_what_is_asked_is_measured(call: Call, device: Path, experiment: Experiment) -> None:
    ran = run(
        call,
        device,
        *("--compare", "whole-model,unlimited", "--compare", "equal", "--speed", 2, "--seed", 7),
        *("--requests", 10, "--rounds", 3, "--lanes", 2, "--budget-steps", "0.5:90%"),
        *("--storage", "400MB", "--rates", " wide-opset-21 = 0.5,"),
    )
    assert ran.status == 0, ran.err
    (options,) = experiment.options
    assert options.device.pace is not None
    assert options.device.pace.bytes_per_s == 400e6
    assert options.name == "device"
    assert options.others == ("equal", "whole-model")
    assert [part.entry.rate_per_s for part in options.parts] == [20.0, 1.0]
    assert [part.count for part in options.parts] == [3, 3]
    assert (options.requests, options.rounds, options.seed, options.lanes) == (10, 3, 7, 2)
    assert [step.share for step in options.steps] == [0.5]
    assert (options.device.threads, options.memory_limit) == (1, False)


@pytest.mark.slow
def test_storage_must_read_something(call: Call, device: Path, experiment: Experiment) -> None:
    refused = run(call, device, "--storage", "0")
    assert refused.status == 2
    assert "--storage 0 is invalid" in refused.err
    assert experiment.options == []


@pytest.mark.parametrize(
    "text", ["images", "images=", "=1", "images=no", "images=0", "images=inf", "images=nan"]
)
def test_rates_are_numbers_above_0(
    call: Call, device: Path, experiment: Experiment, text: str
) -> None:
    refused = run(call, device, "--rates", f"wide-opset-21=2,{text}")
    assert refused.status == 2
    assert f"{text!r} is not a rate" in refused.err
    assert experiment.options == []


def test_a_dnn_has_one_rate(call: Call, device: Path, experiment: Experiment) -> None:
    refused = run(call, device, "--rates", "images=1", "--rates", "images=2")
    assert refused.is_user_error("gives two rates to one DNN", "2 rates of 1 DNNs")
    assert experiment.options == []


@pytest.mark.parametrize("speed", ["0", "nan", "inf"])
def test_speed_is_a_number(call: Call, device: Path, experiment: Experiment, speed: str) -> None:
    assert run(call, device, "--speed", speed).status == 2
    assert experiment.options == []


def test_rates_are_of_dnns_of_the_scenario(
    call: Call, device: Path, experiment: Experiment
) -> None:
    refused = run(call, device, "--rates", "others=2")
    assert refused.status == 2
    assert "the scenario has no DNN 'others'" in refused.err
    assert experiment.options == []


def test_the_report_is_shown(call: Call, device: Path, experiment: Experiment) -> None:
    experiment.report = a_report(
        models=(a_line(failures=2), a_line("two", latency_ms=None, ratio_to_unlimited=None)),
        errors={"one": "BackendError: gone"},
        phases=(
            Phase(
                budget_bytes=32 * MIB,
                start_s=0.0,
                end_s=4.0,
                rebalance_ms=None,
                requests=9,
                failures=0,
                weighted_latency_ms=120.0,
                unlimited_weighted_latency_ms=None,
            ),
        ),
    )
    shown = run(call, device).out
    for words in (
        "\none ",
        "60MiB above 30MiB of the runtime and 5MiB of the traffic (kernel)",
        "Weighted mean latency: 120.0 ms; storage 1500 MB/s",
        "Equal: 180.0 ms, 1.50 times ours",
        "Whole-model: it does not fit",
        "Unlimited: 96.0 ms, 0.80 times ours",
        "one failed: BackendError: gone",
        "Over time",
    ):
        assert words in shown


def test_json_alone_on_standard_output(call: Call, device: Path, experiment: Experiment) -> None:
    shown = run(call, device, "--json", "-").out
    assert msgspec.json.decode(shown, type=Report) == experiment.report


def test_models_of_the_zoo_are_built(
    call: Call,
    engine: BuildToy,
    experiment: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    toy = engine("images")
    save_npz(tmp_path / "example.npz", toy.feeds())
    save_npz(tmp_path / "data.npz", {name: array[None] for name, array in toy.feeds().items()})
    files = ZooFiles(
        name="resnet18",
        onnx=toy.model,
        example=tmp_path / "example.npz",
        data=tmp_path / "data.npz",
        licence="Apache-2.0",
        sha256=toy.manifest.source.sha256,
    )
    monkeypatch.setattr(models, "get", lambda _, **__: files)
    monkeypatch.setattr("swapnet.cli.scenario.parts.current_engine", lambda *_: toy.folder)
    path = tmp_path / "zoo.toml"
    path.write_text("title='x'\n[[models]]\nname='one'\nmodel='resnet18'\nrate_per_s=1\n")
    assert run(call, path, "--engines", tmp_path / "engines").status == 0
    (part,) = experiment.options[0].parts
    assert (part.engine.folder, part.count) == (toy.folder, 1)


def test_requests_are_of_the_sample_that_an_engine_keeps(
    call: Call, engine: BuildToy, experiment: Experiment, tmp_path: Path
) -> None:
    toy = engine("images")
    folder = Path(shutil.copytree(toy.folder, tmp_path / "toy"))
    kept = toy.feeds(seed=5)
    save_samples(folder, [kept])
    path = tmp_path / "one.toml"
    path.write_text("title='x'\n[[models]]\nname='one'\nengine='toy'\nrate_per_s=1\n")
    assert run(call, path).status == 0
    (part,) = experiment.options[0].parts
    assert part.count == 1
    assert all(np.array_equal(part.samples[name][0], array) for name, array in kept.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--compare", "fair"), ("'fair' is not a way", "proportional")),
        (("--budget-steps", "0.5"), ("'0.5' is not a budget step",)),
        (("--json", "nowhere/report.json"), ("can't be written",)),
    ],
)
def test_bad_options(
    call: Call, device: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert run(call, device, *arguments).is_user_error(*words)


def test_a_bad_budget(call: Call, device: Path) -> None:
    shown = call("scenario", "run", device, "--budget", "lots")
    assert shown.is_user_error("'lots' is not a budget")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model='yolov4'", ("no model named yolov4",)),
        ("engine='none'", ("none is not an engine directory",)),
        ("engine='none'\nspeed=3", ("unknown field `speed`", "models[0]")),
    ],
)
def test_bad_scenarios(call: Call, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f"title='x'\n[[models]]\nname='one'\nrate_per_s=1\n{text}\n")
    assert run(call, path).is_user_error(*words)


def test_a_scenario_that_is_not_there(call: Call) -> None:
    assert run(call, "roundabout").is_user_error("there is no scenario roundabout", "self_driving")


def test_an_impossible_budget(call: Call, device: Path, experiment: Experiment) -> None:
    experiment.error = BudgetError("they do not fit", why="they need 3 bytes", hint="give 3")
    assert run(call, device).is_user_error("they do not fit", "they need 3 bytes")


@pytest.mark.usefixtures("drawing")
@pytest.mark.xdist_group("kernel memory")
@pytest.mark.usefixtures("reporting")
@pytest.mark.slow
def test_two_toys_from_end_to_end(call: Call, device: Path, tmp_path: Path) -> None:
    page, target, trace = (tmp_path / name for name in ("page.html", "report.json", "trace.json"))
    ran = run(
        call,
        device,
        *("--requests", 6, "--rounds", 2, "--compare", "equal,proportional,whole-model"),
        *("--budget-steps", "0.5:99%", "--json", target, "--report", page),
        *("--export-trace", trace, "--trace-inferences", 1),
    )
    assert ran.status == 0, ran.err
    report = json.loads(target.read_text())
    assert report["schema"] == "swapnet-scenario/2"
    assert [line["requests"] for line in report["models"]] == [6, 12]
    for line in report["models"]:
        assert (line["failures"], line["wrong_outputs"]) == (0, 0)
        assert line["bound_ms"] >= min(line["compute_ms"], line["unlimited_ms"]["min"]) > 0
        assert line["ratio_to_unlimited"] > 0
    assert {way: ways["note"] for way, ways in report["ways"].items()} == dict.fromkeys(
        ("ours", "equal", "proportional", "whole_model", "unlimited"), ""
    )
    assert all(ways["failures"] == ways["wrong_outputs"] == 0 for ways in report["ways"].values())
    assert set(report["compare"]) == {"equal", "proportional", "whole_model", "unlimited"}
    assert sum(phase["requests"] for phase in report["phases"]) == 18
    assert report["peak_bytes"] <= report["budget_bytes"]
    assert "<h2>Shares and waiting requests</h2>" in page.read_text()
    file = json.loads(trace.read_text())
    check_format(file)
    names = {e["args"]["name"] for e in file["traceEvents"] if e["name"] == "process_name"}
    assert names == {"images", "wide-opset-21", "scheduler"}
    lanes = {e["args"]["name"] for e in file["traceEvents"] if e["name"] == "thread_name"}
    assert {"serve", "step", "read"} <= lanes
    assert {e["pid"] for e in slices_of(file["traceEvents"], "open")} == {1, 2}
    assert {e["pid"] for e in slices_of(file["traceEvents"], "step")} == {1, 2}
    assert "Whole-model" in ran.out


@pytest.mark.xdist_group("kernel memory")
@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="no permission for cgroups with memory limits")
def test_under_the_kernels_limit(call: Call, device: Path) -> None:
    ran = run(call, device, "--requests", 4, "--rounds", 1, "--memory-limit", "--json", "-")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert report["memory_accounting"] in ("kernel limit", "kernel limit, sampled")
    assert report["peak_bytes"] <= report["budget_bytes"]


@pytest.mark.slow
def test_the_smallest_budget_is_named(
    call: Call, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swapnet.cli.scenario.parts.with_delays", lambda engine, *_, **__: engine)
    failed = call("scenario", "run", device, "--threads", 1, "--budget", "64KiB", "--rounds", 1)
    assert failed.is_user_error("they need", "the budget allows 65536", "give at least")


@pytest.mark.slow
def test_forecast(call: Call, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.cli.scenario.parts.with_delays", lambda engine, *_, **__: engine)
    options = ("--budget", "weights:50%", "--requests", "200", "--storage", "20MB")
    table = call("scenario", "forecast", str(device), *options)
    assert table.status == 0
    assert "latency" in table.out
    assert "unlimited" in table.out
    found = json.loads(call("scenario", "forecast", str(device), *options, "--json", "-").out)
    assert [each["rule"] for each in found] == ["latency", "equal", "proportional", "unlimited"]
    assert all(len(each["latency_ms"]) == 2 for each in found)


def test_forecast_of_nonsense(call: Call, device: Path) -> None:
    result = call("scenario", "forecast", str(device), "--budget", "1MiB", "--storage", "fast")
    assert result.status == 2
    assert "--storage fast is invalid" in result.err


@pytest.mark.parametrize("lanes", ["0", "3", "auto"])
def test_lanes_are_one_or_two(call: Call, device: Path, experiment: Experiment, lanes: str) -> None:
    del experiment
    result = call("scenario", "run", str(device), "--budget", "50%", "--lanes", lanes)
    assert result.status == 2
    assert "--lanes" in result.err
