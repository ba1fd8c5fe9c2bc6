"""``swapnet try``: one line and an exit status for a model that nobody knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.arrays import save_npz
from swapnet.errors import BackendError, BudgetError
from swapnet.executor.bench.bench import Findings, Setup, bench
from swapnet.progress import Progress
from swapnet.units import format_size
from tests.builder.precision.conftest import convolutions
from tests.cli.conftest import Call
from tests.helpers.engines import Engine


@pytest.fixture
def model(toy: Engine, tmp_path: Path) -> Path:
    """The model alone, in a folder of its own."""
    (tmp_path / "model").mkdir()
    return Path(shutil.copy(toy.model, tmp_path / "model" / "toy.onnx"))


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has benchmarks report other numbers than those that were measured."""

    def change(**fields: object) -> None:
        def measured(setup: Setup, *progress: Progress) -> Findings:
            findings = bench(setup, *progress)
            report = msgspec.structs.replace(findings.report, **fields)
            return Findings(**{**vars(findings), "report": report})

        monkeypatch.setattr("swapnet.cli.try_.bench", measured)

    return change


@pytest.mark.slow
def test_a_model_is_tried_in_one_line(call: Call, tmp_path: Path) -> None:
    model = tmp_path / "model" / "toy.onnx"
    model.parent.mkdir()
    onnx.save_model(convolutions(width=256), model)
    ran = call("try", model, "--json", tmp_path / "found.json")
    assert ran.status == 0, ran.err
    assert ran.out.count("\n") == 1
    assert ran.out.startswith(f"toy.onnx {format_size(model.stat().st_size)}: smallest budget ")
    assert ran.out.endswith(": ok\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["schema"] == "swapnet-try/1"
    assert found["line"] == ran.out.strip()
    assert [run["budget"] for run in found["runs"]] == ["smallest", "weights:25%"]
    assert found["runs"][0]["budget_bytes"] == found["smallest_budget_bytes"]
    for run in found["runs"]:
        assert run["report"]["peak_bytes"] <= run["budget_bytes"]
        assert run["report"]["max_rel_error"] < 1e-5
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.slow
def test_inputs_give_shapes_and_values(call: Call, tmp_path: Path) -> None:
    """The sum over a free axis shows what was given."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "free",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor("w", TensorProto.FLOAT, [8, 8], np.eye(8).ravel().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "free.onnx")
    save_npz(tmp_path / "x.npz", {"x": np.ones((5, 8), np.float32)})
    ran = call("try", tmp_path / "free.onnx", "--data", tmp_path / "x.npz", "--json", "-")
    assert ran.status == 0, ran.err
    assert "free.onnx: planned for n=5\n" in ran.err
    found = json.loads(ran.out)
    assert found["shapes"] == {"x": [5, 8]}
    assert "weights:25% is below it" in found["line"]


def test_refused_files_are_user_errors(call: Call, tmp_path: Path) -> None:
    assert call("try", tmp_path / "none.onnx").is_user_error("there is no such file")
    assert call("try", tmp_path).is_user_error("it is a folder")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    assert call("try", tmp_path / "noise.onnx").is_user_error("is not a readable ONNX file")


def test_refused_inputs_are_user_errors(call: Call, model: Path, tmp_path: Path) -> None:
    save_npz(tmp_path / "x.npz", {"other": np.ones(1, np.float32)})
    assert call("try", model, "--data", tmp_path / "x.npz").is_user_error("'other'")


@pytest.mark.slow
def test_a_process_that_is_killed_breaks_a_promise(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Findings:
        raise BudgetError("it was killed by the kernel", why="it went above 12 bytes")

    monkeypatch.setattr("swapnet.cli.try_.bench", killed)
    ran = call("try", model)
    assert ran.status == 1
    assert "but it was killed by the kernel (it went above 12 bytes)" in ran.out
    assert ran.out.endswith(": a promise is broken\n")


@pytest.mark.slow
def test_memory_above_the_budget_breaks_a_promise(
    call: Call, model: Path, changed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen where there is no limit that kills."""
    monkeypatch.setattr("swapnet.cli.try_.is_available", lambda: False)
    changed(peak_bytes=1 << 40, memory_accounting="resident set")
    ran = call("try", model)
    assert ran.status == 1
    assert f"{1 << 40} bytes were taken for a budget of" in ran.out
    assert "measured without a limit (resident set)" in ran.out


@pytest.mark.slow
def test_other_values_break_a_promise(
    call: Call, model: Path, changed: Callable[..., None]
) -> None:
    changed(max_rel_error=0.25)
    ran = call("try", model)
    assert ran.status == 1
    assert (
        "but outputs differ by 2e-01 of the largest; by 0e+00 from ONNX Runtime without" in ran.out
    )


@pytest.mark.slow
def test_random_values_break_no_promise(call: Call, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("RandomNormalLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "random.onnx")
    ran = call("try", tmp_path / "random.onnx")
    assert ran.status == 0, ran.err
    assert "(random values: ONNX Runtime's own differ by " in ran.out


@pytest.mark.slow
def test_what_onnx_runtime_refuses_is_a_user_error(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is nothing to compare with: no promise of ours is broken."""

    def refused(*_: object, **__: object) -> None:
        raise BackendError("the process of the unswapped model ended", why="it refused")

    monkeypatch.setattr("swapnet.cli.try_.Worker", refused)
    assert call("try", model).is_user_error("the process of the unswapped model ended")
