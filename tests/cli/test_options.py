from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.cli.options import named_file, named_files
from tests.cli.conftest import Call
from tests.helpers.zoo import Net


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("x=f.npy", ["x"], ("x", "f.npy")),
        ("x=y=f.npy", ["x=y"], ("x=y", "f.npy")),
        ("x=y=f.npy", ["x", "x=y"], ("x=y", "f.npy")),
        ("x=run=3/f.npy", ["x"], ("x", "run=3/f.npy")),
        ("odd=f.npy", ["x"], ("odd", "f.npy")),
        ("all.npz", ["x"], ("", "all.npz")),
        ("'x=y'=f.bin", ["x"], ("x=y", "f.bin")),
    ],
)
def test_the_longest_name_of_an_input_is_taken(
    text: str, names: list[str], found: tuple[str, str]
) -> None:
    assert named_file(text, names, "=") == (found[0], Path(found[1]))


def test_an_npz_may_have_the_mark_in_its_path(tmp_path: Path) -> None:
    path = tmp_path / "run=3.npz"
    path.touch()
    assert named_file(str(path), ["x"], "=") == ("", path)


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("", ["x"], []),
        ("all.npz", ["x"], [("", "all.npz")]),
        ("all.npz", [], [("", "all.npz")]),
        ("x:f.npy,y:g.npy", ["x", "y"], [("x", "f.npy"), ("y", "g.npy")]),
        ("x:f.npy,odd:g.npy", ["x", "y"], [("x", "f.npy"), ("odd", "g.npy")]),
        ("odd:f.npy,y:g.npy", ["x", "y"], [("odd", "f.npy"), ("y", "g.npy")]),
        ("a,b:f.npy,b:g.npy", ["b", "a,b"], [("a,b", "f.npy"), ("b", "g.npy")]),
        ("scope:0:f.npy", ["scope:0"], [("scope:0", "f.npy")]),
        ("'x:0':f.bin,'y':g.bin", ["x:0", "y"], [("x:0", "f.bin"), ("y", "g.bin")]),
        ("'odd':f.bin,y:g.bin", ["x", "y"], [("odd", "f.bin"), ("y", "g.bin")]),
    ],
)
def test_commas_part_names_and_files(
    text: str, names: list[str], found: list[tuple[str, str]]
) -> None:
    assert list(named_files(text, names)) == [(name, Path(file)) for name, file in found]


def test_a_file_may_have_commas_and_colons(tmp_path: Path) -> None:
    path = tmp_path / "a,b:c.npy"
    path.touch()
    assert list(named_files(f"x:{path},y:g.npy", ["x", "y"])) == [
        ("x", path),
        ("y", Path("g.npy")),
    ]


@pytest.fixture
def strange(call: Call, tmp_path: Path) -> Path:
    """An engine whose inputs have strange names, one of any length and one scalar."""
    net = Net()
    joined = net("Concat", net.input("a,b", (2, "past", 64)), net.input("x=y", (2, 1, 64)), axis=1)
    mean = net("ReduceMean", joined, axes=[1], keepdims=0)
    net.output(net.dense(net("Mul", mean, net.input("s", ())), 64, 64))
    onnx.save_model(net.model(), tmp_path / "strange.onnx")
    engine = tmp_path / "engine"
    sizes = ("--dims", "past=1", "--no-measure")
    built = call("build", tmp_path / "strange.onnx", "-o", engine, *sizes)
    assert built.status == 0
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["a,b:2x0x64", '"a,b":2x8x64', "s:", "x=y:2x1x64,s:"])
def test_empty_dimensions_scalars_and_strange_names_run(
    call: Call, strange: Path, shapes: str
) -> None:
    assert call("run", strange, "--budget", "64MiB", "--shapes", shapes).status == 0


@pytest.mark.slow
def test_inputs_of_strange_names_are_given(call: Call, strange: Path, tmp_path: Path) -> None:
    given = {"a,b": np.ones((2, 1, 64)), "x=y": np.ones((2, 1, 64)), "s": np.array(2)}
    files = {name: tmp_path / f"{number}.npy" for number, name in enumerate(given)}
    for name, array in given.items():
        np.save(files[name], array.astype(np.float32))
    one_by_one = [text for n, f in files.items() for text in ("--input", f"{n}={f}")]
    assert call("run", strange, "--budget", "64MiB", *one_by_one).status == 0
    together = ",".join(f"{name}:{file}" for name, file in files.items())
    quick = ("--duration", "0", "--warmUp", "0", "--iterations", "1")
    ran = call("bench", strange, "--budget", "64MiB", "--load-inputs", together, *quick)
    assert ran.status == 0


def test_titles_of_scalars(call: Call, strange: Path) -> None:
    shown = call("plan", strange, "--no-measure").out
    assert "at a,b: 2x1x64, x=y: 2x1x64, s: scalar: demand" in shown.splitlines()[0]
    failed = call("plan", strange, "--no-measure", "--shapes", "s:1")
    assert failed.is_user_error("--shapes gives 's' 1", "the model takes a scalar")


def test_titles_without_inputs(call: Call, tmp_path: Path) -> None:
    net = Net()
    net.output(net.dense(net("RandomNormal", shape=[2, 64], seed=1.0), 64, 64))
    onnx.save_model(net.model(), tmp_path / "none.onnx")
    shown = call("plan", tmp_path / "none.onnx", "--no-measure")
    assert "none: demand" in shown.out.splitlines()[0]


@pytest.mark.parametrize("command", ["bench", "run"])
def test_threads_without_a_number_have_their_own_hint(call: Call, command: str) -> None:
    failed = call(command, "engine", "--threads", "--budget", "100%")
    assert failed.status == 2
    words = " ".join(failed.err.split())
    assert "'--budget' follows it, not a number. Give compute threads" in words


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "m.onnx", "--budget", "8MiB", "--budget=9MiB"],
        ["models", "run", "minilm", "--budget", "8MiB", "--budget=9MiB"],
    ],
)
def test_a_second_value_of_an_option_that_takes_one_is_refused(
    call: Call, words: list[str]
) -> None:
    assert call(*words).is_user_error("--budget is given 2 times", "give it once")


def test_flags_and_options_of_several_values_may_be_repeated(call: Call) -> None:
    assert call("models", "list", "-q", "-q").status == 0
    shown = call("run", "none", "--budget", "1MiB", "--input", "x=a", "--input", "y=b")
    assert "none is not an engine directory" in shown.err
