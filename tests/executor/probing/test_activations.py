from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.builder import build
from swapnet.errors import ModelError
from swapnet.executor.planning.usage import usage
from swapnet.executor.probing.activations import Job, Measurement, measure
from swapnet.executor.probing.blocks import ONE_OPERATOR
from swapnet.executor.probing.worker import work
from swapnet.process.failure import Failed, ProcessDied
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.serving import child_runs, served
from tests.helpers.zoo import Net


def test_every_block_is_measured(engine: BuildToy) -> None:
    toy = engine("dynamic")
    measured = measure(toy.folder)
    assert len(measured.activation_bytes) == len(toy.manifest.blocks)
    assert all(nbytes > 0 for nbytes in measured.activation_bytes)
    assert measured.session_memory.scratch_bytes >= max(measured.activation_bytes)


def test_sizes_are_those_of_the_build(engine: BuildToy) -> None:
    toy = engine("dynamic")
    measured = measure(toy.folder)
    tensors = toy.manifest.tensors
    assert measured.nbytes == {n: t.nbytes for n, t in tensors.items() if t.is_symbolic}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dynamic", "computed-indices-dynamic", "lookups"])
def test_other_shapes_measure_as_if_built_for_them(
    engine: BuildToy, tmp_path: Path, name: str
) -> None:
    toy = engine(name)
    shapes = {
        name: tuple(
            size + 4 * isinstance(dim, str)
            for dim, size in zip(tensor.shape, toy.manifest.planned_shapes[name], strict=True)
        )
        for name, tensor in ((t.name, t) for t in toy.manifest.inputs)
    }
    measured = measure(toy.folder, shapes)
    folder = tmp_path / "engine"
    built = build(toy.model, folder, shapes=shapes, max_block=toy.toy.max_block)
    both = {n: built.tensors[n] for n in measured.nbytes.keys() & built.tensors.keys()}
    assert {t.name for t in (*built.inputs, *built.outputs) if t.is_symbolic} <= both.keys()
    assert {n: measured.nbytes[n] for n in both} == {n: t.nbytes for n, t in both.items()}


def test_the_child_answers_or_refuses(engine: BuildToy, tmp_path: Path) -> None:
    shapes = {"x": (2, 3, 64), "mask": (2, 3)}
    status, said = served(work, Job(str(engine("dynamic").folder), shapes))
    assert status == 0
    assert msgspec.json.decode(said, type=Measurement).nbytes["x"] == 4 * 2 * 3 * 64
    status, said = served(work, Job(str(tmp_path)))
    assert status == 2
    assert "is not an engine directory" in msgspec.json.decode(said, type=Failed).what


def test_larger_inputs_take_more(engine: BuildToy, tmp_path: Path) -> None:
    toy: Engine = engine("dynamic")
    larger = build(toy.model, tmp_path / "engine", shapes={"x": (8, 64, 64)})
    assert usage(larger).activation_bytes > 2 * usage(toy.manifest).activation_bytes


def test_a_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Gather", net.weight(1, 64), net.input("ids", (3,), TensorProto.INT64)))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    with pytest.raises(ModelError, match="do not run on seeded inputs") as caught:
        build(tmp_path / "toy.onnx", tmp_path / "engine")
    assert "indices element out of data bounds" in caught.value.why
    assert "--shapes" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11 (Segmentation fault)"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("raise SystemExit(2)", "ended with status 2"),
    ],
)
def test_a_failing_child_is_not_blamed_on_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    child_runs(monkeypatch, f"import sys; sys.stdin.readline(); {code}")
    with pytest.raises(ModelError, match="can't be measured") as caught:
        measure(tmp_path)
    assert why in caught.value.why
    assert "--shapes" not in caught.value.hint


def test_a_killed_child_is_left_to_who_knows_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_runs(monkeypatch, "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)")
    with pytest.raises(ProcessDied, match="measures blocks was killed by signal 9") as caught:
        measure(tmp_path)
    assert caught.value.was_killed
    assert caught.value.why == "likely out of memory"


def test_a_damaged_engine_is_named(engine: BuildToy, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(engine("dynamic").folder, folder)
    (folder / "blocks" / "000.onnx").write_bytes(np.zeros(9).tobytes())
    with pytest.raises(ModelError, match="was changed after it was written"):
        measure(folder)


def test_the_model_that_warms_up_is_one_operator() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "one", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model == onnx.load_model_from_string(ONE_OPERATOR)
