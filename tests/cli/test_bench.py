"""``swapnet bench``: other sides, parts that are switched off, a page."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import onnx
import pytest

from swapnet.builder import build
from swapnet.executor.bench.opening import OpenTimes
from swapnet.executor.device import ThreadPool
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import for_pool
from swapnet.manifest import load_manifest
from tests.builder.precision.conftest import convolutions
from tests.cli.conftest import Call
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.traces import check_format, slices_of
from tests.helpers.zoo import Net

BRIEF = ("--iterations", 3, "--duration", 0, "--warm-up", 0, "--threads", 1, "--no-measure")


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """A small convolutional model."""
    return engine("images")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Convolutions of 2.6 MiB, which float16 halves."""
    path = tmp_path / "toy.onnx"
    onnx.save_model(convolutions(width=256), path)
    return path


def _smallest(folder: Path) -> int:
    return smallest_budget(for_pool(load_manifest(folder), ThreadPool.GLOBAL))[0]


@pytest.mark.slow
def test_another_engine_takes_turns(call: Call, model: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    build(model, whole, max_block="16KiB")
    build(model, half, max_block="16KiB", precision="fp16")
    budget = max(map(_smallest, (whole, half)))
    ran = call("bench", whole, "--budget", budget, *BRIEF, "--against", half, "--json", "-")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert set(report["peers"]) == {"against"}
    against = report["peers"]["against"]
    assert against["note"] == ""
    assert against["latency_ms"]["min"] > 0
    assert against["ratio"] > 0
    assert 0 < against["max_rel_error"] < 1e-2


@pytest.mark.slow
def test_one_that_does_not_fit_is_noted(call: Call, model: Path, tmp_path: Path) -> None:
    fine, coarse = tmp_path / "fine", tmp_path / "coarse"
    build(model, fine, max_block="16KiB")
    build(model, coarse, max_block="64MiB", portable=True)
    budget = _smallest(fine)
    assert _smallest(coarse) > budget
    ran = call("bench", fine, "--budget", budget, *BRIEF, "--against", coarse, "--json", "-")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    against = report["peers"]["against"]
    assert against["ratio"] is None
    assert "budget" in against["note"]
    assert report["latency_ms"]["min"] > 0


def test_an_engine_of_another_model_is_refused(call: Call, engine: BuildToy) -> None:
    toy, other = engine("images"), engine("used-twice")
    hashes = [each.manifest.source.sha256 for each in (toy, other)]
    common = ("bench", toy.folder, "--budget", "100%", *BRIEF, "--against")
    failed = call(*common, other.folder)
    assert failed.is_user_error("are not engines of one model", *hashes)
    assert call(*common, other.folder / "none").is_user_error("is not an engine directory")


@pytest.mark.slow
def test_a_difference_is_judged(call: Call, tmp_path: Path) -> None:
    net = Net()
    noise = net("RandomNormalLike", net.dense(net.input("x", (2, 64)), 64, 64))
    net.output(net.dense(noise, 64, 64))
    onnx.save_model(net.model(), tmp_path / "random.onnx")
    build(tmp_path / "random.onnx", tmp_path / "random")
    common = ("bench", tmp_path / "random", "--budget", "100%", *BRIEF)
    warned = call(*common, "--compare")
    assert warned.status == 0
    assert "Warning: outputs differ by" in warned.out
    assert "random operators" in warned.out
    assert "RandomNormalLike" in warned.out
    above = call(*common, "--tolerance", "1e-5", "--json", "-")
    assert above.status == 1
    assert "the limit is 1e-05" in above.err
    report = json.loads(above.out)
    assert report["difference"]["is_within"] is False
    assert report["difference"]["limit"] == 1e-5
    assert len(report["difference"]["reasons"]) == 1


@pytest.mark.slow
def test_a_difference_within_the_tolerance(call: Call, toy: Engine) -> None:
    ran = call(
        "bench", toy.folder, "--budget", "100%", *BRIEF, "--tolerance", "1e-4", "--json", "-"
    )
    assert (ran.status, ran.err) == (0, "")
    judged = json.loads(ran.out)["difference"]
    losses = judged.pop("losses")
    assert losses
    assert max(losses.values()) <= 1e-4
    assert judged == {
        "limit": 1e-4,
        "is_within": True,
        "reasons": [],
        "algorithm": "relative",
    }


@pytest.mark.slow
def test_lower_precision_is_named_where_it_differs(call: Call, model: Path, tmp_path: Path) -> None:
    build(model, tmp_path / "half", precision="fp16")
    common = ("bench", tmp_path / "half", "--budget", "100%", *BRIEF)
    ran = call(*common, "--tolerance", "1e-9")
    assert ran.status == 1
    assert "the engine was built in fp16" in ran.out


@pytest.mark.slow
def test_storage_is_slowed_down(call: Call, toy: Engine) -> None:
    few = ["--iterations", 1, "--duration", 0, "--warm-up", 0, "--no-measure"]
    common = ("bench", toy.folder, "--budget", toy.smallest, *few, "--storage", "4MB")
    ran = call(*common, "--json", "-")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert report["storage_limit_bytes_per_s"] == 4e6
    assert report["storage_bytes_per_s"] <= 4e6
    assert report["predicted_ms"] >= report["streamed_bytes"] / 4e6 * 1e3 * 0.5
    shown = call(*common, "--rate", 1000, "-v").out
    assert "--storage allows 4" in shown
    assert "at 1000 Hz" in shown
    assert "deadlines missed" in shown
    assert "    Standard deviation over the mean." in shown


def test_mapped_weights_are_not_slowed_down(call: Call, toy: Engine) -> None:
    failed = call("bench", toy.folder, "--budget", "100%", "--storage", "4MB", "--mapped")
    assert failed.is_user_error("--mapped and --storage do not go together")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--accuracy-threshold", 0.1), "there is nothing to compare with"),
        (("--atol", 0.1), "there is nothing to compare with"),
        (("--time-deserialize", "--export-times", "-"), "asked for: times"),
        (("--time-deserialize", "--report", "page.html"), "asked for: report"),
        (("--load-inputs", "x.bin"), "write NAME:"),
    ],
)
def test_what_would_change_nothing_is_refused(
    call: Call,
    toy: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str | float, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.bin").write_bytes(b"1234")
    failed = call("bench", toy.folder, "--budget", "100%", *arguments)
    assert failed.is_user_error(message)


def test_choices_of_a_gpu_are_noticed_on_the_cpu(call: Call, toy: Engine) -> None:
    ran = call("run", toy.folder, "--budget", "100%", "--gpu-memory", "managed")
    assert ran.status == 0
    assert "number and memory of a GPU change nothing" in ran.err


@pytest.mark.slow
def test_the_opening_alone_is_timed(call: Call, toy: Engine) -> None:
    common = ("bench", toy.folder, "--budget", "100%", "--threads", 1)
    ran = call(*common, "--time-deserialize", "--json", "-")
    times = json.loads(ran.out)
    assert ran.status == (0 if times["is_steady"] else 1), ran.err
    assert times["schema"] == "swapnet-open/1"
    assert times["repeated"] == 20
    assert 0 < times["plan_ms"] < times["mean_ms"]
    assert times["read_bytes"] > toy.manifest.weights_nbytes


def test_an_unsteady_opening_fails(
    call: Call, toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = OpenTimes(
        model="toy",
        budget="100%",
        first_ms=30.0,
        mean_ms=10.0,
        plan_ms=2.0,
        repeated=20,
        read_bytes=1 << 20,
        bytes_per_s=1e9,
        is_steady=False,
    )
    monkeypatch.setattr("swapnet.cli.bench.time_opening", lambda *_, **__: times)
    ran = call("bench", toy.folder, "--budget", "100%", "--timeDeserialize")
    assert ran.status == 1
    assert "first 30.00 ms, mean of 20 more 10.00 ms, 2.00 ms of it for the plan" in ran.out
    assert "1MiB read in the rest, 1.000 GB/s" in ran.out
    assert "more than 2 times the mean" in ran.out


def test_what_does_not_go_together_is_refused(call: Call, toy: Engine) -> None:
    common = ("bench", toy.folder, "--budget", "100%", *BRIEF)
    assert call(*common, "--idleTime", 5, "--rate", 9).is_user_error("--idle-time and --rate")
    assert call(*common, "--percentile", "101").is_user_error("is not a list of percentiles")
    assert call(*common, "--percentile", "x").is_user_error("is not a list of percentiles")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--no-resident", "--no-cyclic"])
def test_each_part_can_be_switched_off(call: Call, toy: Engine, option: str) -> None:
    few = ["--iterations", 1, "--duration", 0, "--warm-up", 0, "--json", "-"]
    ran = call("bench", toy.folder, "--budget", "weights:80%", option, "--compare", *few)
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["max_rel_error"] < 1e-4


@pytest.mark.usefixtures("reporting")
@pytest.mark.slow
def test_bench_writes_a_page_and_a_timeline(call: Call, toy: Engine, tmp_path: Path) -> None:
    few = ["--iterations", 3, "--duration", 0, "--warm-up", 0, "--no-measure"]
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    ran = call(
        *("bench", toy.folder, "--budget", _smallest(toy.folder), *few),
        *("--report", page, "--export-trace", trace, "--trace-inferences", 2),
    )
    assert ran.status == 0, ran.err
    text = page.read_text()
    verdict = next(line for line in ran.out.splitlines() if line.startswith("Verdict"))
    assert escape(verdict) in text
    for title in ("Latency over budget", "Timeline", "All figures", "Machine"):
        assert f"<h2>{title}</h2>" in text
    file = json.loads(trace.read_text())
    check_format(file)
    assert file["otherData"]["command"].startswith("swapnet")
    assert file["otherData"]["plan"]["budget_bytes"] == _smallest(toy.folder)
    names = [e["name"] for e in slices_of(file["traceEvents"], "open", "inference")]
    assert names[:2] == ["open", "first inference"]
    assert len(names) == 4
    assert slices_of(file["traceEvents"], "read")
