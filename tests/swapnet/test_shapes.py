from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from swapnet.errors import EngineError, InputError, StorageError
from swapnet.manifest import Manifest, Tensor, load_manifest, save_manifest
from swapnet.profile import assumed_profile, load_profile, profile_paths, save_profile
from swapnet.shapes import (
    SHAPES,
    MeasuredShapes,
    SessionMemory,
    as_option,
    as_planned,
    as_title,
    input_shapes,
    load_shapes,
    names_of,
    save_shapes,
    shapes_key,
    sizes_option,
)
from swapnet.testing.engine import write_engine

INPUTS = (
    Tensor("image", "float32", ("batch", 3, "height", "width"), 12),
    Tensor("mask", "float32", ("batch", "height"), 4),
)


def test_what_is_not_given_is_one_or_what_others_say() -> None:
    assert input_shapes(INPUTS, {}) == {"image": (1, 3, 1, 1), "mask": (1, 1)}
    assert input_shapes(INPUTS, {"mask": (2, 5)}) == {"image": (2, 3, 5, 1), "mask": (2, 5)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": (1, 3, 8, 8)}, "names 'picture'"),
        ({"image": (1, 4, 8, 8)}, "the model takes batchx3xheightxwidth"),
        ({"image": (3, 8, 8)}, "gives 'image' 3x8x8"),
    ],
)
def test_refuses_what_does_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        input_shapes(INPUTS, shapes)


def test_one_star_stands_for_any_part_of_a_name() -> None:
    asked = {"im*": (1, 3, 4, 5), "mask": (1, 4)}
    assert input_shapes(INPUTS, asked) == {"image": (1, 3, 4, 5), "mask": (1, 4)}
    assert input_shapes(INPUTS, {"*k": (2, 5)})["mask"] == (2, 5)
    with pytest.raises(InputError, match=r"--shapes names 'x\*'"):
        input_shapes(INPUTS, {"x*": (1,)})


def test_what_is_not_given_stays_as_planned() -> None:
    planned = {"batch": 1, "height": 8, "width": 9}
    assert input_shapes(INPUTS, {}, planned) == {"image": (1, 3, 8, 9), "mask": (1, 8)}
    assert input_shapes(INPUTS, {"mask": (1, 5)}, planned) == {
        "image": (1, 3, 5, 9),
        "mask": (1, 5),
    }


def test_keys_are_file_names() -> None:
    planned = {"image": (1, 3, 48, 640), "mask": (1, 48)}
    assert shapes_key(INPUTS, planned) == "image-1x3x48x640_mask-1x48"
    fixed = Tensor("fixed", "float32", (2, 2), 16)
    odd = Tensor("a/../b:0", "float32", ("n",), 4)
    assert shapes_key((fixed, odd), {"fixed": (2, 2), "a/../b:0": (7,)}) == "a_b_0-7"
    long = [Tensor(f"{'x' * 40}{i}", "float32", ("n",), 4) for i in range(9)]
    keys = {shapes_key(long, {t.name: (n,) for t in long}) for n in range(1, 30)}
    assert len(keys) == 29
    assert max(map(len, keys)) <= 120


def test_shapes_are_written_as_the_option_takes_them() -> None:
    assert as_option({"x": (1, 3), "m": (4,)}) == "x:1x3,m:4"
    assert as_option({"a b": (1,), "s": ()}) == "'a b:1,s:'"
    assert as_option({"a,b": (0, 3)}) == "'\"a,b\":0x3'"


def test_titles_name_scalars_and_no_inputs() -> None:
    assert as_title({"x": (1, 3), "s": ()}) == "x: 1x3, s: scalar"
    assert as_title({}) == "no inputs"


def test_titles_name_a_family_once() -> None:
    past = {
        f"past_key_values.{layer}.{kind}": (1, 3, 128, 64)
        for layer in range(30)
        for kind in ("key", "value")
    }
    title = "past_key_values.{0..29}.{key,value}: 1x3x128x64"
    assert as_title({"ids": (1, 1), **past}) == f"ids: 1x1, {title}"
    assert as_title({**past, "past_key_values.7.value": (2,)}) == (
        "past_key_values.{0..29}.key: 1x3x128x64, "
        "past_key_values.{0,1,2,3,4,5,6,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,"
        "28,29}.value: 1x3x128x64, past_key_values.7.value: 2"
    )
    assert as_title({"x1": (2,), "x2": (2,), "y": (2,), "x": (2,)}) == "x{1..2}: 2, y: 2, x: 2"
    assert names_of(["a0", "a", "h.1", "c.1"]) == "'a0', 'a', 'h.1', 'c.1'"
    assert names_of(["0a", "a"]) == "'{0,}a'"
    assert names_of([]) == "nothing"


def test_an_option_gives_symbols_where_they_say_all() -> None:
    shapes = {"image": (1, 3, 8, 9), "mask": (1, 8)}
    assert sizes_option(INPUTS, shapes) == "--dims batch=1,height=8,width=9"
    assert sizes_option(INPUTS, {"mask": (2, 8)}) == "--dims batch=2,height=8"
    assert sizes_option(INPUTS, {**shapes, "mask": (2, 8)}) == "--shapes image:1x3x8x9,mask:2x8"
    made_up = Tensor("x", "float32", ("x.0", 4), 16)
    fixed = Tensor("y", "float32", (4,), 16)
    assert sizes_option([made_up, fixed], {"x": (2, 4), "y": (4,)}) == "--shapes x:2x4"
    assert sizes_option([fixed], {"y": (4,)}) == "--shapes y:4"
    assert sizes_option([Tensor("x", "float32", ("a b",), 4)], {"x": (2,)}) == "--dims 'a b=2'"


def test_a_plan_says_which_sizes_nobody_gave() -> None:
    symbols = {"batch": 1, "height": 8, "width": 9, "fixed": 4}
    assert as_planned(INPUTS, symbols, symbols) == "planned for batch=1, height=8, width=9"
    assert as_planned(INPUTS, symbols, ["height"]) == (
        "planned for height=8; batch=1, width=9 assumed (give --dims batch=SIZE,…)"
    )
    assert as_planned([INPUTS[1]], {"batch": 1, "height": 2}, ["batch"]) == (
        "planned for batch=1; height=2 assumed (give --dims height=SIZE)"
    )
    assert as_planned(INPUTS, symbols, []) == (
        "planned for batch=1, height=8, width=9 (assumed; give --dims batch=SIZE,…)"
    )
    assert as_planned([], {}, []) == ""


def test_errors_name_scalars_and_no_inputs() -> None:
    scalar = Tensor("s", "float32", (), 4)
    with pytest.raises(InputError) as caught:
        input_shapes([scalar], {"s": (1,)})
    assert caught.value.why == "the model takes a scalar"
    with pytest.raises(InputError) as caught:
        input_shapes([], {"s": (1,)})
    assert caught.value.why == "the model takes nothing"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A simulated engine whose input and output have any length."""
    made = write_engine(tmp_path, [8192, 4096])
    (given,), (result,) = made.inputs, made.outputs
    symbolic = msgspec.structs.replace(
        made,
        inputs=(msgspec.structs.replace(given, shape=("n",)),),
        outputs=(msgspec.structs.replace(result, shape=("n",)),),
    )
    save_manifest(tmp_path, symbolic)
    return symbolic


@pytest.fixture
def measured(manifest: Manifest) -> MeasuredShapes:
    memory = SessionMemory(300, 20, 10)
    return MeasuredShapes(manifest.identity, {"x": (5,)}, {"x": 40, "y": 48}, (100, 200), memory)


def test_a_manifest_at_measured_shapes(
    tmp_path: Path, manifest: Manifest, measured: MeasuredShapes
) -> None:
    save_shapes(tmp_path, "x-5", measured)
    assert load_shapes(tmp_path, "x-5") == measured
    changed = load_manifest(tmp_path, {"x": (5,)})
    assert changed.planned_shapes == {"x": (5,)}
    assert [t.nbytes for t in (*changed.inputs, *changed.values, *changed.outputs)] == [40, 8, 48]
    assert [b.activation_bytes for b in changed.blocks] == [100, 200]
    assert changed.session_memory == measured.session_memory
    assert changed.identity != manifest.identity
    assert load_manifest(tmp_path, {"x": (1,)}) == load_manifest(tmp_path) == manifest


def test_shapes_that_were_not_measured_name_the_command(tmp_path: Path, manifest: Manifest) -> None:
    del manifest
    with pytest.raises(EngineError, match="was not measured at x: 5") as caught:
        load_manifest(tmp_path, {"x": (5,)})
    assert "it was built for x: 1" in caught.value.why
    assert f"swapnet measure {tmp_path} --dims n=5" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "another"},
        {"planned_shapes": {"x": (6,)}},
        {"nbytes": {"x": 40}},
        {"activation_bytes": (1,)},
    ],
)
def test_a_record_of_something_else_is_left_out(
    tmp_path: Path, measured: MeasuredShapes, changes: dict[str, object]
) -> None:
    save_shapes(tmp_path, "x-5", msgspec.structs.replace(measured, **changes))
    with pytest.raises(EngineError, match="was not measured"):
        load_manifest(tmp_path, {"x": (5,)})


@pytest.mark.parametrize("position", [5, 60, 200, -20])
def test_a_damaged_record_is_named(tmp_path: Path, measured: MeasuredShapes, position: int) -> None:
    save_shapes(tmp_path, "x-5", measured)
    path = tmp_path / SHAPES / "x-5.json"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"x-5\.json") as caught:
        load_manifest(tmp_path, {"x": (5,)})
    assert "remove it" in caught.value.hint


def test_what_can_not_be_read_or_written_is_named(tmp_path: Path, measured: MeasuredShapes) -> None:
    (tmp_path / SHAPES / "x-5.json").mkdir(parents=True)
    with pytest.raises(EngineError, match="can't be read"):
        load_shapes(tmp_path, "x-5")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't be written"):
        save_shapes(tmp_path / "file", "x-5", measured)


def test_each_shape_has_its_own_profile(
    tmp_path: Path, manifest: Manifest, measured: MeasuredShapes
) -> None:
    save_shapes(tmp_path, "x-5", measured)
    larger = load_manifest(tmp_path, {"x": (5,)})
    profiles = [
        msgspec.structs.replace(assumed_profile(m), device="here") for m in (manifest, larger)
    ]
    save_profile(tmp_path, profiles[1], "x-5")
    assert load_profile(tmp_path, manifest, "here").is_assumed
    save_profile(tmp_path, profiles[0])
    assert load_profile(tmp_path, manifest, "here") == profiles[0]
    assert load_profile(tmp_path, larger, "here") == profiles[1]
    assert all(path.exists() for path in profile_paths(tmp_path, larger))
