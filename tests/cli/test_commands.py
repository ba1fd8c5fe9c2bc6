"""Commands on good input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swapnet.arrays import load_npz, save_npz
from swapnet.builder import options
from swapnet.errors import BackendUnavailableError
from swapnet.executor.planning.planner import smallest_budget
from swapnet.manifest import load_manifest
from tests.cli.conftest import Call
from tests.helpers.engines import Engine, build_toy
from tests.helpers.gpu import BuildGpu
from tests.helpers.traces import check_format, slices_of

COMMANDS = (
    *("accuracy", "bench", "build", "doctor", "inspect"),
    *("measure", "models", "plan", "quantize", "run", "scenario", "verify"),
)


def test_help_names_every_command(call: Call) -> None:
    shown = call("--help").out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_a_misspelt_command_names_the_one_that_was_meant(call: Call) -> None:
    assert "No such command 'benhc'. Did you mean 'bench'?" in call("benhc").err
    assert "Did you mean" not in call("xyzzy").err


def test_a_missing_library_is_said_before_the_model_is_read(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(backend: str) -> None:
        raise BackendUnavailableError(f"{backend} can't be loaded")

    monkeypatch.setattr(options, "load_tensorrt", load)
    ran = call("build", "none.onnx", "--backend", "tensorrt")
    assert ran.is_user_error("tensorrt can't be loaded")
    assert call("build", "none.onnx", "--backend", "openvino").is_user_error("there is no backend")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(call: Call, name: str) -> None:
    assert "Usage: swapnet" in call(name, "--help").out


@pytest.mark.slow
def test_build_plan_inspect_verify(call: Call, toy: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    built = call("build", toy.model, "-o", folder, "--max-block", "64KiB")
    assert built.status == 0
    assert "measure" in built.err
    assert f"{len(load_manifest(folder).blocks)} blocks" in built.err
    assert "of memory" in built.err
    assert (folder / "profile.json").exists()
    assert "The smallest budget is" in call("plan", folder).out
    assert "Conv" in call("inspect", folder).out
    assert json.loads(call("inspect", folder, "--json", "-").out)["schema"] == "swapnet-engine/4"
    assert "as they were written" in call("verify", folder).out
    assert "MB/s" in call("measure", folder, "--threads", 1).out


def test_portable_engines_say_so(call: Call, toy: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "portable"
    assert call("build", toy.model, "-o", folder, "--portable", "--no-measure").status == 0
    assert load_manifest(folder).compiled.fingerprint == "portable"
    assert not (folder / "profile.json").exists()


@pytest.mark.slow
def test_plan_as_json_keeps_the_budget(call: Call, toy: Engine) -> None:
    (plan,) = json.loads(call("plan", toy.folder, "--budget", toy.smallest, "--json", "-").out)
    assert plan["schema"] == "swapnet-plan/1"
    assert plan["planned_bytes"] <= plan["budget_bytes"] == toy.smallest


def test_run_with_files_equals_the_original(call: Call, toy: Engine, tmp_path: Path) -> None:
    feeds = toy.feeds()
    pairs = []
    for name, array in feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
        pairs += ["--input", f"{name}={tmp_path / name}.npy"]
    output = tmp_path / "out.npz"
    ran = call("run", toy.folder, "--budget", "weights:50%", *pairs, "--output", output)
    assert ran.status == 0
    assert "streamed" in ran.out
    for name, expected in toy.original(feeds).items():
        found: Any = load_npz(output)[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_run_takes_one_npz_and_makes_its_own_inputs(
    call: Call, toy: Engine, tmp_path: Path
) -> None:
    save_npz(tmp_path / "in.npz", toy.feeds())
    given = call("run", toy.folder, "--budget", "100%", "--input", tmp_path / "in.npz")
    made = call("run", toy.folder, "--budget", "100%", "--verify")
    assert given.status == made.status == 0


SCHEMA_KEYS = frozenset(
    [
        "model",
        "backend",
        "budget_bytes",
        "demand_bytes",
        "weights_bytes",
        "resident_bytes",
        "ring_bytes",
        "activation_bytes",
        "staging_bytes",
        "peak_bytes",
        "fixed_bytes",
        "streamed_bytes",
        "storage_bytes_per_s",
        "latency_ms",
        "throughput_qps",
        "unswapped_ms",
        "ratio_to_unswapped",
        "bound_ms",
        "ratio_to_bound",
        "floor_ms",
        "ratio_to_floor",
        "contended_bound_ms",
        "ratio_to_contended_bound",
        "predicted_ms",
        "overlap_fraction",
        "stall_ms",
        "max_abs_error",
        "max_rel_error",
        "verdict",
        "command",
        "machine",
    ]
)


@pytest.mark.slow
def test_bench_gives_every_key_and_exports(call: Call, toy: Engine, tmp_path: Path) -> None:
    smallest, _ = smallest_budget(toy.in_own_process)
    exports = {name: tmp_path / f"{name}.json" for name in ("times", "profile", "trace")}
    ran = call(
        "bench",
        toy.folder,
        "--budget",
        smallest,
        "--compare",
        "--mapped",
        "--json",
        "-",
        "--iterations=5",
        "--duration=0",
        "--warmUp=0",
        "--idleTime=1",
        "--percentile=50,99",
        f"--exportTimes={exports['times']}",
        f"--exportProfile={exports['profile']}",
        f"--export-trace={exports['trace']}",
    )
    assert ran.status == 0
    report = json.loads(ran.out)
    assert report["schema"] == "swapnet-bench/3"
    assert not [key for key in SCHEMA_KEYS if report[key] is None]
    assert set(report["latency_ms"]) == {
        *("min", "mean", "median", "p90", "p95", "p99", "max", "cv_percent")
    }
    assert set(report["percentiles_ms"]) == {"50", "99"}
    assert report["max_rel_error"] < 1e-4
    assert report["peers"]["mapped"]["latency_ms"]["median"] > 0
    plan = json.loads(call("plan", toy.folder, "--budget", smallest, "--json", "-").out)[0]
    assert report["streamed_bytes"] == plan["streamed_bytes"] > 0
    assert report["idle_ms_between"] >= 1
    assert 0 < report["opening"]["sessions_ms"] <= report["opening"]["open_ms"]
    assert report["opening"]["first_ms"] > 0
    assert 5 <= report["iterations"] == report["rounds"] <= 10
    assert report["warm_up_inferences"] == 2
    assert report["engine_bytes"] > report["weights_bytes"]
    assert report["advice"]["predicted_stall"] >= 0
    times = json.loads(exports["times"].read_text())
    assert len(times) == report["iterations"]
    assert all(t["endD2hMs"] - t["startH2dMs"] == pytest.approx(t["latencyMs"]) for t in times)
    steps = json.loads(exports["profile"].read_text())
    assert steps[0]["count"] == len(times)
    assert sum(step["percentage"] for step in steps[1:]) == pytest.approx(100)
    events = json.loads(exports["trace"].read_text())["traceEvents"]
    read = sum(e["args"]["nbytes"] for e in slices_of(events, "read"))
    assert read > 0


@pytest.mark.slow
def test_bench_when_everything_fits(call: Call, toy: Engine, tmp_path: Path) -> None:
    few = ("--iterations", 5, "--duration", 0, "--warm-up", 0)
    trace = tmp_path / "trace.json"
    shown = call("bench", toy.folder, "--budget", "100%", *few, "--export-trace", trace).out
    assert "=== Performance summary ===" in shown
    assert "Verdict: not swapped" in shown
    file = json.loads(trace.read_text())
    check_format(file)
    assert slices_of(file["traceEvents"], "step")
    assert not slices_of(file["traceEvents"], "read")


@pytest.mark.slow
def test_models_list_and_get(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "resnet101" in call("models", "list").out
    monkeypatch.setenv("SWAPNET_CACHE", str(tmp_path))
    got = json.loads(call("models", "get", "resnet101", "--json").out)
    assert set(got) == {"name", "onnx", "example", "data", "licence", "sha256"}
    assert Path(got["onnx"]).exists()
    assert "licence:" in call("models", "get", "resnet101").out


def test_smallest_budget_of_a_plan_runs(call: Call, toy: Engine) -> None:
    smallest, _ = smallest_budget(toy.manifest)
    assert call("run", toy.folder, "--budget", smallest).status == 0


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, toy: Engine, tmp_path: Path
) -> None:
    from swapnet.builder import build
    from swapnet.cli.console import progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    seen: list[str] = []
    with progress("mine") as report:

        def watch(stage: str, done: int, total: int) -> None:
            seen.append(stage)
            report(stage, done, total)

        build(toy.model, tmp_path / "engine", progress=watch)
    assert list(dict.fromkeys(seen)) == ["read", "optimise", "shapes", "compile", "measure"]


@pytest.mark.slow
def test_bench_at_other_shapes(call: Call, tmp_path: Path) -> None:
    dynamic = build_toy("dynamic", tmp_path)
    planned = dynamic.manifest.planned_shapes
    given = ",".join(
        f"{tensor.name}:"
        + "x".join(
            str(2 * dim if isinstance(declared, str) else dim)
            for declared, dim in zip(tensor.shape, planned[tensor.name], strict=True)
        )
        for tensor in dynamic.manifest.inputs
    )
    common = ("bench", dynamic.folder, "--budget", "100%", "--iterations", 3, "--duration", 0)
    ran = call(*common, "--no-measure", "--compare", "--shapes", given, "--json", "-")
    assert ran.status == 0, ran.err
    larger, built = json.loads(ran.out), json.loads(call(*common, "--json", "-").out)
    assert larger["max_rel_error"] < 1e-4
    assert larger["activation_bytes"] > built["activation_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "bench", "measure"])
def test_engines_of_a_gpu_say_that_there_is_none(
    call: Call, gpu_engine: BuildGpu, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name} is not here")

    monkeypatch.setattr("ctypes.CDLL", missing)
    folder = gpu_engine("used-twice")
    budget = () if command == "measure" else ("--budget", "100%", "--no-measure")
    options = budget[:2] if command == "run" else budget
    failed = call(command, folder, *options)
    assert failed.is_user_error("no CUDA driver here", "libcuda.so.1")


@pytest.mark.slow
def test_engines_of_a_gpu_are_planned_and_verified_without_one(
    call: Call, gpu_engine: BuildGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("engine", "verify"):
        monkeypatch.setattr(f"swapnet.cli.{module}.can_run", lambda _: False)
    folder = gpu_engine("images-sliced")
    planned = call("plan", folder)
    assert planned.status == 0
    assert (
        "onnxruntime-cuda can't run here (swapnet doctor says why), so delays are assumed"
        in planned.err
    )
    assert "as they were written" in call("verify", folder).out
    limited = call("bench", folder, "--budget", "100%", "--memory-limit")
    assert limited.is_user_error("--memory-limit is not for onnxruntime-cuda")
