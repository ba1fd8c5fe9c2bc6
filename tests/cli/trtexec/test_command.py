"""``swapnet trtexec``: lines of trtexec from the build to the exports."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from swapnet.budget import Budget
from swapnet.executor.bench.difference import Rule, in_shape, judge
from swapnet.executor.engine import Engine
from swapnet.testing.engine import write_engine
from tests.cli.conftest import Call
from tests.executor.bench.conftest import some_findings
from tests.helpers.trtexec_readers import FIGURES, SINGLE, TIMES_KEYS, figures, number, section
from tests.helpers.zoo import Net


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two dense layers."""
    net = Net()
    net.output(net.dense(net.dense(net.input("x", (2, 64)), 64, 64), 64, 64))
    onnx.save_model(net.model(), tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


def test_the_help_has_all_three_kinds_of_options(call: Call) -> None:
    for arguments in ((), ("--help",), ("-h", "--verbose")):
        shown = call("trtexec", *arguments)
        assert shown.status == 0
        for words in ("Mapped options", "Noticed options", "Refused options", "--loadEngine=…"):
            assert words in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--iteration=3",), "unknown option --iteration"),
        (("--infStreams=2",), "swapnet scenario run"),
        (("--verbose",), "neither --onnx nor --loadEngine"),
        (("--loadEngine=none",), "none is not an engine directory"),
        (("--onnx=none.onnx", "--weightStreamingBudget=1M"), "needs --allowWeightStreaming"),
        (("--onnx=none.onnx", "--backend=odd"), "odd"),
        (("--exportTimes=-", "--exportProfile=-"), "times and profile go to standard output"),
    ],
)
def test_a_wrong_line_fails_in_the_words_of_trtexec(
    call: Call, arguments: tuple[str, ...], words: str
) -> None:
    failed = call("trtexec", *arguments)
    assert failed.status == 2
    assert words in failed.err
    errors = [line for line in failed.err.splitlines() if "[W]" not in line]
    assert all(re.match(r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[E\] ", line) for line in errors)
    if "-" not in "".join(arguments).split("="):
        assert failed.out.startswith("&&&& RUNNING SwapNet.trtexec [SwapNet v")
        assert failed.out.splitlines()[-1].startswith("&&&& FAILED SwapNet.trtexec")


@pytest.fixture
def engine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A simulated engine, and a benchmark of it that takes no time: its output is 1.5."""

    def bench(engine: Engine, budget: Budget, **options: Any) -> None:
        findings = some_findings(engine, budget, options["iterations"])
        names = ("accuracy_algorithm", "accuracy_threshold", "atol", "rtol")
        rule = Rule.of(*map(options.get, names))
        if options.get("references"):
            expected = in_shape(options["references"], findings.outputs)
            judged = judge(findings.outputs, expected, rule or Rule())
            report = msgspec.structs.replace(findings.report, references=judged)
            findings = replace(findings, report=report)
        options["on_findings"](findings)

    monkeypatch.setattr("swapnet.calibration.bench.bench", bench)
    write_engine(tmp_path / "engine", [1 << 20] * 4)
    return tmp_path / "engine"


def test_a_report_has_all_sections_in_order(call: Call, engine_folder: Path) -> None:
    ran = call(
        *("trtexec", f"--loadEngine={engine_folder}", "--budget=7MiB", "--useCudaGraph"),
        *("--iterations=6", "--avgRuns=2", "--verbose", "--dumpProfile", "--dumpLayerInfo"),
        *("--dumpOutput", "--dumpOptimizationProfile"),
    )
    assert ran.status == 0, ran.err
    assert "[W] --useCudaGraph changes nothing" in ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith("&&&& RUNNING SwapNet.trtexec [SwapNet v")
    assert lines[-1].startswith("&&&& PASSED SwapNet.trtexec [SwapNet v")
    found = section(lines, "=== Performance summary ===")
    assert all(len(figures(found[label])) == 7 for label in FIGURES)
    assert all(number(found[label]) > 0 for label in SINGLE)
    assert {"Budget", "Weights", "Bound", "Verdict"} <= set(found)
    assert section(lines, "=== Inference Options ===")["Iterations"] == "6"
    order = [
        *("=== Model Options", "=== System Options", "=== Inference Options"),
        *("=== Reporting Options", "=== Device Information", "Loaded engine with size"),
        *("Layer Information", "Model input x (profile 0)", "Starting inference"),
        *("Timing trace has 6", "=== Trace details", "=== Performance summary"),
        *("=== Explanations", "Output Tensors", "=== Profile ("),
    ]
    places = [next(i for i, line in enumerate(lines) if words in line) for words in order]
    assert places == sorted(places)
    assert sum("Average on 2 runs" in line for line in lines) == 3


def test_one_export_may_go_to_standard_output(call: Call, engine_folder: Path) -> None:
    common = ("trtexec", f"--loadEngine={engine_folder}", "--iterations=3")
    shown = call(*common, "--exportOutput=-")
    assert json.loads(shown.out) == [{"name": "y", "dimensions": "1", "values": [1.5]}]
    names = ("Times", "Profile", "LayerInfo")
    files = {name: engine_folder.parent / f"{name}.json" for name in names}
    ran = call(*common, *(f"--export{name}={path}" for name, path in files.items()))
    assert ran.status == 0, ran.err
    times, (count, *_), layers = (json.loads(path.read_text()) for path in files.values())
    assert count["count"] == len(times) == 3
    assert len(layers["Layers"]) == 4


def test_references_fail_above_the_threshold(call: Call, engine_folder: Path) -> None:
    files = {name: engine_folder.parent / f"{name}.bin" for name in "xy"}
    for file in files.values():
        np.array([2.0]).tofile(file)
    inputs, reference = f"--loadInputs='x':{files['x']}", f"--loadRefOutputs='y':{files['y']}"
    common = ("trtexec", f"--loadEngine={engine_folder}", inputs, reference)
    above = call(*common)
    assert above.status == 1
    assert "Accuracy loss for tensor y (l0): 1.000000 [FAIL: > threshold 0]" in above.out
    assert above.out.splitlines()[-1].startswith("&&&& FAILED")
    below = call(*common, "--accuracyAlgorithm=lInf", "--accuracyThreshold=0.5")
    assert below.status == 0, below.err
    assert "Accuracy loss for tensor y (lInf): 0.500000" in below.out
    files["y"].write_bytes(b"0" * 16)
    assert "it has 16 bytes, the output 1 takes 8" in call(*common).err
    for wrong, words in (
        ((common[0], common[1], reference), "give the inputs too"),
        ((*common, "--threads=x"), "number of compute threads"),
        ((*common, "--accuracyAlgorithm=l9"), "there is no algorithm 'l9'"),
        ((*common, "--accuracyAlgorithm=l1", "--atol=1"), "are not for l1"),
    ):
        failed = call(*wrong)
        assert failed.status == 2
        assert words in failed.err


@pytest.mark.slow
def test_a_line_builds_and_another_measures(call: Call, model: Path, tmp_path: Path) -> None:
    folder, times = tmp_path / "engine", tmp_path / "times.json"
    common = ("trtexec", f"--onnx={model}", "--vc", "--fp16")
    built = call(*common, f"--saveEngine={folder}", "--skipInference")
    assert built.status == 0, built.err
    assert "--vc changes nothing: it is for TensorRT" in built.err
    assert "Engine built in" in built.out
    assert "Skipped inference phase" in built.out
    told = call("trtexec", f"--loadEngine={folder}", "--getPlanVersionOnly")
    assert "Engine was built with onnxruntime" in told.out
    ran = call(
        *("trtexec", f"--loadEngine={folder}", "--budget=weights:0%", f"--exportTimes={times}"),
        *("--iterations=1", "--duration=0", "--warmUp=0", "--threads=1"),
    )
    assert ran.status == 0, ran.err
    assert "Read Time" in section(ran.out.splitlines(), "=== Performance summary ===")
    (row,) = json.loads(times.read_text())
    assert tuple(row) == TIMES_KEYS
    parts = row["h2dMs"] + row["computeMs"] + row["d2hMs"]
    assert 0 < row["computeMs"] < parts <= row["latencyMs"]
