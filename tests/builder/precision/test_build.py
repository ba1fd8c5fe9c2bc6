"""Engines in lower precision: what is stored, that swapping changes nothing, what is refused."""

from __future__ import annotations

from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import swapnet
from swapnet.errors import InputError
from swapnet.executor.device import Device
from swapnet.executor.planning.planner import smallest_budget
from swapnet.fingerprint import PORTABLE
from swapnet.manifest import WEIGHTS, Manifest, Weight, load_manifest
from swapnet.ranges import RangeCache, load_ranges, save_ranges
from tests.builder.precision.conftest import (
    convolutions,
    feeds_of,
    noise_db,
    ranges_by_running,
    run,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _int8_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built does not depend on how fast this machine is at the moment."""
    building = import_module("swapnet.builder.stages")
    monkeypatch.setattr(building, "slower_in_int8", lambda *_, **__: frozenset[str]())


ONE_THREAD = Device(threads=1)
MODEL = convolutions(width=128)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "toy.onnx"
    onnx.save_model(MODEL, path)
    return path


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RangeCache:
    from swapnet.builder.importing.source import open_source
    from swapnet.builder.precision.normalise import normalise

    source = normalise(open_source(model), tmp_path_factory.mktemp("normal"))
    return ranges_by_running(source, *(feeds_of(MODEL, seed) for seed in range(4)))


def _run(folder: Path, budget: str | int) -> dict[str, NDArray[Any]]:
    with swapnet.SwapExecutor(folder, budget=budget, device=ONE_THREAD) as executor:
        return executor(feeds_of(MODEL, 7))


@pytest.mark.parametrize(
    ("options", "narrower", "least_db"),
    [
        ({"precision": "fp16"}, 1.9, 55),
        ({"precision": "int8", "weight_only": True}, 3.7, 35),
        ({"precision": "int8"}, 3.7, 22),
    ],
    ids=["fp16", "int8 weights", "int8"],
)
@pytest.mark.parametrize("portable", [False, True], ids=["hardware", "portable"])
def test_fewer_bytes_and_the_same_at_every_budget(
    model: Path,
    cache: RangeCache,
    tmp_path: Path,
    options: dict[str, object],
    narrower: float,
    least_db: float,
    portable: bool,
) -> None:
    given = dict(options)
    if given == {"precision": "int8"}:
        given["calibration"] = cache
    manifest = swapnet.build(
        model,
        tmp_path / "e",
        max_block=128 << 10,
        portable=portable,
        **given,  # type: ignore[arg-type]
    )
    whole = swapnet.build(model, tmp_path / "fp32", max_block=128 << 10, portable=portable)
    assert _stored(whole) > narrower * _stored(manifest)
    assert (manifest.precision, whole.precision) == (options["precision"], "fp32")
    assert manifest.weight_only == (options != {"precision": "int8"})
    unswapped = _run(tmp_path / "e", "100%")
    smallest, _ = smallest_budget(manifest)
    for budget in (smallest, smallest + (32 << 10)):
        for name, swapped in _run(tmp_path / "e", budget).items():
            np.testing.assert_array_equal(swapped, unswapped[name])
    reference = run(model, feeds_of(MODEL, 7))
    assert noise_db(reference, unswapped) > least_db


def _stored(manifest: Manifest) -> int:
    """Bytes of weights, without what rounds extents up."""
    stored = [*(each.weights for each in manifest.shared), *(b.weights for b in manifest.blocks)]
    return sum(weight.nbytes for weights in stored for weight in weights)


def test_records_what_it_was_built_in(model: Path, cache: RangeCache, tmp_path: Path) -> None:
    save_ranges(tmp_path / "ranges.json", cache)
    swapnet.build(model, tmp_path / "e", precision="int8", calibration=tmp_path / "ranges.json")
    assert load_manifest(tmp_path / "e").precision == "int8"
    assert load_ranges(tmp_path / "e" / "ranges.json") == cache
    swapnet.build(model, tmp_path / "fp32")
    assert b"precision" not in (tmp_path / "fp32" / "manifest.json").read_bytes()
    assert not (tmp_path / "fp32" / "ranges.json").exists()


@pytest.mark.parametrize(
    ("saturates", "portable", "expected", "largest"),
    [
        (False, False, "here+vnni", 127),
        (True, False, "here", 63),
        (False, True, PORTABLE, 63),
        (True, True, PORTABLE, 63),
    ],
)
def test_eight_bits_are_for_processors_that_add_them_up(
    model: Path,
    cache: RangeCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saturates: bool,
    portable: bool,
    expected: str,
    largest: int,
) -> None:
    monkeypatch.setattr("swapnet.builder.precision.convert.int8_saturates", lambda: saturates)
    monkeypatch.setattr("swapnet.builder.compilers.onnxruntime.cpu_fingerprint", lambda: "here")
    monkeypatch.setattr(
        "swapnet.builder.compilers.onnxruntime.processor_fingerprint", lambda: "here+vnni"
    )
    manifest = swapnet.build(
        model, tmp_path / "e", precision="int8", calibration=cache, portable=portable
    )
    assert manifest.compiled.fingerprint == expected
    stored = (tmp_path / "e" / WEIGHTS).read_bytes()
    found = [
        np.frombuffer(stored, np.int8, w.nbytes, w.offset)
        for w in _weights(manifest)
        if w.dtype == "int8" and len(w.shape) > 1
    ]
    assert {int(np.abs(weight.astype(int)).max()) for weight in found} == {largest}
    whole = swapnet.build(model, tmp_path / "whole", precision="int8", weight_only=True)
    assert whole.compiled.fingerprint == "here"


def test_excluded_weights_stay_as_they_are(model: Path, tmp_path: Path) -> None:
    name = next(n.name for n in MODEL.graph.node if n.op_type == "Gemm")
    whole = swapnet.build(model, tmp_path / "all", precision="fp16")
    kept = swapnet.build(model, tmp_path / "kept", precision="fp16", exclude=[name])
    assert _stored(kept) > _stored(whole)
    assert any(w.dtype == "float32" and w.shape in ((136, 128), (128, 136)) for w in _weights(kept))


def test_excluded_convolutions_are_not_quantised_between_others(
    model: Path, cache: RangeCache, tmp_path: Path
) -> None:
    second = [n.name for n in MODEL.graph.node if n.op_type == "Conv"][1]
    manifest = swapnet.build(
        model, tmp_path / "e", precision="int8", calibration=cache, exclude=[second]
    )
    kept = [w for w in _weights(manifest) if w.dtype == "float32"]
    assert sum(prod(weight.shape) for weight in kept) == 128 * 128 * 3 * 3


def _weights(manifest: Manifest) -> list[Weight]:
    return [w for block in manifest.blocks for w in block.weights]


def test_a_failed_build_leaves_the_old_engine(
    model: Path, cache: RangeCache, tmp_path: Path
) -> None:
    folder = tmp_path / "e"
    swapnet.build(model, folder)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    other = msgspec.structs.replace(cache, model_sha256="0" * 64)
    with pytest.raises(InputError, match="another model"):
        swapnet.build(model, folder, precision="int8", calibration=other)
    with pytest.raises(InputError, match="needs the ranges"):
        swapnet.build(model, folder, precision="int8")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize(
    ("options", "narrower"),
    [
        ({"precision": "fp16"}, 1.9),
        ({"precision": "int8"}, 3.7),
        ({"precision": "int8", "weight_only": True}, 3.7),
    ],
    ids=["fp16", "int8", "int8 weights"],
)
@pytest.mark.parametrize("weights", ["external", "embedded"])
def test_tensorrt_rtx_builds_them(
    model: Path,
    cache: RangeCache,
    tmp_path: Path,
    options: dict[str, object],
    narrower: float,
    weights: str,
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    given = dict(options)
    if given == {"precision": "int8"}:
        given["calibration"] = cache
    manifest = swapnet.build(
        model,
        tmp_path / "e",
        backend="tensorrt-rtx",
        weights=weights,
        **given,  # type: ignore[arg-type]
    )
    if weights == "external":
        whole = swapnet.build(model, tmp_path / "f", backend="tensorrt-rtx", weights=weights)
        assert _stored(whole) > narrower * _stored(manifest)
    assert all(block.weight_style == weights for block in manifest.blocks)
