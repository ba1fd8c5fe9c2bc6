from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

from swapnet.builder import BACKENDS, BuildOptions, TensorRTOptions, build, build_with
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.convert import PrecisionOptions
from swapnet.errors import (
    BackendUnavailableError,
    InputError,
    ModelError,
    StorageError,
    SwapnetError,
)
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.backends.windows import BITS_SINCE
from swapnet.fingerprint import PORTABLE, cpu_fingerprint
from swapnet.manifest import EXTENT_ALIGNMENT, TENSOR_ALIGNMENT, WEIGHTS, load_manifest
from swapnet.units import align_up, parse_size
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.zoo import Net, mlp


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of 96 KiB, alone in its folder."""
    onnx.save(mlp(), tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_an_engine_is_whole(small_zoo: Engine) -> None:
    manifest = small_zoo.manifest
    assert load_manifest(small_zoo.folder) == manifest
    assert open_source(small_zoo.model).sha256 == manifest.source.sha256
    data = (small_zoo.folder / WEIGHTS).read_bytes()
    assert len(data) == manifest.weights_nbytes
    checked = [(each.extent, each.checksum) for each in manifest.shared]
    checked += [(block.extent, block.checksum) for block in manifest.blocks]
    extents = [extent for extent, _ in checked]
    for extent, checksum in checked:
        assert extent.offset % EXTENT_ALIGNMENT == extent.nbytes % EXTENT_ALIGNMENT == 0
        assert hashlib.sha256(data[extent.offset : extent.end]).hexdigest() == checksum
    ordered = sorted(extents, key=lambda extent: (extent.offset, extent.end))
    assert all(before.end <= after.offset for before, after in pairwise(ordered))
    for block in manifest.blocks:
        assert all(weight.offset % TENSOR_ALIGNMENT == 0 for weight in block.weights)
        if block.is_graph:
            skeleton = (small_zoo.folder / block.file).read_bytes()
            assert hashlib.sha256(skeleton).hexdigest() == block.file_checksum


def test_no_weight_is_stored_twice(small_zoo: Engine) -> None:
    manifest = small_zoo.manifest
    stored = {w.offset: w.nbytes for b in manifest.blocks for w in b.weights}
    stored |= {w.offset: w.nbytes for each in manifest.shared for w in each.weights}
    for lookup in (b.lookup for b in manifest.blocks if b.lookup):
        stored |= {rows.offset: rows.count * lookup.row_nbytes for rows in lookup.rows}
    original = open_source(small_zoo.model).weights_bytes
    assert sum(stored.values()) <= 1.01 * original


def test_blocks_keep_the_limit(small_zoo: Engine) -> None:
    limit = align_up(parse_size(small_zoo.toy.max_block), EXTENT_ALIGNMENT)
    for block in small_zoo.manifest.blocks:
        whole = {"If", "Loop", "Scan", "LSTM", "Conv"}
        if block.is_graph and not block.windows and not whole.intersection(block.operators):
            assert block.extent.nbytes <= limit


@pytest.mark.parametrize(
    ("toy", "shared_bytes"), [("used-twice", 64 * 64 * 4), ("tied-gemm", 0), ("ends", 0)]
)
def test_what_several_blocks_use_is_shared(engine: BuildToy, toy: str, shared_bytes: int) -> None:
    assert sum(each.extent.nbytes for each in engine(toy).manifest.shared) == shared_bytes


def test_tables_are_looked_up(engine: BuildToy) -> None:
    kinds = [block.kind for block in engine("lookups").manifest.blocks]
    assert sorted(kinds) == ["graph"] * (len(kinds) - 2) + ["lookup"] * 2
    assert [block.kind for block in engine("only-lookup").manifest.blocks] == ["lookup"]


def test_says_what_it_was_compiled_for(engine: BuildToy) -> None:
    compiled = engine("images").manifest.compiled
    assert (compiled.backend, compiled.version) == ("onnxruntime", version())
    assert compiled.fingerprint == cpu_fingerprint()
    assert engine("images-portable").manifest.compiled.fingerprint == PORTABLE


@pytest.mark.slow
def test_the_same_model_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(model, tmp_path / name, max_block="16KiB")
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert first.keys() == second.keys()
    assert {n for n in first if first[n] != second[n]} <= {"manifest.json"}


def test_tells_how_far_it_is(model: Path, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []

    def note(stage: str, done: int, total: int) -> None:
        stages.append((stage, done, total))

    manifest = build(model, tmp_path / "engine", max_block=16 << 10, progress=note)
    count = len(manifest.blocks)
    assert [stage for stage, _, _ in stages] == [
        *("read", "optimise", "shapes", *("compile",) * count, "measure")
    ]
    assert [done for stage, done, _ in stages if stage == "compile"] == list(range(count))


def test_blocks_are_chosen_by_the_model(model: Path, tmp_path: Path) -> None:
    assert build(model, tmp_path / "engine").max_block_bytes == 256 << 10


def test_wrong_options_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="'abacus'"):
        build(model, tmp_path / "engine", backend="abacus")
    with pytest.raises(InputError, match="too small"):
        build(model, tmp_path / "engine", max_block=4095)
    with pytest.raises(InputError, match="not a size"):
        build(model, tmp_path / "engine", max_block="large")
    with pytest.raises(InputError, match="names 'y'"):
        build(model, tmp_path / "engine", shapes={"y": (1,)})
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.slow
def test_options_as_one_value_build_the_same(model: Path, tmp_path: Path) -> None:
    build(model, tmp_path / "a", max_block="16KiB", portable=True)
    build_with(BuildOptions(max_block="16KiB", portable=True), model, tmp_path / "b")
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert {n for n in first if first[n] != second[n]} <= {"manifest.json"}
    assert load_manifest(tmp_path / "b").max_block_bytes == 16 << 10
    assert load_manifest(tmp_path / "b").compiled.fingerprint == PORTABLE


def test_options_are_checked_for_the_backend_that_is_chosen() -> None:
    assert BuildOptions().checked().backend in BACKENDS[1:]
    assert BuildOptions(backend="onnxruntime-cuda").checked().backend == "onnxruntime-cuda"
    with pytest.raises(InputError, match="--portable is not for onnxruntime-cuda"):
        BuildOptions(backend="onnxruntime-cuda", portable=True).checked()
    with pytest.raises(InputError, match="--target is not for onnxruntime"):
        BuildOptions(backend="onnxruntime", tensorrt=TensorRTOptions(targets=("sm86",))).checked()


def test_int4_is_for_one_processor_and_a_recent_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    int4 = BuildOptions(backend="onnxruntime", precision=PrecisionOptions("int4"))
    with pytest.raises(InputError, match="int4 is not for --portable"):
        replace(int4, portable=True).checked()
    building = import_module("swapnet.builder.options")
    for found, works in (("1.23", False), ("1.31", False), (BITS_SINCE, True), ("2.0", True)):
        monkeypatch.setattr(building, "version", partial(str, found))
        if works:
            assert int4.checked() == int4
        else:
            with pytest.raises(BackendUnavailableError, match=f"ONNX Runtime {BITS_SINCE}") as old:
                int4.checked()
            assert found in old.value.why


@pytest.mark.parametrize("last", ["optimise", "shapes", "compile", "measure"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("bad")])
def test_a_stopped_build_leaves_the_old_engine(
    engine: BuildToy, tmp_path: Path, last: str, error: BaseException | type[BaseException]
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        del done, total
        if stage == last:
            raise error

    toy, target = engine("ends"), tmp_path / "engine"
    target.symlink_to(toy.folder)
    before = files(toy.folder)
    with pytest.raises((KeyboardInterrupt, ModelError)):
        build(toy.model, target, progress=stop)
    assert files(toy.folder) == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_refused_model_leaves_nothing(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Quicksort", net.input("x", (2,))))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    with pytest.raises(ModelError, match="Quicksort"):
        build(tmp_path / "toy.onnx", tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_what_is_in_the_way_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="is in the way"):
        build(model, tmp_path / "engine")
    assert files(tmp_path / "engine") == {"thesis.txt": b"mine"}


FULL_DISK = """
import resource, sys, swapnet
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    swapnet.build(sys.argv[1], sys.argv[2], max_block="5KiB")
except swapnet.SwapnetError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["optimised.data", WEIGHTS])
def test_a_full_disk_leaves_the_old_engine(tmp_path: Path, file: str) -> None:
    """Matrices of 4356 bytes take 8192 in extents, so a limit between the sums fails the second."""
    model, target = tmp_path / "toy.onnx", tmp_path / "engine"
    onnx.save(mlp(layers=20, width=33), model)
    limit = 10 << 10 if file == "optimised.data" else 120 << 10
    build(model, target)
    before = files(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(model), str(target), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert child.stderr.startswith("StorageError: ")
    assert "can't be written" in child.stderr
    assert (file in child.stderr) == (file != WEIGHTS)
    assert "Traceback" not in child.stderr
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_table_beyond_two_gigabytes(tmp_path: Path) -> None:
    """It lies in a file with holes; its last row is at an offset that 31 bits don't hold."""
    rows, width = 1_050_000, 512
    net = Net()
    ids = net.input("ids", (2,), TensorProto.INT64)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, width])
    table.raw_data = b"?"
    set_external_data(table, "toy.weights", length=rows * width * 4)
    table.ClearField("raw_data")
    net.weights.append(table)
    net.output(net.dense(net("Gather", "table", ids), width, 8))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    last = np.arange(width, dtype=np.float32)
    with (tmp_path / "toy.weights").open("wb") as file:
        file.seek((rows - 1) * width * 4)
        file.write(last.tobytes())
    manifest = build(tmp_path / "toy.onnx", tmp_path / "engine")
    assert manifest.weights_nbytes > 1 << 31
    with SwapExecutor(tmp_path / "engine", "100%") as executor:
        (output,) = executor({"ids": np.array([rows - 1, -2])}).values()
        assert executor.plan.planned_bytes < 8 << 20
    shutil.rmtree(tmp_path)
    expected = last @ onnx.numpy_helper.to_array(net.weights[-1])
    np.testing.assert_allclose(output.astype(np.float32), [expected, np.zeros(8)], rtol=1e-5)


def test_every_refusal_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    data = mlp().SerializeToString()
    for length in range(0, 2000, 97):
        path.write_bytes(data[:length])
        with pytest.raises(SwapnetError):
            build(path, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_link_to_another_disk_is_followed(engine: BuildToy, tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "engine", tmp_path / "engine"
    real.mkdir(parents=True)
    link.symlink_to(real)
    build(engine("used-twice").model, link)
    assert link.is_symlink()
    assert (real / "manifest.json").is_file()
