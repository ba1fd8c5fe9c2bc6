"""Commands on bad input: one clear message, status 2, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.arrays import save_npz
from swapnet.errors import StorageError
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import load_manifest, save_manifest
from tests.cli.conftest import Call
from tests.helpers.engines import Engine
from tests.helpers.zoo import mlp


def test_no_such_model(call: Call, tmp_path: Path) -> None:
    assert call("build", tmp_path / "none.onnx").is_user_error("none.onnx", "no such file")


def test_not_a_model(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    failed = call("build", path, "-o", tmp_path / "engine")
    assert failed.is_user_error("not a readable ONNX file", "3000 bytes")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noise.onnx"]


def test_truncated_model_leaves_the_old_engine(call: Call, toy: Engine, copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    path = copy.parent / "cut.onnx"
    path.write_bytes(toy.model.read_bytes()[:-2000])
    assert call("build", path, "-o", copy).status == 2
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert sorted(p.name for p in copy.parent.iterdir()) == ["cut.onnx", "engine"]


def test_unsupported_operator(call: Call, tmp_path: Path) -> None:
    model = mlp(layers=2)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "odd.onnx")
    failed = call("build", tmp_path / "odd.onnx", "-o", tmp_path / "engine")
    assert failed.is_user_error("Frobnicate")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backend", "abacus"), ("abacus", "onnxruntime")),
        (("--max-block", "huge"), ("huge", "not a size")),
        (("--max-block", "16B"), ("16 bytes", "4096")),
        (("--shapes", "nonsense"), ("nonsense", "images:1x3x640x640")),
        (("--shapes", "other:1x2"), ("other", "the model takes")),
    ],
)
def test_build_options(
    call: Call, toy: Engine, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    failed = call("build", toy.model, "-o", tmp_path / "engine", *arguments)
    assert failed.is_user_error(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("plenty", ("'plenty' is not a budget", "weights:25%")),
        ("0MiB", ("above 0",)),
        ("4KiB", ("does not fit", "4096", "give at least")),
        ("100000GiB", ("more than this machine has",)),
    ],
)
@pytest.mark.parametrize("command", ["run", "bench"])
def test_budgets(
    call: Call, toy: Engine, command: str, budget: str, words: tuple[str, ...]
) -> None:
    assert call(command, toy.folder, "--budget", budget).is_user_error(*words)


def test_the_error_of_a_plan_comes_before_anything_is_measured(call: Call, copy: Path) -> None:
    (copy / "profile.json").unlink(missing_ok=True)
    assert call("plan", copy, "--budget", "4KiB").is_user_error("does not fit", "4096")
    assert not (copy / "profile.json").exists()


def test_a_budget_too_small_says_what_sets_the_smallest(call: Call, toy: Engine) -> None:
    smallest, _ = smallest_budget(toy.in_own_process)
    failed = call("plan", toy.folder, "--budget", smallest - 1, "--no-measure")
    assert failed.is_user_error(str(smallest), str(smallest - 1), "block")


def test_unknown_input(call: Call, toy: Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    failed = call("run", toy.folder, "--budget", "100%", "--input", f"odd={tmp_path / 'x.npy'}")
    assert failed.is_user_error("unknown input 'odd'")


@pytest.mark.parametrize("change", ["dtype", "shape"])
def test_wrong_tensor(call: Call, toy: Engine, tmp_path: Path, change: str) -> None:
    ((name, array),) = toy.feeds().items()
    wrong = array.astype(np.float64) if change == "dtype" else array[..., :-1]
    np.save(tmp_path / "x.npy", wrong)
    failed = call("run", toy.folder, "--budget", "100%", "--input", f"{name}={tmp_path / 'x.npy'}")
    assert failed.is_user_error("wrong", "the model takes")


@pytest.mark.parametrize("command", ["run", "bench"])
def test_an_npz_of_nothing_is_not_replaced_by_seeded_inputs(
    call: Call, toy: Engine, tmp_path: Path, command: str
) -> None:
    np.savez(tmp_path / "empty.npz")
    option = {"run": "--input", "bench": "--load-inputs"}[command]
    failed = call(command, toy.folder, "--budget", "100%", option, tmp_path / "empty.npz")
    assert failed.is_user_error("is missing", "the model takes")
    assert call(command, toy.folder, "--budget", "100%", option, "").status == 2


def test_an_input_given_twice(call: Call, toy: Engine, tmp_path: Path) -> None:
    ((name, array),) = toy.feeds().items()
    np.save(tmp_path / "a.npy", array)
    save_npz(tmp_path / "all.npz", {name: array})
    files = (f"{name}={tmp_path / 'a.npy'}", str(tmp_path / "all.npz"))
    for first, second in ((0, 0), (0, 1), (1, 0), (1, 1)):
        given = ("--input", files[first], "--input", files[second])
        failed = call("run", toy.folder, "--budget", "100%", *given)
        assert failed.is_user_error(f"input {name!r} is given twice", "once")
    pairs = f"{name}:{tmp_path / 'a.npy'},{name}:{tmp_path / 'a.npy'}"
    failed = call("bench", toy.folder, "--budget", "100%", "--load-inputs", pairs)
    assert failed.is_user_error(f"input {name!r} is given twice")


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_unreadable_arrays(call: Call, toy: Engine, tmp_path: Path, content: bytes) -> None:
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(content)
    for given in (f"x={tmp_path / 'x.npy'}", tmp_path / "x.npz"):
        failed = call("run", toy.folder, "--budget", "100%", "--input", given)
        assert failed.is_user_error("can't be read")


@pytest.mark.parametrize("command", ["inspect", "verify", "measure", "plan"])
def test_missing_engine(call: Call, tmp_path: Path, command: str) -> None:
    assert call(command, tmp_path / "none").is_user_error("not an engine directory", "build")


def test_one_changed_byte(call: Call, copy: Path) -> None:
    path = copy / "weights.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert call("verify", copy).is_user_error("changed")
    assert call("run", copy, "--budget", "100%", "--verify").is_user_error("changed")


def test_truncated_weights(call: Call, copy: Path) -> None:
    path = copy / "weights.bin"
    path.write_bytes(path.read_bytes()[:-4096])
    assert call("run", copy, "--budget", "100%").is_user_error("damaged")


def test_newer_format(call: Call, copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"swapnet-engine/4", b"swapnet-engine/9"))
    failed = call("run", copy, "--budget", "100%")
    assert failed.is_user_error("swapnet-engine/9", "swapnet-engine/4")


def test_another_processor(call: Call, copy: Path) -> None:
    import msgspec

    manifest = load_manifest(copy)
    other = msgspec.structs.replace(manifest.compiled, fingerprint="riscv64")
    save_manifest(copy, msgspec.structs.replace(manifest, compiled=other))
    assert call("run", copy, "--budget", "100%").is_user_error("riscv64", "--portable")


def test_percentiles(call: Call, toy: Engine) -> None:
    failed = call("bench", toy.folder, "--budget", "100%", "--percentile", "many")
    assert failed.is_user_error("'many' is not a list of percentiles")


def test_comparing_with_another_model(call: Call, toy: Engine, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "other.onnx")
    failed = call(
        "bench", toy.folder, "--budget", "100%", "--compare", "--model", tmp_path / "other.onnx"
    )
    assert failed.is_user_error("not what the engine was built from", "SHA-256")


def test_unknown_zoo_model(call: Call) -> None:
    assert call("models", "get", "alexnet").is_user_error("alexnet", "resnet101")


def test_unknown_option_and_command(call: Call) -> None:
    assert call("bench", "--frobnicate").status == 2
    assert call("frobnicate").status == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--budget", "100%", "--output"),
        ("plan", "--json"),
        ("bench", "--budget", "100%", "--json"),
        ("bench", "--budget", "100%", "--export-trace"),
    ],
)
def test_results_that_can_not_be_written(
    call: Call, toy: Engine, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command, *options = arguments
    failed = call(command, toy.folder, *options, tmp_path / "none" / "file")
    assert failed.is_user_error("can't be written")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--budget", "100%", "--output"),
        ("plan", "--no-measure", "--json"),
        ("quantize", "--precision", "fp16", "-o"),
    ],
)
def test_results_go_through_links_and_into_devices(
    call: Call, toy: Engine, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command, *options = arguments
    link, target, null = tmp_path / "link", tmp_path / "target", tmp_path / "null"
    link.symlink_to(target)
    null.symlink_to("/dev/null")
    given = toy.model if command == "quantize" else toy.folder
    for place in (link, null):
        assert call(command, given, *options, place).status == 0
        assert place.is_symlink()
    assert target.stat().st_size
    assert Path("/dev/null").is_char_device()


def test_arrays_given_the_wrong_way(call: Call, toy: Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    np.savez(tmp_path / "x.npz", x=np.zeros(3, np.float32))
    for given, words in ((tmp_path / "x.npy", "NAME=FILE"), (f"x={tmp_path / 'x.npz'}", "several")):
        failed = call("run", toy.folder, "--budget", "100%", "--input", given)
        assert failed.is_user_error(words)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build MODEL", "plan m.onnx", "doctor"])
def test_a_working_folder_that_is_gone(toy: Engine, tmp_path: Path, command: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    arguments = [str(toy.model) if part == "MODEL" else part for part in command.split()]
    calling = "import os, sys; os.rmdir(os.getcwd()); from swapnet.cli import main; main()"
    child = subprocess.run(
        [sys.executable, "-c", calling, *arguments],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert "Traceback" not in child.stderr
    assert child.stderr.count("swapnet: error:") == 1


def test_a_circle_of_links_as_output(call: Call, toy: Engine, tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    assert call("build", toy.model, "-o", circle).is_user_error("is in the way")
    failed = call("quantize", toy.model, "--precision", "fp16", "-o", circle)
    assert failed.is_user_error("can't be written")
    assert circle.is_symlink()


@pytest.mark.slow
def test_a_full_disk_during_build(toy: Engine, tmp_path: Path) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from swapnet.cli import main; main(sys.argv[1:])"
    )
    child = subprocess.run(
        [sys.executable, "-c", limited, "build", toy.model, "-o", tmp_path / "engine"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert "can't be written" in child.stderr
    assert "Traceback" not in child.stderr
    assert not list(tmp_path.iterdir())


def test_a_read_error_while_running(
    call: Call, toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_into(*_: object) -> None:
        raise StorageError("cable", why="the cable is loose")

    monkeypatch.setattr(WeightFile, "read_into", read_into)
    failed = call("run", toy.folder, "--budget", toy.smallest)
    assert failed.is_user_error("block", "could not be read", "the cable is loose")
