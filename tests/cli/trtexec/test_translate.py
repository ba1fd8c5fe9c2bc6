from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.budget import Budget, Demand
from swapnet.cli.trtexec.line import parse_line
from swapnet.cli.trtexec.translate import (
    budget_of,
    build_arguments,
    echo_lines,
    for_tensorrt,
    precision_of,
)
from swapnet.errors import InputError

DEMAND = Demand(weights_bytes=1000, other_bytes=300)


@pytest.mark.parametrize(
    ("arguments", "budget"),
    [
        ([], "100%"),
        (["--budget=64M"], "64M"),
        (["--allowWeightStreaming"], "100%"),
        (["--allowWeightStreaming", "--weightStreamingBudget=-2"], "100%"),
        (["--allowWeightStreaming", "--weightStreamingBudget=-1"], "auto"),
        (["--allowWeightStreaming", "--weightStreamingBudget=25%"], "weights:25%"),
        (["--allowWeightStreaming", "--weightStreamingBudget=1K"], "1324"),
    ],
)
def test_streamed_weights_are_a_budget(arguments: list[str], budget: str) -> None:
    assert budget_of(parse_line(arguments), DEMAND) == budget
    Budget.parse(budget)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weightStreamingBudget=25%"], "needs --allowWeightStreaming"),
        (["--budget=1M", "--weightStreamingBudget=1M"], "do not go together"),
        (["--allowWeightStreaming", "--weightStreamingBudget=x"], "is not a size"),
    ],
)
def test_other_budgets_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        budget_of(parse_line(arguments), DEMAND)


@pytest.mark.parametrize(
    ("arguments", "precision"),
    [
        ([], "fp32"),
        (["--fp16"], "fp16"),
        (["--best"], "fp16"),
        (["--best", "--data=x.npz"], "int8"),
        (["--int8", "--fp16"], "int8"),
    ],
)
def test_precision_is_the_lowest_that_was_asked_for(arguments: list[str], precision: str) -> None:
    assert precision_of(parse_line(arguments)) == precision


def test_a_build_has_the_words_of_ours() -> None:
    line = parse_line(
        [
            "--minShapes=x:1x3",
            "--optShapes=x:4x3",
            "--maxShapes=x:8x3",
            "--shapes=x:2x3",
            "--memPoolSize=workspace:512,tacticSharedMem:48K",
            "--hardwareCompatibilityLevel=sameComputeCapability",
            "--vc",
            "--int8",
            "--calib=cache",
        ]
    )
    common = ["m.onnx", "--output", "e", "--precision", "int8"]
    shapes = ["--shapes", "x:8x3"]
    model, folder = Path("m.onnx"), Path("e")
    assert build_arguments(line, model, folder, tensorrt=False) == [
        *common,
        *shapes,
        "--calibration",
        "cache",
    ]
    assert build_arguments(line, model, folder, tensorrt=True) == [
        *common,
        "--version-compatible",
        *shapes,
        "--calibration",
        "cache",
        "--min-shapes",
        "x:1x3",
        "--hardware-compatibility",
        "same-compute-capability",
        "--workspace",
        "512MiB",
    ]
    assert set(for_tensorrt(line)) == {
        *("--minShapes", "--memPoolSize", "--hardwareCompatibilityLevel", "--vc")
    }


def test_pools_need_sizes() -> None:
    line = parse_line(["--memPoolSize=workspace"])
    with pytest.raises(InputError, match="has no size"):
        build_arguments(line, Path("m.onnx"), Path("e"), tensorrt=True)


def test_sections_come_in_the_order_of_trtexec() -> None:
    built = list(echo_lines(parse_line(["--onnx=m.onnx"])))
    assert [text for text in built if text.startswith("===")] == [
        f"=== {name} Options ===" for name in ("Model", "Build", "System", "Inference", "Reporting")
    ]
    loaded = list(echo_lines(parse_line(["--loadEngine=e"])))
    assert "=== Build Options ===" not in loaded
    assert all(":" in text or text.startswith("===") or not text for text in loaded)
    assert {"Onnx: m.onnx", "Vc: Disabled", "Iterations: default"} <= set(built)
