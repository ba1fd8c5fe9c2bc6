"""Parts into engine directories, by the real builder of TensorRT-RTX and by a fake of TensorRT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from swapnet.arrays import load_npz
from swapnet.builder import build
from swapnet.builder.compilers.tensorrt import compiler
from swapnet.builder.compilers.tensorrt.engine import compile_engine, compile_in_child
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.errors import BackendUnavailableError, InputError, ModelError
from swapnet.executor.planning.planner import smallest_budget
from swapnet.machine import Gpu
from swapnet.manifest import EXTENT_ALIGNMENT, WEIGHTS, Manifest, load_manifest
from swapnet.tensorrt import version
from tests.helpers import decoders
from tests.helpers.fake_builder import FakeTensorRT, installed
from tests.helpers.serving import child_runs
from tests.helpers.zoo import TOYS, Net, mlp

RTX = "tensorrt-rtx"
LIMIT = "16KiB"
MAGIC = b"vtrt"
"""Plans of TensorRT-RTX begin with it, or nearly."""

Build = Callable[..., Manifest]


@pytest.fixture
def compile_toy(tmp_path: Path) -> Build:
    """Builds a toy with TensorRT-RTX into ``engine``."""
    pytest.importorskip("tensorrt_rtx_bindings")

    def compiled(model: onnx.ModelProto, folder: str = "engine", **options: Any) -> Manifest:
        onnx.save(model, tmp_path / "toy.onnx")
        defaults = {"max_block": LIMIT, "backend": RTX}
        return build(tmp_path / "toy.onnx", tmp_path / folder, **(defaults | options))

    return compiled


def check_plans(folder: Path, manifest: Manifest) -> None:
    """Each plan is where the manifest says, whole, and looks like one."""
    data = (folder / WEIGHTS).read_bytes()
    assert len(data) == manifest.weights_nbytes
    for block in manifest.blocks:
        extent = data[block.extent.offset : block.extent.end]
        assert hashlib.sha256(extent).hexdigest() == block.checksum
        if not block.is_graph:
            continue
        if block.weight_style == "embedded":
            assert (block.file, block.file_checksum, block.weights) == ("", "", ())
            assert 0 <= len(extent) - block.plan_nbytes < EXTENT_ALIGNMENT
            plan = extent[: block.plan_nbytes]
        else:
            assert block.plan_nbytes == 0
            plan = (folder / block.file).read_bytes()
            assert hashlib.sha256(plan).hexdigest() == block.file_checksum
        assert MAGIC in plan[:64]
        assert block.skeleton_bytes > 0
        assert not block.inplace


@pytest.mark.parametrize("style", ["external", "embedded"])
def test_blocks_become_plans(compile_toy: Build, tmp_path: Path, style: str) -> None:
    manifest = compile_toy(mlp(), weights=style)
    assert manifest == load_manifest(tmp_path / "engine")
    assert [block.weight_style for block in manifest.blocks] == [style] * 6
    check_plans(tmp_path / "engine", manifest)
    files = sorted(path.name for path in (tmp_path / "engine").rglob("*") if path.is_file())
    plans = [f"{index:03}.plan" for index in range(6)] if style == "external" else []
    assert files == [*plans, "manifest.json", "weights.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "toy.onnx"]
    compiled = manifest.compiled
    assert (compiled.backend, compiled.version) == (RTX, version(RTX))
    assert compiled.fingerprint == "any"
    assert smallest_budget(manifest)[0] > 0


def test_a_small_budget_keeps_weights_outside(compile_toy: Build) -> None:
    """Its limits of memory are such as the library takes; weights inside would be held twice."""
    manifest = compile_toy(mlp(), max_block=None, smallest_budget="300KiB")
    styles = {block.weight_style for block in manifest.blocks if block.extent.nbytes}
    assert styles == {"external"}


def test_targets_are_in_the_fingerprint(compile_toy: Build) -> None:
    assert compile_toy(mlp(), targets=("sm86", "sm89")).compiled.fingerprint == "sm86+sm89"


def test_shared_weights_are_inputs_in_any_style(compile_toy: Build, tmp_path: Path) -> None:
    manifest = compile_toy(TOYS["used-twice"].make(), weights="embedded")
    assert manifest.shared
    assert {block.weight_style for block in manifest.blocks} == {"embedded", "external"}
    check_plans(tmp_path / "engine", manifest)


def test_looked_up_weights_stay_readable(compile_toy: Build, tmp_path: Path) -> None:
    toy = TOYS["tied-gemm"]
    manifest = compile_toy(toy.make(), weights="embedded", max_block=toy.max_block)
    assert [(b.kind, b.weight_style) for b in manifest.blocks] == [
        ("lookup", "external"),
        ("graph", "external"),
    ]
    check_plans(tmp_path / "engine", manifest)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["external", "embedded"])
@pytest.mark.parametrize(
    "model", [decoders.grouped, partial(decoders.grouped, 4), decoders.concatenating]
)
def test_decoders_are_compiled_for_tokens_and_chunks(
    compile_toy: Build, tmp_path: Path, model: Callable[[], onnx.ModelProto], weights: str
) -> None:
    manifest = compile_toy(decoders.named(model()), max_block=None, weights=weights)
    assert {block.weight_style for block in manifest.blocks if block.weights} <= {weights}
    check_plans(tmp_path / "engine", manifest)
    assert manifest.planned_shapes["input_ids"] == (1, 128)
    assert manifest.planned_shapes["attention_mask"] == (1, 512)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lookups", "loop", "branches", "half", "lstm-sliced", "dynamic"])
def test_toys_are_compiled(compile_toy: Build, tmp_path: Path, name: str) -> None:
    toy = TOYS[name]
    for style in ("auto", "embedded"):
        manifest = compile_toy(
            toy.make(), weights=style, max_block=toy.max_block, shapes=toy.shapes
        )
        check_plans(tmp_path / "engine", manifest)


@pytest.mark.slow
def test_two_builds_are_the_same(compile_toy: Build) -> None:
    for style in ("external", "embedded"):
        one, two = (compile_toy(mlp(), folder, weights=style) for folder in ("a", "b"))
        assert one.blocks == two.blocks


@pytest.mark.slow
def test_a_process_for_each_block_gives_the_same(compile_toy: Build) -> None:
    one = compile_toy(mlp(layers=2), "a", weights="embedded")
    two = compile_toy(mlp(layers=2), "b", weights="embedded", process_per_block=True)
    assert one.blocks == two.blocks


def symbolic() -> onnx.ModelProto:
    net = Net()
    value = net.input("x", ("batch", 3, "height", 16))
    for _ in range(3):
        value = net("Relu", net("Conv", value, net.weight(3, 3, 11, 11), pads=[5] * 4))
    net.output(net("MatMul", value, net.weight(16, 16)))
    return net.model()


@pytest.mark.slow
def test_symbolic_shapes_have_a_profile(
    compile_toy: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles: list[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = []

    def note(job: Job, report: Any) -> int | None:
        profiles.append({n: (p.smallest, p.planned) for n, p in job.profiles.items()})
        return compile_engine(job, report)

    monkeypatch.setattr(compiler, "compile_engine", note)
    compile_toy(symbolic(), shapes={"x": (2, 3, 8, 16)}, max_block="4KiB")
    assert len(profiles) > 1
    assert all(next(iter(p.values())) == ((1, 3, 1, 16), (2, 3, 8, 16)) for p in profiles)
    profiles.clear()
    compile_toy(
        symbolic(),
        shapes={"x": (2, 3, 8, 16)},
        min_shapes={"x": (1, 3, 4, 16)},
        max_block="4KiB",
    )
    assert all(next(iter(p.values())) == ((1, 3, 4, 16), (2, 3, 8, 16)) for p in profiles)


@pytest.mark.parametrize(
    ("shapes", "word"), [({"x": (4, 3, 8, 16)}, "planned for"), ({"y": (1,)}, "--min-shapes names")]
)
def test_smallest_shapes_must_fit(
    compile_toy: Build, shapes: dict[str, tuple[int, ...]], word: str
) -> None:
    with pytest.raises(InputError) as caught:
        compile_toy(symbolic(), shapes={"x": (2, 3, 8, 16)}, min_shapes=shapes)
    assert word in str(caught.value)


@pytest.mark.slow
def test_an_unsupported_operator_is_named(compile_toy: Build, tmp_path: Path) -> None:
    net = Net()
    value = net("Relu", net.dense(net.input("x", (2, 64)), 64, 64))
    net.output(net("NonZero", value))
    for options in ({}, {"process_per_block": True}):
        with pytest.raises(ModelError) as caught:
            compile_toy(net.model(), **options)
        error = caught.value
        assert error.what == "block 0 (MatMul … NonZero) can't be compiled by tensorrt-rtx"
        assert "'nonzero2' (NonZero)" in error.why
        assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_doubles_are_refused(compile_toy: Build) -> None:
    """The parser would take them for floats without a word."""
    net = Net()
    value = net("Cast", net.input("x", (2, 16)), to=onnx.TensorProto.DOUBLE)
    net.output(net("MatMul", value, net.weight(16, 16, dtype="float64")))
    with pytest.raises(ModelError, match="can't be computed by tensorrt-rtx") as caught:
        compile_toy(net.model())
    assert "would take for float32" in caught.value.why


def test_an_input_that_is_a_shape_is_refused(compile_toy: Build) -> None:
    net = Net()
    target = net.input("target", (2,), onnx.TensorProto.INT64)
    net.output(net("Expand", net.weight(1, 64), target))
    with pytest.raises(ModelError, match="'target' can't be bound"):
        compile_toy(net.model(), shapes={"target": (2,)})


def test_what_is_refused_as_an_input_is_embedded(
    compile_toy: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rule, and where the library knows better."""
    tried: list[bool] = []

    def refuse(job: Job, report: Any) -> int | None:
        data = Path(job.model).with_suffix(".data").stat().st_size
        tried.append(data > 0)
        if not data:
            raise ModelError("no", why="it must be a constant")
        return compile_engine(job, report)

    monkeypatch.setattr(compiler, "compile_engine", refuse)
    manifest = compile_toy(mlp(layers=1))
    assert [block.weight_style for block in manifest.blocks] == ["embedded"]
    assert tried == [False, True]
    with pytest.raises(ModelError, match="no"):
        compile_toy(mlp(layers=1), weights="external")


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    """TensorRT 10.3 on a Jetson."""
    monkeypatch.setenv("SWAPNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "first_gpu", lambda: Gpu("Orin (nvgpu)", "sm87"))
    with installed(FakeTensorRT()) as fake:
        yield fake


@pytest.mark.usefixtures("orin")
def test_tensorrt_builds_for_the_gpu_that_is_there(tmp_path: Path) -> None:
    onnx.save(mlp(layers=2), tmp_path / "toy.onnx")

    def fingerprint(**options: Any) -> str:
        manifest = build(
            tmp_path / "toy.onnx",
            tmp_path / "engine",
            backend="tensorrt",
            max_block=LIMIT,
            **options,
        )
        assert all(block.activation_bytes == 4096 for block in manifest.blocks)
        return f"{manifest.compiled.version} {manifest.compiled.fingerprint}"

    assert fingerprint() == "10.3.0 sm87"
    assert fingerprint(hardware_compatibility="ampere+") == "10.3.0 sm80+"
    assert fingerprint(hardware_compatibility="none", smallest_budget="1MiB") == "10.3.0 sm87"
    (cache,) = (tmp_path / "cache" / "timing").iterdir()
    assert cache.name == "10.3.0_Orin_nvgpu_.cache"
    assert cache.read_bytes() == b"times"


def test_workspace_grows_unless_it_was_given(orin: FakeTensorRT, tmp_path: Path) -> None:
    onnx.save(mlp(layers=1), tmp_path / "toy.onnx")
    orin.workspace_bytes = 1 << 30
    build(tmp_path / "toy.onnx", tmp_path / "engine", backend="tensorrt")
    assert [config.pools for config in orin.configs] == [{0: 16 << 20}, {}]
    with pytest.raises(ModelError) as caught:
        build(tmp_path / "toy.onnx", tmp_path / "e", backend="tensorrt", workspace="1MiB")
    assert "--workspace" in caught.value.hint


def test_activations_are_estimated_where_nothing_is_said(
    orin: FakeTensorRT, tmp_path: Path
) -> None:
    orin.activation_line = ""
    onnx.save(mlp(layers=3), tmp_path / "toy.onnx")
    manifest = build(tmp_path / "toy.onnx", tmp_path / "engine", backend="tensorrt", workspace=100)
    (block,) = manifest.blocks
    assert 100 + 2 * 2 * 64 * 4 <= block.activation_bytes <= 100 + 5 * 2 * 64 * 4


def test_tensorrt_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp(layers=1), tmp_path / "toy.onnx")
    monkeypatch.setattr(compiler, "first_gpu", lambda: None)
    with installed(FakeTensorRT()), pytest.raises(BackendUnavailableError) as caught:
        build(tmp_path / "toy.onnx", tmp_path / "engine", backend="tensorrt")
    assert "tensorrt-rtx" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def job(tmp_path: Path) -> Job:
    missing = str(tmp_path / "missing.onnx")
    return Job(RTX, "block 7 (Conv … Relu)", missing, missing, False, {}, None)


@pytest.mark.parametrize(
    ("child", "words"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            ("killed by signal 9", "likely out of memory"),
        ),
        ("import os; os.kill(os.getpid(), 11)", ("killed by signal 11",)),
        ("raise RuntimeError('odd')", ("RuntimeError: odd",)),
        ("raise SystemExit(4)", ("ended with status 4",)),
        ("", ("ended with status 0",)),
        ("sys.stderr.write('x' * 100_000 + chr(10)); sys.exit('full pipes')", ("full pipes",)),
    ],
)
def test_a_child_that_dies_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, words: tuple[str, ...]
) -> None:
    child_runs(monkeypatch, f"import sys; sys.stdin.readline(); {child}")
    with pytest.raises(ModelError, match="block 7") as caught:
        compile_in_child(job(tmp_path), lambda *_: None)
    assert all(word in caught.value.why for word in words)


def test_a_child_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = '{"type":"Reached","stage":"compile","done":1,"total":2}\\n5'
    child_runs(monkeypatch, f"input(); print('{said}')")
    told: list[tuple[str, int, int]] = []
    assert compile_in_child(job(tmp_path), lambda *step: told.append(step)) == 5
    assert told == [("compile", 1, 2)]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_in_child(job(tmp_path), interrupt)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["external", "embedded"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "ppocrv4_rec", "minilm"])
def test_networks_are_compiled(tmp_path: Path, name: str, style: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from swapnet import models

    files = models.get(name)
    shapes = {input_: array.shape for input_, array in load_npz(files.example).items()}
    one, two = (
        build(files.onnx, tmp_path / folder, backend=RTX, weights=style, shapes=shapes)
        for folder in ("a", "b")
    )
    assert [(b.operators, b.inputs, b.outputs, b.weights) for b in one.blocks] == [
        (b.operators, b.inputs, b.outputs, b.weights) for b in two.blocks
    ]
    if not any(tensor.is_symbolic for tensor in one.inputs):
        assert one == two  # TensorRT-RTX 1.7 numbers symbolic dimensions by chance
    check_plans(tmp_path / "a", one)
    assert {block.weight_style for block in one.blocks if block.is_graph} == {style}
