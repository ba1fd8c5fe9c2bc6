"""Engines of another processor are packed again, from what lies in their folders."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler
from swapnet.builder.repack import repack, work
from swapnet.builder.writing import weights
from swapnet.errors import BackendError, EngineError, InputError, ModelError, StorageError
from swapnet.executor import SwapExecutor, repacking
from swapnet.executor.probing.activations import Measurement
from swapnet.executor.repacking import Job
from swapnet.executor.samples import save_samples
from swapnet.fingerprint import kernel_fingerprint
from swapnet.manifest import MANIFEST, WEIGHTS, Manifest, load_manifest, save_manifest
from swapnet.process.failure import Failed
from tests.helpers.engines import BuildToy, Engine, assert_same, build_toy, poison
from tests.helpers.packed import OTHER_KERNELS, pack_elsewhere
from tests.helpers.serving import served
from tests.helpers.zoo import Net, Toy

PACKING = sys.modules[repack.__module__]

pytestmark = pytest.mark.xdist_group("packing")


def mixed() -> onnx.ModelProto:
    """Products of integers, a table that is looked up and packed, and a coded convolution."""
    net = Net()
    table = net.weight(4096, 96)
    rows = net("Gather", table, net.input("ids", (3,), onnx.TensorProto.INT64))
    wide = net("Reshape", rows, net.constant(np.array([3, 96, 1])))
    wide = net("Conv", wide, net.widened(64, 96, 3), net.weight(64), pads=[1, 1])
    small, scale, zero = net.several("DynamicQuantizeLinear", rows, outputs=3)
    value = net("MatMulInteger", small, net.weight(96, 480, dtype=np.int8), zero)
    value = net("Mul", net("Cast", value, to=onnx.TensorProto.FLOAT), scale)
    value = net("Tanh", net("MatMul", value, net.weight(480, 64)))
    value = net("Add", value, net("Reshape", wide, net.constant(np.array([3, 64]))))
    value = net.dense(value, 64, 96)
    net.output(net("Gemm", value, table, transB=1))
    return net.model()


@pytest.fixture(scope="module", params=["packing-bits", "mixed"])
def built(
    request: pytest.FixtureRequest, engine: BuildToy, tmp_path_factory: pytest.TempPathFactory
) -> Engine:
    if request.param == "mixed":
        toy = build_toy("mixed", tmp_path_factory.mktemp("mixed"), Toy(mixed, max_block="512KiB"))
    else:
        toy = engine(request.param)
    if not toy.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    return toy


@pytest.fixture
def foreign(built: Engine, tmp_path: Path) -> Path:
    """The engine as another processor packed it."""
    folder = Path(shutil.copytree(built.folder, tmp_path / "engine"))
    pack_elsewhere(folder)
    return folder


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure nothing: blocks need what they did."""

    def known(_: object, folder: Path, manifest: Manifest) -> Measurement:
        del folder
        peaks = tuple(block.activation_bytes for block in manifest.blocks)
        return Measurement(peaks, manifest.session_memory, {})

    monkeypatch.setattr(PACKING, "with_memory", lambda manifest, _: manifest)
    monkeypatch.setattr(OnnxRuntimeCompiler, "memory", known)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("unmeasured")
def test_the_engine_is_as_if_it_was_built_here(built: Engine, foreign: Path) -> None:
    save_samples(foreign, [built.feeds()])
    (foreign / "profile.json").write_text("{}")
    repack(foreign)
    assert (foreign / WEIGHTS).read_bytes() == (built.folder / WEIGHTS).read_bytes()
    for block in built.manifest.blocks:
        if block.file:
            assert (foreign / block.file).read_bytes() == (built.folder / block.file).read_bytes()
    assert load_manifest(foreign) == built.manifest
    assert sorted(path.name for path in foreign.iterdir()) == [
        *("blocks", MANIFEST, "samples", WEIGHTS)
    ]


@pytest.mark.usefixtures("unmeasured")
def test_windows_lie_on_whole_pages_of_any_size(
    built: Engine, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (PACKING, weights):
        monkeypatch.setattr(module, "window_alignment", lambda: 1 << 16)
    repack(foreign)
    manifest = load_manifest(foreign)
    assert all(w.offset % (1 << 16) == 0 for block in manifest.blocks for w in block.windows)
    assert manifest.weights_nbytes >= built.manifest.weights_nbytes
    with (
        SwapExecutor(built.folder, "100%") as before,
        SwapExecutor(foreign, "weights:70%", verify=True, before_read=poison) as executor,
    ):
        for _ in range(2):
            assert_same(executor(built.feeds()), before(built.feeds()))


@pytest.mark.usefixtures("unmeasured")
def test_opening_packs_again_and_says_so_once(
    built: Engine,
    foreign: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(module: str, job: Job, *_: object, **__: str) -> None:
        assert module == PACKING.__name__
        repack(Path(job.folder))

    monkeypatch.setattr(repacking, "ask", ask)
    with SwapExecutor(built.folder, "100%") as here, SwapExecutor(foreign, "100%") as executor:
        assert_same(executor(built.feeds()), here(built.feeds()))
        assert executor.manifest.compiled.kernels == kernel_fingerprint()
    (said,) = [r.getMessage() for r in caplog.records if "packing them again" in r.getMessage()]
    assert OTHER_KERNELS in said
    caplog.clear()
    with SwapExecutor(foreign, "100%"):
        assert "packing" not in caplog.text


@pytest.mark.slow
def test_a_process_of_its_own_packs(engine: BuildToy, tmp_path: Path) -> None:
    toy = engine("packing-bits")
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    if not toy.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    pack_elsewhere(folder)
    with SwapExecutor(toy.folder, "100%") as here, SwapExecutor(folder, "100%") as executor:
        assert_same(executor(toy.feeds()), here(toy.feeds()))
    assert load_manifest(folder).blocks[0].extent == toy.manifest.blocks[0].extent
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_what_fails_is_said_and_the_engine_opened_as_it_is(
    foreign: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise StorageError("no space", why="1 byte is free")

    monkeypatch.setattr(repacking, "ask", ask)
    with pytest.raises(BackendError, match="can't be loaded"):
        SwapExecutor(foreign, "100%")
    assert "not packed again: no space: 1 byte is free" in caplog.text


def test_a_folder_that_can_not_be_written_is_opened_as_it_is(
    foreign: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(foreign)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BackendError, match="can't be loaded") as caught:
        SwapExecutor(foreign, "100%")
    assert "swapnet repack" in caught.value.hint
    assert "the folder can't be written" in caplog.text
    assert snapshot(foreign) == before


def test_damaged_originals_are_not_packed(built: Engine, foreign: Path) -> None:
    originals = next(b.originals for b in built.manifest.blocks if b.originals is not None)
    data = bytearray((foreign / WEIGHTS).read_bytes())
    data[originals.offset] ^= 1
    (foreign / WEIGHTS).write_bytes(data)
    with pytest.raises(EngineError, match="were changed"):
        repack(foreign)


@pytest.mark.parametrize("stage", ["pack", "measure"])
@pytest.mark.usefixtures("unmeasured")
def test_the_engine_stays_where_packing_ends_early(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = snapshot(foreign)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PACKING, "pack" if stage == "pack" else "with_memory", fail)
    _, told = served(work, Job(str(foreign)))
    failed = msgspec.json.decode(told.splitlines()[-1], type=Failed)
    assert failed.error == StorageError.__name__
    assert snapshot(foreign) == before
    assert [path.name for path in foreign.parent.iterdir()] == ["engine"]


@pytest.mark.usefixtures("unmeasured")
def test_the_child_answers_once(foreign: Path) -> None:
    status, told = served(work, Job(str(foreign)))
    assert (status, msgspec.json.decode(told)) == (0, None)
    assert load_manifest(foreign).compiled.kernels == kernel_fingerprint()


@pytest.mark.usefixtures("unmeasured")
def test_an_engine_of_another_layout_is_packed_where_no_operator_has_it(foreign: Path) -> None:
    manifest = load_manifest(foreign)
    compiled = msgspec.structs.replace(manifest.compiled, fingerprint="x86_64+avx")
    machine = kernel_fingerprint().split("+")[0]
    if machine != "x86_64":
        pytest.skip("not on this processor")
    save_manifest(foreign, msgspec.structs.replace(manifest, compiled=compiled))
    is_bound = any(b"nchwc" in (foreign / b.file).read_bytes() for b in manifest.blocks if b.file)
    if not is_bound:
        found = repack(foreign).compiled
        assert found.fingerprint != "x86_64+avx"
    for other in ("aarch64+asimd", "x86_64+avx2+avx+vnni"):
        compiled = msgspec.structs.replace(manifest.compiled, fingerprint=other)
        save_manifest(foreign, msgspec.structs.replace(manifest, compiled=compiled))
        with pytest.raises(EngineError, match="can't be packed again") as caught:
            repack(foreign)
        assert other in caught.value.why


def test_kernels_that_keep_copies_are_refused(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PACKING, "unpacked_copies", lambda *_: ["w0"])
    with pytest.raises(ModelError, match="can't be packed for this processor"):
        repack(foreign)


def test_engines_without_windows_have_nothing_to_pack(engine: BuildToy, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(engine("used-twice").folder, tmp_path / "engine"))
    with pytest.raises(InputError, match="nothing to pack again"):
        repack(folder)
