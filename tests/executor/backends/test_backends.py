from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from swapnet.errors import BackendError, BackendUnavailableError, EngineError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends import can_run
from swapnet.executor.backends import onnxruntime as backend
from swapnet.executor.backends.onnxruntime import open_on_cpu, session_options, version
from swapnet.executor.device import Device
from swapnet.executor.planning.plan import Step
from swapnet.fingerprint import PORTABLE, cpu_fingerprint, processor_fingerprint
from swapnet.manifest import GPU_BACKENDS, load_manifest, save_manifest, sha256_of
from tests.helpers.engines import BuildToy


@pytest.fixture
def folder(engine: BuildToy, tmp_path: Path) -> Path:
    """An engine that a test may change."""
    return Path(shutil.copytree(engine("used-twice").folder, tmp_path / "engine"))


def compiled(folder: Path, **changes: Any) -> None:
    manifest = load_manifest(folder)
    new = msgspec.structs.replace(manifest.compiled, **changes)
    save_manifest(folder, msgspec.structs.replace(manifest, compiled=new))


def test_another_backend_is_named(folder: Path) -> None:
    compiled(folder, backend="openvino")
    with pytest.raises(BackendUnavailableError, match="was compiled for openvino"):
        SwapExecutor(folder, "100%")


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_gpu_that_is_missing_is_told_before_libraries_are_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    compiled(folder, backend=backend)
    with pytest.raises(BackendUnavailableError, match="no CUDA driver here") as caught:
        SwapExecutor(folder, "100%")
    assert "libcuda.so.1" in caught.value.why
    assert not can_run(backend)


def test_another_processor_is_named(folder: Path) -> None:
    compiled(folder, fingerprint="riscv64+v")
    with pytest.raises(EngineError, match="compiled for another processor") as caught:
        SwapExecutor(folder, "100%")
    assert caught.value.why == f"built for riscv64+v, here is {processor_fingerprint()}"
    assert "--portable" in caught.value.hint


def test_eight_bits_are_for_processors_with_vnni(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = cpu_fingerprint()
    compiled(folder, fingerprint=f"{layout}+vnni")
    monkeypatch.setattr("swapnet.executor.backends.processor_fingerprint", lambda: f"{layout}+vnni")
    SwapExecutor(folder, "100%").close()
    monkeypatch.setattr("swapnet.executor.backends.processor_fingerprint", lambda: layout)
    with pytest.raises(EngineError, match="compiled for another processor") as caught:
        SwapExecutor(folder, "100%")
    assert caught.value.why == (
        f"built for {layout}+vnni, here is {layout}: without VNNI its 8-bit sums would be wrong"
    )


def test_vnni_is_told_only_where_it_is_what_is_missing(folder: Path) -> None:
    compiled(folder, fingerprint=f"{cpu_fingerprint()}+sve")
    with pytest.raises(EngineError, match="compiled for another processor") as caught:
        SwapExecutor(folder, "100%")
    assert "VNNI" not in caught.value.why


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, ""),
        ({"precision": "fp16", "weight_only": True}, " --precision fp16"),
        ({"precision": "int8", "weight_only": True}, " --precision int8 --weight-only"),
        ({"precision": "int8"}, " --precision int8 --calibration {folder}/ranges.json"),
    ],
)
def test_the_hint_keeps_the_precision(folder: Path, fields: dict[str, Any], options: str) -> None:
    compiled(folder, fingerprint="riscv64+v")
    save_manifest(folder, msgspec.structs.replace(load_manifest(folder), **fields))
    with pytest.raises(EngineError) as caught:
        SwapExecutor(folder, "100%")
    expected = f"swapnet build MODEL.onnx -o {folder}{options.format(folder=folder)};"
    assert expected in caught.value.hint


def test_processors_with_vnni_take_engines_of_those_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(folder, fingerprint=cpu_fingerprint())
    monkeypatch.setattr(
        "swapnet.executor.backends.processor_fingerprint", lambda: f"{cpu_fingerprint()}+vnni"
    )
    SwapExecutor(folder, "100%").close()


def test_another_version_is_named(folder: Path) -> None:
    compiled(folder, version="0.9")
    with pytest.raises(EngineError, match="another version of onnxruntime") as caught:
        SwapExecutor(folder, "100%")
    assert caught.value.why == f"built with 0.9, here is {version()}"


def test_a_portable_engine_runs_everywhere(folder: Path) -> None:
    compiled(folder, version="0.9", fingerprint=PORTABLE)
    SwapExecutor(folder, "100%").close()


def test_a_changed_skeleton_is_named(folder: Path) -> None:
    path = folder / "blocks" / "001.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"001.onnx was changed"):
        SwapExecutor(folder, "100%")


def test_a_missing_skeleton_is_named(folder: Path) -> None:
    (folder / "blocks" / "001.onnx").unlink()
    with pytest.raises(EngineError, match=r"001.onnx can't be read") as caught:
        SwapExecutor(folder, "100%")
    assert "No such file" in caught.value.why


def test_a_library_error_is_a_backend_error(folder: Path) -> None:
    """A skeleton that is no model, sealed as if it were."""
    manifest = load_manifest(folder)
    data = b"\x3a\x00"
    (folder / "blocks" / "000.onnx").write_bytes(data)
    first = msgspec.structs.replace(manifest.blocks[0], file_checksum=sha256_of(data))
    save_manifest(folder, msgspec.structs.replace(manifest, blocks=(first, *manifest.blocks[1:])))
    with pytest.raises(BackendError, match="can't be loaded"):
        SwapExecutor(folder, "100%")


def test_no_operator_is_repeated_later_than_it_is_stored(tmp_path: Path) -> None:
    """A value that lives across a cut is an output and an input: two readers of one dequantised."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "kept", "y")]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["kept"], name="dequantise"),
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node("Add", ["positive", "kept"], ["y"], name="add"),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
    ]
    inputs = [helper.make_tensor_value_info("q", TensorProto.UINT8, [4]), values[0]]
    graph = helper.make_graph(nodes, "joined", inputs, values[1:], constants)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = session_options(shared_arena=False)
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph.node
    assert [node.name for node in loaded] == ["dequantise", "relu", "add"]


@pytest.mark.parametrize(
    ("running", "spins", "spin_us"), [("1.32", "1", "20"), ("2.0", "1", "20"), ("1.27", "0", "")]
)
def test_threads_spin_only_where_they_can_be_told_for_how_long(
    monkeypatch: pytest.MonkeyPatch, running: str, spins: str, spin_us: str
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(backend, "version", lambda: running)
    monkeypatch.setattr(backend, "open_session", lambda *given: opened.append(given[2]))
    open_on_cpu(b"", Step(0, 0, 0), Device(2), shared_arena=False)
    (options,) = opened
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
    if spin_us:
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == spin_us
