from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder.importing.inputs import InputType
from swapnet.data.files import load_polygraphy, read_arrays
from swapnet.data.samples import open_samples
from swapnet.errors import InputError

INPUTS = (InputType("x", "float32", (2, 3)), InputType("n", "int64", (1,)))
SHAPES = {"x": (2, 3), "n": (1,)}
X = np.arange(6, dtype=np.float32).reshape(2, 3)
N = np.array([7])


def write_set(folder: Path, *names: str) -> Path:
    """A test data set of ONNX with both inputs, under these names."""
    folder.mkdir(parents=True)
    for number, (array, name) in enumerate(zip((X, N), names, strict=True)):
        tensor = onnx.numpy_helper.from_array(array, name)
        (folder / f"input_{number}.pb").write_bytes(tensor.SerializeToString())
    (folder / "output_0.pb").write_bytes(b"")
    return folder


def write_polygraphy(path: Path, outputs: bool = False) -> Path:
    """Polygraphy's JSON of two samples, or of one runner's outputs."""
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.json import save_json

    if outputs:
        results = RunResults()
        results.append(("ours", [IterationResult({"x": X}, runtime=0.0)]))
        save_json(results, str(path))
    else:
        save_json([{"x": X, "n": N}, {"x": X + 1, "n": N}], str(path))
    return path


def test_raw_bytes_have_the_type_and_planned_shape_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(X.astype("<f4").tobytes())
    (tmp_path / "n.dat").write_bytes(N.astype("<i8").tobytes())
    pairs = [("x", tmp_path / "x.bin"), ("n", tmp_path / "n.dat")]
    arrays = read_arrays(pairs, INPUTS, SHAPES)
    assert np.array_equal(arrays["x"], X)
    assert arrays["n"].dtype == np.int64
    assert arrays["x"].flags.writeable


def test_raw_bytes_without_a_shape_stay_one_axis(tmp_path: Path) -> None:
    (tmp_path / "y").write_bytes(X.tobytes())
    arrays = read_arrays([("x", tmp_path / "y")], INPUTS, {}, "output")
    assert arrays["x"].shape == (6,)
    (tmp_path / "y").write_bytes(b"12345")
    with pytest.raises(InputError, match="wrong size for output 'x'") as caught:
        read_arrays([("x", tmp_path / "y")], INPUTS, {}, "output")
    assert caught.value.why == "it has 5 bytes, float32 takes a multiple of 4 bytes"


def test_a_wrong_size_is_named_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"0" * 20)
    with pytest.raises(InputError, match="has the wrong size for input 'x'") as caught:
        read_arrays([("x", tmp_path / "x.bin")], INPUTS, SHAPES)
    assert caught.value.why == "it has 20 bytes, float32 2x3 takes 24 bytes"


def test_the_first_bytes_decide_where_the_suffix_does_not(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x")
    assert np.array_equal(read_arrays([("x", tmp_path / "x")], INPUTS, SHAPES)["x"], X)


@pytest.mark.parametrize("names", [("x", "n"), ("", "")])
def test_data_sets_of_onnx_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = write_set(tmp_path / "test_data_set_0", *names)
    arrays = read_arrays([("", folder)], INPUTS, SHAPES)
    assert np.array_equal(arrays["x"], X)
    assert np.array_equal(arrays["n"], N)
    one = read_arrays([("x", folder / "input_0.pb")], INPUTS, SHAPES)
    assert np.array_equal(one["x"], X)
    assert len(list(open_samples(str(folder), INPUTS))) == 1
    assert len(list(open_samples(str(tmp_path), INPUTS))) == 1
    with pytest.raises(InputError, match="is for no input"):
        read_arrays([("", folder)], INPUTS[:1], SHAPES)


def test_bfloat16_travels_as_its_bits(tmp_path: Path) -> None:
    tensor = onnx.helper.make_tensor("b", onnx.TensorProto.BFLOAT16, (2,), [1.0, -2.0])
    (tmp_path / "b.pb").write_bytes(tensor.SerializeToString())
    arrays = read_arrays([("b", tmp_path / "b.pb")], [InputType("b", "bfloat16", (2,))], {})
    assert arrays["b"].tolist() == [0x3F80, 0xC000]


def test_files_of_polygraphy_are_read(tmp_path: Path) -> None:
    path = write_polygraphy(tmp_path / "feeds.json")
    assert np.array_equal(read_arrays([("", path)], INPUTS, SHAPES)["x"], X)
    assert np.array_equal(read_arrays([("n", path)], INPUTS, SHAPES)["n"], N)
    assert len(list(open_samples(str(path), INPUTS))) == 2
    results = write_polygraphy(tmp_path / "results.json", outputs=True)
    assert np.array_equal(load_polygraphy(results)[0]["x"], X)
    with pytest.raises(InputError, match="unknown input 'n'"):
        read_arrays([("n", results)], INPUTS, SHAPES)


def test_exported_outputs_are_references(tmp_path: Path) -> None:
    tensors = [
        InputType("x", "float32", (2, 3)),
        InputType("b", "bfloat16", (2,)),
        InputType("s", "bool", ()),
    ]
    rows: list[dict[str, object]] = [
        {"name": "x", "dimensions": "2x3", "values": [0, 1, 2, 3, 4, None]},
        {"name": "b", "dimensions": "2", "values": [1.0, -2.0]},
        {"name": "s", "dimensions": "", "values": [1]},
    ]
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(rows))
    arrays = read_arrays([("", path)], tensors, {}, "output")
    assert arrays["x"].dtype == np.float32
    assert np.array_equal(arrays["x"][0], X[0])
    assert np.isnan(arrays["x"][1, 2])
    assert arrays["b"].tolist() == [0x3F80, 0xC000]
    assert arrays["s"].shape == ()
    assert arrays["s"].dtype == np.bool_
    assert list(read_arrays([("b", path)], tensors, {}, "output")) == ["b"]
    path.write_text(json.dumps([{**rows[1], "dimensions": "3"}]))
    with pytest.raises(InputError, match=r"outputs\.json can't be read") as caught:
        read_arrays([("", path)], tensors, {}, "output")
    assert caught.value.why == "'b' is 3 and has 2 values"


def test_raw_bytes_without_a_name_ask_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(X.tobytes())
    with pytest.raises(InputError, match=r"x\.bin has no name of an input") as caught:
        read_arrays([("", path)], INPUTS, SHAPES)
    assert caught.value.hint == f"write NAME:{path}, with a name of 'x', 'n'"
    np.savez(tmp_path / "all.npz", x=X)
    (tmp_path / "all.npz").rename(tmp_path / "all")
    assert np.array_equal(read_arrays([("", tmp_path / "all")], INPUTS, SHAPES)["x"], X)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", b"{}", "x.json can't be read"),
        ("x.json", b"[]", "x.json has no samples"),
        ("x.pb", b"\xff\xff", "x.pb can't be read"),
        ("x.npy", b"1234", "x.npy can't be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_arrays([("x", tmp_path / name)], INPUTS, SHAPES)


@pytest.mark.parametrize("name", ["x.bin", "x.pb", "x.json"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} can't be read"):
        read_arrays([("x", tmp_path / name)], INPUTS, SHAPES)


def test_raw_bytes_of_an_unknown_name_and_two_files_of_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(X.tobytes())
    with pytest.raises(InputError, match="unknown input 'z'"):
        read_arrays([("z", tmp_path / "x.bin")], INPUTS, SHAPES)
    with pytest.raises(InputError, match="input 'x' is given twice"):
        read_arrays([("x", tmp_path / "x.bin")] * 2, INPUTS, SHAPES)
