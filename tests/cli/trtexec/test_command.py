"""``swapnet trtexec``: lines of trtexec from the build to the exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from tests.cli.conftest import Call
from tests.helpers.engines import Engine
from tests.helpers.trtexec_readers import (
    FIGURES,
    PROFILE_KEYS,
    SINGLE,
    TIMES_KEYS,
    figures,
    number,
    section,
)
from tests.helpers.zoo import Net

QUICK = ("--iterations=6", "--duration=0", "--warmUp=0", "--threads=1")


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


@pytest.mark.slow
def test_a_line_builds_and_measures(call: Call, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    built = call(
        "trtexec", f"--onnx={model}", f"--saveEngine={folder}", "--skipInference", "--vc", "--fp16"
    )
    assert built.status == 0, built.err
    assert "Skipped inference phase" in built.out
    assert "--vc changes nothing: it is for TensorRT" in built.err
    assert (folder / "manifest.json").is_file()
    exports = {name: tmp_path / f"{name}.json" for name in ("Times", "Profile", "LayerInfo")}
    ran = call(
        *("trtexec", f"--loadEngine={folder}", "--budget=weights:50%", "--useCudaGraph", *QUICK),
        *(f"--export{name}={path}" for name, path in exports.items()),
        *("--dumpProfile", "--dumpLayerInfo", "--dumpOutput", "--verbose", "--avgRuns=2"),
    )
    assert ran.status == 0, ran.err
    assert "--useCudaGraph changes nothing" in ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith("&&&& RUNNING ")
    assert lines[-1].startswith("&&&& PASSED ")
    found = section(lines, "=== Performance summary ===")
    assert all(len(figures(found[label])) == 7 for label in FIGURES)
    assert all(number(found[label]) > 0 for label in SINGLE)
    assert {"Budget", "Weights", "Bound", "Verdict"} <= set(found)
    assert section(lines, "=== Inference Options ===")["Iterations"] == "6"
    order = [
        *("=== Model Options", "=== System Options", "=== Inference Options"),
        *("=== Reporting Options", "=== Device Information", "Loaded engine with size"),
        *("Layer Information", "Starting inference", "Timing trace has", "=== Trace details"),
        *("=== Performance summary", "=== Explanations", "Output Tensors", "=== Profile ("),
    ]
    places = [next(i for i, line in enumerate(lines) if words in line) for words in order]
    assert places == sorted(places)
    times, (count, *rows), layers = (json.loads(p.read_text()) for p in exports.values())
    assert all(tuple(row) == TIMES_KEYS for row in times)
    assert count["count"] == len(times) >= 6
    assert all(tuple(row) == PROFILE_KEYS for row in rows)
    assert layers["Bindings"][0] == "x"


@pytest.mark.slow
def test_references_fail_above_the_threshold(call: Call, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    build(model, folder)
    np.ones((2, 64), np.float32).tofile(tmp_path / "x.bin")
    common = ("trtexec", f"--loadEngine={folder}", f"--loadInputs='x':{tmp_path / 'x.bin'}", *QUICK)
    shown = call(*common, "--exportOutput=-")
    assert shown.status == 0, shown.err
    ((name, array),) = ((row["name"], row["values"]) for row in json.loads(shown.out))
    values = np.array(array, np.float32)
    values.tofile(tmp_path / "y.bin")
    reference = f"--loadRefOutputs={name}:{tmp_path / 'y.bin'}"
    equal = call(*common, reference)
    assert equal.status == 0, equal.err
    assert f"Accuracy loss for tensor {name} (l0): 0.000000" in equal.out
    (values + 0.5).tofile(tmp_path / "y.bin")
    above = call(*common, reference, "--accuracyAlgorithm=l1", "--accuracyThreshold=0.25")
    assert above.status == 1
    assert "[FAIL: > threshold 0.25]" in above.out
    assert above.out.splitlines()[-1].startswith("&&&& FAILED")
    below = call(*common, reference, "--accuracyAlgorithm=lInf", "--accuracyThreshold=0.75")
    assert below.status == 0, below.err
    (tmp_path / "y.bin").write_bytes(b"1234")
    wrong = call(*common, reference)
    assert wrong.status == 2
    assert "has 4 bytes" in wrong.err
    alone = call("trtexec", f"--loadEngine={folder}", reference, *QUICK)
    assert alone.status == 2
    assert "--loadInputs" in alone.err


@pytest.mark.slow
def test_an_engine_is_opened_over_and_over(call: Call, toy: Engine) -> None:
    timed = call("trtexec", f"--loadEngine={toy.folder}", "--timeDeserialize", "--threads=1")
    assert timed.status in (0, 1), timed.err
    assert "Open: first " in timed.out
    told = call("trtexec", f"--loadEngine={toy.folder}", "--getPlanVersionOnly")
    assert "Engine was built with onnxruntime" in told.out
