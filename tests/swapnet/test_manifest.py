from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import EngineError
from swapnet.manifest import (
    MANIFEST,
    Block,
    Extent,
    Lookup,
    Manifest,
    Rows,
    Window,
    load_manifest,
    save_manifest,
    sha256_of,
)
from swapnet.testing.engine import write_engine


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_engine(tmp_path, [8192, 100])


def replace_block(manifest: Manifest, **changes: Any) -> Manifest:
    block: Block = msgspec.structs.replace(manifest.blocks[0], **changes)
    return msgspec.structs.replace(manifest, blocks=(block, *manifest.blocks[1:]))


def reseal(folder: Path, **changes: Any) -> None:
    """Change fields of the manifest and give it the right checksum."""
    engine = json.loads((folder / MANIFEST).read_bytes())["engine"] | changes
    body = json.dumps(engine, separators=(",", ":"))
    seal = f'"schema":"{engine["schema"]}","checksum":"{sha256_of(body.encode())}"'
    text = f'{{{seal},"engine":{body}}}'
    (folder / MANIFEST).write_text(text)


def test_what_was_saved_is_loaded(tmp_path: Path, manifest: Manifest) -> None:
    assert load_manifest(tmp_path) == manifest
    (tmp_path / "copy").mkdir()
    save_manifest(tmp_path / "copy", manifest)
    assert (tmp_path / "copy" / MANIFEST).read_bytes() == (tmp_path / MANIFEST).read_bytes()


def test_sums_and_names(manifest: Manifest) -> None:
    assert manifest.swappable_bytes == 8192 + 4096
    assert list(manifest.tensors) == ["x", "v0", "y"]
    assert manifest.blocks[1].extent.end == manifest.weights_nbytes


def test_any_changed_byte_is_found(tmp_path: Path, manifest: Manifest) -> None:
    del manifest
    data = (tmp_path / MANIFEST).read_bytes()
    for position in range(0, len(data) - 1, 17):
        changed = bytearray(data)
        changed[position] ^= 1
        (tmp_path / MANIFEST).write_bytes(changed)
        with pytest.raises(EngineError, match="swapnet build"):
            load_manifest(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 200])
def test_truncation_is_found(tmp_path: Path, manifest: Manifest, length: int) -> None:
    del manifest
    (tmp_path / MANIFEST).write_bytes((tmp_path / MANIFEST).read_bytes()[:length])
    with pytest.raises(EngineError, match="damaged"):
        load_manifest(tmp_path)


def test_a_folder_without_manifest_is_no_engine(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(EngineError, match="is not an engine directory") as caught:
            load_manifest(folder)
        assert "No such file" in caught.value.why


def test_a_newer_format_is_named(tmp_path: Path, manifest: Manifest) -> None:
    del manifest
    reseal(tmp_path, schema="swapnet-engine/5", news=1)
    with pytest.raises(EngineError, match="another format") as caught:
        load_manifest(tmp_path)
    assert "swapnet-engine/5" in caught.value.why
    assert "swapnet-engine/4" in caught.value.why


def test_an_older_format_names_the_command(tmp_path: Path, manifest: Manifest) -> None:
    del manifest
    reseal(tmp_path, schema="swapnet-engine/2")
    with pytest.raises(EngineError, match="another format") as caught:
        load_manifest(tmp_path)
    assert "swapnet build" in caught.value.hint


@pytest.mark.parametrize("changes", [{"blocks": 3}, {"weights_nbytes": -1}, {"unknown": 1}])
def test_wrong_fields_are_damage(
    tmp_path: Path, manifest: Manifest, changes: dict[str, Any]
) -> None:
    del manifest
    reseal(tmp_path, **changes)
    with pytest.raises(EngineError, match="damaged"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("file", ["/etc/passwd", "../other/000.onnx", "blocks/../../x"])
def test_no_path_leaves_the_folder(tmp_path: Path, manifest: Manifest, file: str) -> None:
    save_manifest(tmp_path, replace_block(manifest, file=file))
    with pytest.raises(EngineError, match="outside of the folder"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("extent", [Extent(0, 4096), Extent(4096, 8192), Extent(0, 1 << 20)])
def test_no_weight_leaves_its_extent(tmp_path: Path, manifest: Manifest, extent: Extent) -> None:
    save_manifest(tmp_path, replace_block(manifest, extent=extent))
    with pytest.raises(EngineError, match=r"outside of its extent|the extent of block 0 ends"):
        load_manifest(tmp_path)


def changed(part: str, **changes: Any) -> Callable[[Manifest], Manifest]:
    """Changes the first of ``part``: a tensor, or a weight of the first block."""

    def change(manifest: Manifest) -> Manifest:
        if part == "weights":
            weight = msgspec.structs.replace(manifest.blocks[0].weights[0], **changes)
            return replace_block(manifest, weights=(weight,))
        first, *rest = getattr(manifest, part)
        changed = msgspec.structs.replace(first, **changes)
        return msgspec.structs.replace(manifest, **{part: (changed, *rest)})

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("values", nbytes=0),
        changed("inputs", dtype="string"),
        changed("outputs", shape=(2,)),
        changed("weights", nbytes=4),
        changed("weights", dtype="float32"),
        changed("blocks", index=1),
        changed("blocks", inputs=("nowhere",)),
        changed("blocks", kind="lookup"),
        changed("blocks", windows=(Window("w", 0, 1 << 30),), extent=Extent(0, 0)),
        changed("blocks", windows=(Window("w", 4096, 1),)),
        changed("blocks", windows=(Window("w", 0, 2), Window("w", 0, 2))),
        changed("blocks", originals=Extent(0, 1 << 40)),
        changed("blocks", extent=Extent(8192, 8192, "plain", 4096)),
        *(
            changed("blocks", extent=Extent(8192, 8192, "planes", stored))
            for stored in (0, 64, 8192)
        ),
        changed("blocks", extent={"offset": 0, "nbytes": 8192, "codec": "zip"}),
        changed("blocks", extent=Extent(4096, 4096, "planes", 2048)),
        changed("blocks", weights=(), extent=Extent(8192, 12288, "planes", 8192)),
        changed("blocks", lookup=Lookup("float32", (2,), 8, (Rows(1000, 8192),)), kind="lookup"),
        changed("blocks", lookup=Lookup("float32", (2,), 9, (Rows(1, 0),)), kind="lookup"),
        lambda manifest: msgspec.structs.replace(manifest, planned_shapes={}),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tmp_path: Path, manifest: Manifest, change: Callable[[Manifest], Manifest]
) -> None:
    save_manifest(tmp_path, change(manifest))
    with pytest.raises(EngineError, match="is damaged"):
        load_manifest(tmp_path)


def test_a_model_in_place_of_an_engine_is_told_apart(tmp_path: Path) -> None:
    for model in (tmp_path / "m.gguf", tmp_path / "m.onnx"):
        model.touch()
        with pytest.raises(EngineError, match="is a model, not an engine directory") as caught:
            load_manifest(model)
        assert caught.value.hint == f"swapnet build {model} -o engines/m, then give engines/m"
    with pytest.raises(EngineError, match="is not an engine directory") as caught:
        load_manifest(tmp_path)
    assert f"swapnet build {model} -o DIR" in caught.value.hint
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(EngineError, match="is not an engine directory") as caught:
        load_manifest(tmp_path)
    assert f"swapnet build {tmp_path} -o DIR" in caught.value.hint
    (tmp_path / "notes.txt").touch()
    with pytest.raises(EngineError, match="is not an engine directory") as caught:
        load_manifest(tmp_path / "notes.txt")
    assert "swapnet build" not in caught.value.hint
