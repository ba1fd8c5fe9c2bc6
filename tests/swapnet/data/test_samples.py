from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swapnet.builder.importing.inputs import InputType
from swapnet.data.images import PREPROCESSINGS, read_image
from swapnet.data.samples import open_samples
from swapnet.errors import InputError

IMAGE = InputType("image", "float32", (1, 3, 6, 8))
GREY = InputType("image", "float32", ("batch", 1, 6, 8))
ANY_SIZE = InputType("image", "float32", ("batch", 3, "height", "width"))
X = InputType("x", "float32", (2, "length"))
MASK = InputType("mask", "int64", ("length",))

Write = Callable[..., str]
Script = Callable[[str], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, whose names are not in the order of their making."""
    home = tmp_path / "pictures"
    home.mkdir()
    for shade, name in enumerate(("c.png", "a.png", "b.bmp")):
        Image.new("RGB", (8, 6), (shade, 10 * shade, 100 + shade)).save(home / name)
    return home


@pytest.fixture
def npz(tmp_path: Path) -> Write:
    """Writes arrays into a file, and returns its name."""

    def write(**arrays: Any) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Writes a module into the current folder, and returns the name of its function."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(text: str) -> str:
        name = "swapnet_test_feeds"
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + dedent(text))
        return f"{name}:feeds"

    path = list(sys.path)
    yield write
    assert sys.path == path
    for name in set(sys.modules) - before:
        if "swapnet_test" in name:
            del sys.modules[name]


def zeros(length: int = 3, **changes: Any) -> dict[str, Any]:
    return {"x": np.zeros((2, length), np.float32), "mask": np.ones(length, np.int64)} | changes


# Folders


def test_images_by_name_in_every_iteration(folder: Path) -> None:
    samples = open_samples(str(folder), [IMAGE], preprocessing=PREPROCESSINGS["raw"])
    for _ in range(2):
        feeds = list(samples)
        assert [feed["image"].shape for feed in feeds] == [(1, 3, 6, 8)] * 3
        assert [float(feed["image"][0, 0, 0, 0]) for feed in feeds] == [1, 2, 0]


def test_images_are_preprocessed(folder: Path) -> None:
    inception = PREPROCESSINGS["inception"]
    (feed,) = open_samples(str(folder), [GREY], limit=1, preprocessing=inception)
    assert np.array_equal(feed["image"][0], read_image(folder / "a.png", inception, 1, (6, 8)))


def test_only_images_within_the_limit_are_read(folder: Path) -> None:
    (folder / "b.bmp").write_bytes(b"no image")
    samples = open_samples(str(folder), [IMAGE], limit=1)
    assert len(list(samples)) == 1
    with pytest.raises(InputError, match=r"b\.bmp can't be read"):
        list(open_samples(str(folder), [IMAGE], limit=2))


def test_symbolic_sizes_are_asked_for(folder: Path) -> None:
    with pytest.raises(InputError, match=r"size of the images .* is not known") as caught:
        open_samples(str(folder), [ANY_SIZE])
    assert "batchx3xheightxwidth" in caught.value.why
    (feed,) = open_samples(str(folder), [ANY_SIZE], size=(4, 5), limit=1)
    assert feed["image"].shape == (1, 3, 4, 5)


@pytest.mark.parametrize("size", [(6, 9), (0, 8)])
def test_sizes_that_the_model_does_not_take(folder: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"can't be made {size[0]}x{size[1]}\n.*1x3x6x8"):
        open_samples(str(folder), [IMAGE], size=size)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([], "takes nothing"),
        ([IMAGE, MASK], "'image' float32 1x3x6x8, 'mask' int64 length"),
        ([InputType("x", "uint8", (1, 3, 6, 8))], "'x' uint8"),
        ([InputType("x", "float32", (1, 6, 8, 3))], "1x6x8x3"),
        ([InputType("x", "float32", (2, 3, 6, 8))], "2x3x6x8"),
        ([InputType("x", "float32", (1, 3, 6))], "1x3x6;"),
    ],
)
def test_models_that_take_no_images(folder: Path, inputs: list[InputType], found: str) -> None:
    with pytest.raises(InputError, match="can't be given the images in") as caught:
        open_samples(str(folder), inputs)
    assert found in caught.value.why


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        open_samples(str(tmp_path), [IMAGE])


# Files


def test_samples_lie_along_the_first_axis(npz: Write) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    mask = np.arange(12).reshape(4, 3)
    samples = open_samples(npz(mask=mask, x=x), [X, MASK], limit=3)
    for _ in range(2):
        feeds = list(samples)
        assert [list(feed) for feed in feeds] == [["x", "mask"]] * 3
        assert all(np.array_equal(feed["x"], x[i]) for i, feed in enumerate(feeds))
        assert all(np.array_equal(feed["mask"], mask[i]) for i, feed in enumerate(feeds))
        assert all(array.flags.c_contiguous for feed in feeds for array in feed.values())


def test_arrays_of_one_sample(npz: Write) -> None:
    samples = open_samples(npz(**zeros(5)), [X, MASK])
    (feed,) = samples
    assert feed["x"].shape == (2, 5)


def test_scalars(npz: Write) -> None:
    scalar = InputType("x", "float32", ())
    feeds = list(open_samples(npz(x=np.array([1, 2], np.float32)), [scalar]))
    assert [feed["x"].shape for feed in feeds] == [(), ()]
    assert [float(feed["x"]) for feed in feeds] == [1, 2]
    (feed,) = open_samples(npz(x=np.array(3, np.float32)), [scalar])
    assert float(feed["x"]) == 3


def test_bfloat16_is_given_as_its_bits(npz: Write) -> None:
    kind = InputType("x", "bfloat16", (2,))
    (feed,) = open_samples(npz(x=np.array([0x3F80, 0xFF7F], np.uint16)), [kind])
    assert feed["x"].dtype == np.uint16
    with pytest.raises(InputError, match="1 of its 2 values are NaN"):
        list(open_samples(npz(x=np.array([0x7FC0, 0xFF80], np.uint16)), [kind]))


@pytest.mark.parametrize(
    ("arrays", "messages"),
    [
        ({"y": np.zeros(1)}, ["unknown input 'y' of", "takes 'x', 'mask'"]),
        ({"mask": None}, ["input 'mask' of", "data.npz is missing"]),
        (
            {"x": np.zeros((1, 4, 2, 3), np.float32), "mask": np.ones((4, 3), np.int64)},
            ["'x' of ", "wrong shape", "it is 1x4x2x3, the model takes 2xlength"],
        ),
        ({"x": np.zeros(3, np.float32)}, ["wrong shape", "it is 3, the model takes 2xlength"]),
        (
            {"x": np.zeros((4, 2, 3), np.float32), "mask": np.ones((5, 3), np.int64)},
            ["differ in their number of samples", "'x' has 4, 'mask' has 5"],
        ),
        (
            {"x": np.zeros((1, 2, 3), np.float32)},
            ["differ in their", "'x' has 1, 'mask' has 1 without an axis of samples"],
        ),
        (
            {"x": np.zeros((0, 2, 3), np.float32), "mask": np.ones((0, 3), np.int64)},
            ["no samples in", "'x' is 0x2x3"],
        ),
    ],
)
def test_files_that_are_refused(npz: Write, arrays: dict[str, Any], messages: list[str]) -> None:
    given = {name: array for name, array in zeros(**arrays).items() if array is not None}
    with pytest.raises(InputError) as caught:
        open_samples(npz(**given), [X, MASK])
    assert all(message in str(caught.value) for message in messages)


def test_objects_are_refused(npz: Write) -> None:
    data = npz(x=np.array([{}], object))
    with pytest.raises(InputError, match=r"can't be read\n.*holds Python objects"):
        open_samples(data, [X])


@pytest.mark.parametrize(
    ("after", "at", "message"),
    [(b"PK\x01\x02", 10, "compression method"), (b"PK\x03\x04", 70, "decompressing data")],
)
def test_damaged_files_are_refused(tmp_path: Path, after: bytes, at: int, message: str) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **zeros(300))
    content = bytearray(path.read_bytes())
    content[content.index(after) + at] = 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_samples(str(path), [X, MASK])


@pytest.mark.parametrize("name", ["none.npz", "none", "data.npy", "broken.npz"])
def test_what_is_no_data(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "data.npy", np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=f"{name} can't be read"):
        open_samples(str(tmp_path / name), [X])


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing(npz: Write, limit: int) -> None:
    with pytest.raises(InputError, match=f"a limit of {limit} samples is invalid"):
        open_samples(npz(**zeros()), [X, MASK], limit=limit)


# Samples of every kind


@pytest.mark.parametrize(
    ("array", "messages"),
    [
        (np.zeros((3, 2, 4)), ["sample 1 of", "element type", "it is float64", "takes float32"]),
        (np.zeros((3, 2, 4), ">f4"), ["element type", "it is >f4"]),
        (np.zeros((3, 5, 4), np.float32), ["wrong shape", "it is 5x4, the model takes 2xlength"]),
    ],
)
def test_arrays_that_the_model_does_not_take(
    npz: Write, array: np.ndarray[Any, Any], messages: list[str]
) -> None:
    samples = open_samples(npz(x=array), [X])
    with pytest.raises(InputError) as caught:
        list(samples)
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_nan_is_refused_and_infinity_is_not(npz: Write, kind: str) -> None:
    x = np.zeros((3, 2, 4), kind)
    x[0, 1, 3] = np.inf
    x[1, 0, :2] = np.nan
    x[1, 1, 3] = -np.inf
    samples = iter(open_samples(npz(x=x), [InputType("x", kind, (2, 4))]))
    assert next(samples)["x"].shape == (2, 4)
    with pytest.raises(InputError, match=r"input 'x' of sample 2 of .*data\.npz has NaN") as caught:
        next(samples)
    assert caught.value.why == "2 of its 8 values are NaN, which spreads to the results"


# Functions


def test_a_function_is_called_in_every_iteration(script: Script, tmp_path: Path) -> None:
    (tmp_path / "swapnet_test_beside.py").write_text("LENGTH = 3\n")
    data = script(
        """
        calls = 0

        def feeds():
            global calls
            calls += 1
            from swapnet_test_beside import LENGTH
            for length in range(1, 1 + LENGTH):
                x = np.full((length, 2), calls, np.float32).T
                yield {"x": x, "mask": np.ones(length, np.int64)}
        """
    )
    samples = open_samples(data, [X, MASK])
    for turn in (1, 2):
        feeds = list(samples)
        assert [feed["x"].shape for feed in feeds] == [(2, 1), (2, 2), (2, 3)]
        assert all(feed["x"].flags.c_contiguous and feed["x"].max() == turn for feed in feeds)


def test_no_more_is_made_than_the_limit(script: Script) -> None:
    data = script(
        """
        made = []

        def feeds():
            while True:
                made.append(len(made))
                yield {"x": np.zeros((2, 1), np.float32)}
        """
    )
    samples = open_samples(data, [X], limit=2)
    assert len(list(samples)) == 2
    assert sys.modules["swapnet_test_feeds"].made == [0, 1]


def test_a_list_is_as_good_as_a_generator(script: Script) -> None:
    data = script("def feeds(): return [{'x': [[1], [2]]}]")
    (feed,) = open_samples(data, [InputType("x", "int64", (2, 1))])
    assert feed["x"].tolist() == [[1], [2]]


def test_a_file_hides_no_module(script: Script, tmp_path: Path) -> None:
    """It may be called as a module of the library, lie anywhere and import its neighbours."""
    script("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "swapnet_test_near.py").write_text("VALUE = 7\n")
    (tmp_path / "deep" / "json.py").write_text(
        dedent(
            """
            from __future__ import annotations
            from dataclasses import dataclass
            import numpy as np
            from swapnet_test_near import VALUE

            @dataclass
            class Feed:
                value: int

            def feeds():
                yield {"x": np.full((2, 1), Feed(VALUE).value, np.float32)}
            """
        )
    )
    known = sys.modules.get("json")
    (feed,) = open_samples("deep/json.py:feeds", [X])
    assert feed["x"].tolist() == [[7], [7]]
    assert sys.modules.get("json") is known
    del sys.modules["swapnet_data_json"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("import swapnet_test_absent", ["can't be imported", "No module named"]),
        ("def feeds(:", ["can't be imported", "SyntaxError"]),
        ("raise SystemExit(3)", ["can't be imported", "SystemExit: 3"]),
        ("feeds = [1]", ["swapnet_test_feeds:feeds is not a function", "another 'feeds'"]),
        ("", ["swapnet_test_feeds:feeds is not a function", "no 'feeds'"]),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".py"])
def test_modules_that_are_refused(
    script: Script, text: str, messages: list[str], suffix: str
) -> None:
    module, _, name = script(text).partition(":")
    with pytest.raises(InputError) as caught:
        open_samples(f"{module}{suffix}:{name}", [X])
    assert all(
        message.replace("feeds:", f"feeds{suffix}:") in str(caught.value) for message in messages
    )
    if "imported" in messages[0]:
        assert caught.value.__cause__ is not None
        assert "swapnet_data_swapnet_test_feeds" not in sys.modules


@pytest.mark.parametrize("data", ["none.py:feeds", "no such module:feeds", ":feeds", ".near:feeds"])
@pytest.mark.usefixtures("script")
def test_modules_that_are_not_there(data: str) -> None:
    with pytest.raises(InputError, match="can't be imported"):
        open_samples(data, [X])


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ("yield np.zeros(3)", ["sample 1 of swapnet_test_feeds:feeds is not a dict", "ndarray"]),
        ("return {'x': 1}", ["sample 1 of", "is not a dict", "yields str"]),
        ("return None", ["sample 1 of", "can't be made", "not iterable"]),
        ("yield good; 1 / 0", ["sample 2 of", "ZeroDivisionError: division by zero"]),
        ("yield good; raise SystemExit(1)", ["sample 2 of", "SystemExit: 1"]),
        ("yield from ()", ["no samples in swapnet_test_feeds:feeds", "it yields nothing"]),
        ("yield {}", ["input 'x' of sample 1 of swapnet_test_feeds:feeds is missing"]),
        ("yield good | {3: 1}", ["unknown input '3'"]),
        ("yield {'x': [[1], [1, 2]]}", ["input 'x' of sample 1 of", "is not an array"]),
        ("yield {'x': Odd()}", ["is not an array", "only on Tuesdays"]),
        ("yield {'x': 'picture.png'}", ["element type", "<U11"]),
    ],
)
def test_what_functions_do_wrong(script: Script, body: str, messages: list[str]) -> None:
    data = script(
        f"""
        class Odd:
            def __array__(self, dtype=None, copy=None):
                raise RuntimeError("only on Tuesdays")

        def feeds():
            good = {{"x": np.zeros((2, 1), np.float32)}}
            {body}
        """
    )
    samples = open_samples(data, [X])
    with pytest.raises(InputError) as caught:
        list(samples)
    assert all(message in str(caught.value) for message in messages)
    assert caught.value.hint
    if "can't be made" in str(caught.value):
        assert caught.value.__cause__ is not None


def test_a_function_takes_no_arguments(script: Script) -> None:
    samples = open_samples(script("def feeds(count): yield {}"), [X])
    with pytest.raises(InputError, match="missing 1 required positional argument"):
        list(samples)


def test_data_without_a_name_is_not_this_folder() -> None:
    with pytest.raises(InputError, match="its name is empty"):
        open_samples("", [X])
