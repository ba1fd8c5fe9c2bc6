from __future__ import annotations

import pytest

from swapnet.cli.trtexec.line import parse_line
from swapnet.errors import InputError


def test_values_are_joined_or_follow() -> None:
    line = parse_line(["--onnx=a=b.onnx", "--budget", "64M", "--verbose", "--threads"])
    assert line.values == {
        "--onnx": "a=b.onnx",
        "--budget": "64M",
        "--verbose": "",
        "--threads": "",
    }
    assert line.has("--help", "--verbose")
    assert line.text("--loadEngine") is None


def test_options_that_mean_nothing_are_noticed() -> None:
    line = parse_line(["--useCudaGraph", "--avgTiming=8", "--infStreams=1", "--noTF32"])
    assert line.values == {}
    assert len(line.notices) == 4
    assert line.notices[2] == "--infStreams=1 is as it is anyway"


def test_a_model_beside_an_engine_is_noticed_as_trtexec_ignores_it() -> None:
    line = parse_line(["--onnx=a.onnx", "--loadEngine=engines/a"])
    assert line.values == {"--loadEngine": "engines/a"}
    assert line.notices == ("--onnx changes nothing: --loadEngine names an engine that is built",)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--infStreams=2"], "--infStreams=2 is not for SwapNet", "swapnet scenario run"),
        (["--useDLACore=0"], "not for SwapNet", "leave it out"),
        (["--plugins=a.so"], "not for SwapNet", "--custom-ops"),
        (["--inputIOFormats=fp16:chw"], "not for SwapNet", "types and layout"),
        (["--iteration=3"], "unknown option --iteration", "--iterations?"),
        (["model.onnx"], "'model.onnx' is no option", "--onnx=MODEL.onnx"),
        (["--onnx"], "--onnx needs a value", "--onnx=VALUE"),
        (["--onnx", "--verbose"], "--onnx needs a value", "--onnx=VALUE"),
        (["--verbose", "--verbose"], "--verbose is given twice", "once"),
        (["--duration=-1"], "a duration of -1 s is not for SwapNet", "--duration=86400"),
        (["--loadEngine=a", "--saveEngine=b"], "do not go together", "leave one"),
    ],
)
def test_what_can_not_be_done_is_refused(arguments: list[str], message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_line(arguments)
    assert hint in caught.value.hint


def test_numbers_are_read() -> None:
    line = parse_line(["--iterations=3", "--warmUp=0.5"])
    assert line.number("--iterations") == 3
    assert line.number("--warmUp") == 0.5
    assert line.number("--duration") == 3
    for wrong in ("--avgRuns=x", "--duration=x", "--iterations=0", "--atol=nan"):
        with pytest.raises(InputError, match=f"{wrong} is invalid"):
            parse_line([wrong])
