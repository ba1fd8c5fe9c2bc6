from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.builder.importing.external_data import ExternalData
from swapnet.builder.importing.source import check_apart, open_source, original_model
from swapnet.errors import InputError, ModelError
from tests.helpers.zoo import mlp

NBYTES = 64 * 64 * 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model" / "m.onnx"
    target.parent.mkdir()
    onnx.save(mlp(), target, save_as_external_data=True, location="m.data", size_threshold=0)
    return target


def change(path: Path, **fields: str | None) -> None:
    """Change fields of the second tensor's external data; None leaves one out."""
    model = onnx.load_model(path, load_external_data=False)
    tensor = model.graph.initializer[1]
    known = {entry.key: entry.value for entry in tensor.external_data} | fields
    del tensor.external_data[:]
    for key, value in known.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        *(({"offset": "-4096"}, "offset '-4096'"), ({"offset": "abc"}, "offset 'abc'")),
        *(({"length": "-5"}, "length '-5'"), ({"length": "9" * 5000}, "is not a number")),
        *(({"offset": "٣"}, "offset '٣'"), ({"offset": ""}, "offset ''")),
        ({"length": "400"}, f"length of 400 bytes, its type and shape take {NBYTES}"),
        ({"offset": str(6 * NBYTES - 1)}, f"ends at byte {7 * NBYTES - 1} of m.data"),
        *(({"location": ""}, "the name ''"), ({"location": None}, "the name ''")),
        *(({"location": "a\0b"}, "the name"), ({"location": "gone"}, "No such file")),
        *(({"location": "x" * 300}, "too long"), ({"location": "folder"}, "is a folder")),
        *(({"location": "pipe"}, "is a named pipe"), ({"location": "loop"}, "symbolic links")),
        *(({"location": "/dev/zero"}, "an absolute path"), ({"location": "zero"}, "/dev/zero")),
        *(({"location": "../out"}, "which is"), ({"location": "link"}, "which is")),
    ],
)
def test_what_a_model_says_of_its_data_is_checked(
    path: Path, fields: dict[str, str | None], reason: str
) -> None:
    folder = path.parent
    shutil.copy(folder / "m.data", folder.parent / "out")
    for name, target in (("link", "../out"), ("loop", "loop"), ("zero", "/dev/zero")):
        os.symlink(target, folder / name)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    change(path, **fields)
    with pytest.raises(ModelError) as caught:
        open_source(path)
    assert str(path) in caught.value.what
    assert reason in caught.value.why
    assert "'w1'" in caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"length": None, "checksum": "unread"},
        {"length": "0"},
        {"location": "./folder/../m.data"},
        {"location": "inner"},
    ],
)
def test_data_in_the_folder_of_the_model_is_taken(path: Path, fields: dict[str, str]) -> None:
    (path.parent / "folder").mkdir()
    os.symlink("m.data", path.parent / "inner")
    change(path, **fields)
    source = open_source(path)
    assert source.weights_bytes == 6 * NBYTES
    assert sum(part.end - part.start for part in source.data.parts) >= 6 * NBYTES


def test_links_of_a_cache_lead_to_files_beside_the_models_own(path: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    path.parent.rename(blobs)
    snapshot.mkdir(parents=True)
    os.symlink("../../blobs/m.data", snapshot / "m.data")
    os.symlink("../../blobs/m.onnx", snapshot / "m.onnx")
    assert open_source(snapshot / "m.onnx").weights_bytes == 6 * NBYTES
    (snapshot / "m.onnx").unlink()
    shutil.copy(blobs / "m.onnx", snapshot / "m.onnx")
    with pytest.raises(ModelError, match="outside of its folder"):
        open_source(snapshot / "m.onnx")


def test_bytes_in_the_model_match_its_shapes(tmp_path: Path) -> None:
    model = mlp()
    model.graph.initializer[1].raw_data = b"abc"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"'w1' has 3 bytes, its type and shape take {NBYTES}"):
        open_source(tmp_path / "m.onnx")
    model.graph.initializer[1].dims[0] = -64
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="'w1' has the shape -64x64"):
        open_source(tmp_path / "m.onnx")


def test_data_of_functions_is_checked_too(path: Path) -> None:
    model = onnx.load_model(path, load_external_data=False)
    value = TensorProto(name="inner", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="gone")
    constant = helper.make_node("Constant", [], ["c"], value=value)
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "f", [], ["c"], [constant], opset))
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"(?s)lacks weights.*'inner' is in gone"):
        open_source(path)


def test_the_digest_is_of_the_bytes_that_tensors_have(path: Path, tmp_path: Path) -> None:
    before = open_source(path)
    with (path.parent / "m.data").open("ab") as file:
        file.write(b"of no tensor")
    assert open_source(path).data.sha256 == before.data.sha256
    data = bytearray((path.parent / "m.data").read_bytes())
    data[NBYTES] ^= 1
    (path.parent / "m.data").write_bytes(data)
    after = open_source(path)
    assert after.sha256 == before.sha256
    assert after.data.sha256 != before.data.sha256
    assert after.identity != before.identity
    onnx.save(mlp(), tmp_path / "inline.onnx")
    inline = open_source(tmp_path / "inline.onnx")
    assert (inline.data, inline.identity) == (ExternalData(), inline.sha256)
    assert inline.data.sha256 == ""


def test_data_is_not_written_over(path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.data can't be written"):
        check_apart(open_source(path), path.parent / "m.data")


@pytest.mark.slow
def test_the_original_of_an_engine_has_its_weights(path: Path, tmp_path: Path) -> None:
    from swapnet.builder import build

    manifest = build(path, tmp_path / "engine")
    assert manifest.source.data_sha256 == open_source(path).data.sha256
    assert original_model(manifest) == path
    data = path.parent / "m.data"
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"(?s)has other weights.*in m\.data is .*, it was"):
        original_model(manifest)
    data.unlink()
    with pytest.raises(ModelError, match=r"(?s)lacks weights.*m\.data"):
        original_model(manifest)
    path.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        original_model(manifest)
