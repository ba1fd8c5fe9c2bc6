"""``swapnet plan``: of an engine, of a model, as a curve."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from swapnet.calibration.delays.worker import Job
from swapnet.errors import BudgetError
from swapnet.executor.device import Device
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import load_manifest, save_manifest
from swapnet.profile import PROFILE, load_profile
from swapnet.units import parse_size
from tests.cli.conftest import Call, Start
from tests.helpers.decoders import concatenating, grouped
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.processes import all_ended, family, interrupt, wait_for_line
from tests.helpers.threads import until


@pytest.fixture
def dynamic(engine: BuildToy, tmp_path: Path) -> Path:
    """A copy of an engine with symbolic shapes."""
    return Path(shutil.copytree(engine("dynamic").folder, tmp_path / "dynamic"))


@pytest.fixture
def model(toy: Engine, tmp_path: Path) -> Path:
    """The model alone, in a folder of its own."""
    (tmp_path / "model").mkdir()
    return Path(shutil.copy(toy.model, tmp_path / "model" / "toy.onnx"))


def test_an_engine_is_measured_once(call: Call, dynamic: Path, jobs: list[Job]) -> None:
    first = call("plan", dynamic, "--threads", 1)
    assert first.status == 0
    assert first.err.count("\n") == 1
    assert "it is not measured yet" in first.err
    assert "/1 threads." in first.out
    assert call("plan", dynamic, "--threads", 1).err == ""
    assert len(jobs) == 1
    assert not load_profile(dynamic, load_manifest(dynamic), Device(1).fingerprint).is_assumed


def test_what_opening_takes_is_said_where_weights_are_packed(
    call: Call, engine: BuildToy, toy: Engine
) -> None:
    packed = engine("packing-bits")
    if not packed.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    assert "for packed weights, at least" in call("plan", packed.folder, "--no-measure").out
    plan, *_ = json.loads(call("plan", packed.folder, "--no-measure", "--json", "-").out)
    stored = sum(
        b.extent.nbytes + b.originals.nbytes for b in packed.manifest.blocks if b.originals
    )
    assert 0.9 * stored <= plan["packing_bytes"] <= stored
    assert 0 < plan["transient_bytes"] < stored
    assert plan["packing_ms"] > 0
    assert "for packed weights" not in call("plan", toy.folder, "--no-measure").out


def test_nothing_is_measured_where_that_is_not_wanted(
    call: Call, dynamic: Path, jobs: list[Job]
) -> None:
    shown = call("plan", dynamic, "--no-measure")
    assert (shown.status, shown.err, jobs) == (0, "", [])
    assert "Delays: assumed." in shown.out
    assert not (dynamic / PROFILE).exists()


@pytest.mark.usefixtures("jobs")
@pytest.mark.slow
def test_other_shapes_have_their_own_demand_and_plan(call: Call, dynamic: Path) -> None:
    def planned(*options: str) -> dict[str, Any]:
        shown = call("plan", dynamic, "--budget", "100%", "--json", "-", *options)
        assert shown.status == 0
        (record,) = json.loads(shown.out)
        return dict(record)

    built, larger = planned(), planned("--shapes", "x:8x64x64")
    assert built["shapes"] == {"x": [3, 7, 64], "mask": [3, 7]}
    assert larger["shapes"] == {"x": [8, 64, 64], "mask": [8, 64]}
    assert larger["weights_bytes"] == built["weights_bytes"]
    for key in ("demand_bytes", "smallest_budget_bytes", "io_bytes", "activation_bytes"):
        assert larger[key] > built[key]
    kept = sorted(path.name for path in (dynamic / "shapes").iterdir())
    assert kept == ["profile-x-8x64x64_mask-8x64.json", "x-8x64x64_mask-8x64.json"]


def test_the_smallest_budget_in_python_is_named_and_works(
    call: Call, toy: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(toy.folder, folder)
    memory = toy.manifest.session_memory
    more = msgspec.structs.replace(memory, process_bytes=memory.own_process_bytes + (1 << 20))
    save_manifest(folder, msgspec.structs.replace(toy.manifest, session_memory=more))
    shown = call("plan", folder, "--no-measure", "--json", "-")
    (record, *_) = json.loads(shown.out)
    in_python = record["smallest_budget_in_python_bytes"]
    assert in_python == record["smallest_budget_bytes"] + (1 << 20)
    text = call("plan", folder, "--no-measure").out
    assert f"in Python at least {in_python} bytes" in " ".join(text.split())
    SwapExecutor(folder, in_python).close()
    with pytest.raises(BudgetError) as caught:
        SwapExecutor(folder, in_python - 1)
    assert caught.value.smallest_bytes == in_python


def test_nothing_resident_is_the_smallest_budget(call: Call, toy: Engine) -> None:
    shown = call("plan", toy.folder, "--no-measure", "--budget", "weights:0%", "--json", "-")
    (record,) = json.loads(shown.out)
    assert record["budget_bytes"] == record["smallest_budget_bytes"]
    with SwapExecutor(toy.folder, "weights:0%") as executor:
        assert executor.plan.budget_bytes == record["smallest_budget_in_python_bytes"]
        assert not any(place.resident for place in executor.plan.places if place.nbytes)


def test_more_than_everything_is_said(call: Call, toy: Engine) -> None:
    common = ("plan", toy.folder, "--no-measure", "--budget")
    assert call(*common, "200%").err.startswith("200% is more than everything: ")
    assert call(*common, "weights:150%").err.count("\n") == 1
    assert call(*common, "100%").err == ""
    assert call("run", toy.folder, "--budget", "101%").err.startswith("101% is more")


def test_mapping_weights_is_warned_of_where_they_are_streamed(call: Call, toy: Engine) -> None:
    common = ("run", toy.folder, "--load-mode", "mmap", "--budget")
    assert "--load-mode mmap reads through the page cache" in call(*common, "weights:70%").err
    assert "mmap" not in call(*common, "100%").err


def test_slower_storage_streams_less_and_takes_longer(call: Call, toy: Engine) -> None:
    def planned(*options: str) -> dict[str, Any]:
        common = ("plan", toy.folder, "--no-measure", "--budget", "weights:60%", "--json", "-")
        (record,) = json.loads(call(*common, *options).out)
        return dict(record)

    own, slow = planned(), planned("--storage", "100KB")
    assert slow["storage_bytes_per_s"] == 100_000 < own["storage_bytes_per_s"]
    least_ms = slow["streamed_bytes"] / 100_000 * 1e3
    assert slow["predicted_ms"] >= least_ms > own["predicted_ms"]
    text = call("plan", toy.folder, "--no-measure", "--storage", "100KB").out
    assert "Storage reads 0.1 MB/s, --storage allows 0.1." in text
    unlimited = call("plan", toy.folder, "--no-measure", "--storage", "900GB").out
    assert "--storage allows 900000." in unlimited


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        ("0MB", "0 bytes per second"),
        ("90", "must be at least 1000"),
        ("-5MB", "a size is a number"),
        ("", "''"),
    ],
)
def test_wrong_storage(call: Call, engine: BuildToy, storage: str, why: str) -> None:
    failed = call("plan", engine("images").folder, "--storage", storage)
    assert failed.is_user_error(f"--storage {storage or repr(storage)} is invalid", why)


@pytest.mark.slow
def test_run_and_inspect_take_shapes(call: Call, dynamic: Path, tmp_path: Path) -> None:
    shapes = ("--shapes", "x:2x9x64")
    ran = call("run", dynamic, "--budget", "100%", *shapes, "--output", tmp_path / "out.npz")
    assert ran.status == 0
    assert "measuring activations at x: 2x9x64, mask: 2x9" in ran.err
    assert f"swapnet measure {dynamic} --dims batch=2,length=9" in ran.err
    (result,) = np.load(tmp_path / "out.npz").values()
    assert result.shape == (2, 9, 64)
    assert "x: 2x9x64, mask: 2x9" in " ".join(call("inspect", dynamic, *shapes).out.split())


def test_larger_inputs_than_planned_for_name_the_option(
    call: Call, dynamic: Path, tmp_path: Path
) -> None:
    feeds: dict[str, Any] = {
        "x": np.zeros((3, 8, 64), np.float32),
        "mask": np.ones((3, 8), np.int64),
    }
    np.savez(tmp_path / "in.npz", **feeds)
    failed = call("run", dynamic, "--budget", "100%", "--input", tmp_path / "in.npz")
    assert failed.is_user_error(
        "larger than planned for", "--dims batch=3,length=8, or SwapExecutor(…, dims=…)"
    )


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ("y:1x2", ("names 'y'", "'x', 'mask'")),
        ("x:1x2", ("gives 'x' 1x2",)),
        ("x:1x2x65", ("gives 'x' 1x2x65", "batchxlengthx64")),
        ("x", ("not a shape",)),
    ],
)
@pytest.mark.parametrize("command", ["plan", "measure", "run", "inspect"])
def test_wrong_shapes(
    call: Call, dynamic: Path, command: str, shapes: str, words: tuple[str, ...]
) -> None:
    budget = ("--budget", "100%") if command == "run" else ()
    assert call(command, dynamic, *budget, "--shapes", shapes).is_user_error(*words)
    assert not (dynamic / "shapes").exists()


def test_a_model_is_planned_and_nothing_stays(call: Call, model: Path, jobs: list[Job]) -> None:
    shown = call("plan", model, "--max-block", "64KiB", "--portable")
    assert shown.status == 0
    assert "demand" in shown.out
    said = re.search(r"The smallest budget is (\d+) bytes \((\S+)\)", shown.out)
    assert said
    assert parse_size(said[2]) >= int(said[1])
    assert f"\n{said[2]} " in shown.out
    assert f"{model}: it is not measured yet" in shown.err
    assert len(jobs) == 1
    assert [path.name for path in model.parent.iterdir()] == ["toy.onnx"]


def test_a_budget_that_is_printed_is_no_smaller(call: Call, dynamic: Path) -> None:
    assert "5.1MiB" in call("plan", dynamic, "--budget", (5 << 20) + 1).out


@pytest.mark.usefixtures("jobs")
@pytest.mark.slow
def test_a_model_is_planned_with_the_options_of_build(call: Call, model: Path, toy: Engine) -> None:
    plans = [
        json.loads(call("plan", model, "--json", "-", "--no-measure", *options).out)
        for options in ((), ("--max-block", toy.toy.max_block))
    ]
    assert [plan[0]["model"] for plan in plans] == ["toy", "toy"]
    few, many = (plan[-1]["resident_blocks"] for plan in plans)
    assert len(many) > len(few)


def test_a_model_that_does_not_fit_says_so(call: Call, model: Path) -> None:
    failed = call("plan", model, "--budget", "4KiB")
    assert failed.is_user_error("does not fit in 4KiB", "the budget allows 4096", "give at least")
    assert [path.name for path in model.parent.iterdir()] == ["toy.onnx"]


def test_no_such_model(call: Call, tmp_path: Path) -> None:
    assert call("plan", tmp_path / "none.onnx").is_user_error("no such file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--max-block", "1MiB"), ("--portable",)])
def test_options_of_a_build_are_not_for_an_engine(
    call: Call, dynamic: Path, option: tuple[str, ...]
) -> None:
    assert call("plan", dynamic, *option).is_user_error(f"{option[0]} is an option of a build")


@pytest.mark.usefixtures("reporting")
@pytest.mark.slow
def test_a_curve_as_page_table_and_json(call: Call, toy: Engine, tmp_path: Path) -> None:
    common = (toy.folder, "--no-measure")
    drawn = call("plan", *common, "--report", tmp_path / "curve.html")
    assert drawn.status == 0
    assert "<h2>Latency over budget</h2>" in (tmp_path / "curve.html").read_text()
    assert "Latency over budget" in call("plan", *common, "--curve").out
    *plans, curve = json.loads(call("plan", *common, "--curve", "--json", "-").out)
    assert {plan["schema"] for plan in plans} == {"swapnet-plan/1"}
    assert curve["schema"] == "swapnet-plan-curve/1"
    budgets = [point["budget_bytes"] for point in curve["points"]]
    own = toy.in_own_process
    assert (budgets[0], budgets[-1]) == (smallest_budget(own)[0], demand(own).total_bytes)
    assert curve["points"][-1]["streamed_bytes"] == 0


def test_a_page_that_can_not_be_written(call: Call, toy: Engine, tmp_path: Path) -> None:
    failed = call("plan", toy.folder, "--no-measure", "--report", tmp_path / "none" / "c.html")
    assert failed.is_user_error("can't be written")


@pytest.mark.slow
def test_an_interrupted_plan_of_a_model_leaves_nothing(
    start: Start, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWAPNET_CACHE", str(tmp_path / "cache"))
    process = start("plan", model)
    wait_for_line(process, "measuring this device")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert [path.name for path in model.parent.iterdir()] == ["toy.onnx"]
    until(lambda: len(family(process.pid)) >= 2)
    started = family(process.pid)
    status, err = interrupt(process)
    assert (status, "Traceback" in err) == (130, False)
    all_ended(started)
    assert not list((tmp_path / "cache").iterdir())


DECODERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "concatenating": concatenating,
    "grouped": grouped,
    "int4": partial(grouped, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", DECODERS)
def test_a_decoder_is_planned_with_no_shapes_given_and_fits_on_a_screen(
    call: Call, tmp_path: Path, form: str
) -> None:
    onnx.save(DECODERS[form](), tmp_path / "decoder.onnx")
    shown = call("plan", tmp_path / "decoder.onnx", "--no-measure")
    assert shown.status == 0
    assert len(shown.out.splitlines()) <= 24
    title = " ".join(shown.out.split())
    assert "input_ids: 1x128" in title
    assert "past_key_values.{0..2}.{key,value}: 1x" in title
    last = shown.out.splitlines()[-1]
    assert last.startswith("Planned for batch_size=1, sequence_length=128, ")
    assert "past_sequence_length=0 (assumed; give --dims batch_size=SIZE,…)." in last


@pytest.mark.slow
def test_dims_plan_an_engine(call: Call, dynamic: Path) -> None:
    shown = call("plan", dynamic, "--no-measure", "--dims", "length=9")
    assert shown.status == 0
    assert "x: 3x9x64, mask: 3x9" in shown.out
    assert shown.out.endswith("Planned for batch=3, length=9.\n")
    (record,) = json.loads(
        call("plan", dynamic, "--no-measure", "--budget", "100%", "--json", "-").out
    )
    assert record["symbols"] == {"batch": 3, "length": 7}


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ("height=2", ("'height'", "'batch', 'length'")),
        ("batch", ("'batch' is not the size", "batch=1,past=511")),
        ("", ("'' is not the size of a symbol",)),
        ("batch=1,batch=2", ("'batch' has two sizes", "1 and 2")),
    ],
)
@pytest.mark.parametrize("command", ["plan", "measure", "run", "bench", "inspect"])
def test_wrong_dims(
    call: Call, dynamic: Path, command: str, dims: str, words: tuple[str, ...]
) -> None:
    budget = ("--budget", "100%") if command in ("run", "bench") else ()
    assert call(command, dynamic, *budget, "--dims", dims).is_user_error(*words)


def test_dims_and_shapes_that_contradict(call: Call, dynamic: Path) -> None:
    failed = call("plan", dynamic, "--dims", "batch=2", "--shapes", "x:3x7x64")
    assert failed.is_user_error("'batch' has two sizes", "3 by --shapes of 'x'", "2 by --dims")


def test_a_build_says_what_it_assumed(call: Call, dynamic: Path, tmp_path: Path) -> None:
    model = load_manifest(dynamic).source.path
    built = call("build", model, "-o", tmp_path / "e", "--no-measure", "--dims", "batch=2")
    assert f"{tmp_path / 'e'}: planned for batch=2; length=128 assumed (give --dims" in built.err
    assert "measured with seeded inputs, mask 1\n" in built.err
