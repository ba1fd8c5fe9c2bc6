from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from swapnet.data.images import IMAGENET, PREPROCESSINGS, image_files, read_image
from swapnet.errors import InputError
from swapnet.models import images


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Seeded colours, 12 wide and 8 high, with no loss."""
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def constant(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def test_imagenet_is_what_the_zoo_does(picture: Path) -> None:
    with Image.open(picture) as image:
        square = ImageOps.fit(image, (6, 6))
    expected = images.normalise(images.pixels(square, 6, 6))
    found = read_image(picture, IMAGENET, 3, (6, 6))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw", [255, 51, 0]),
        ("unit", [1, 0.2, 0]),
        ("inception", [1, -0.6, -1]),
        ("imagenet", [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225]),
    ],
)
def test_presets(tmp_path: Path, name: str, expected: list[float]) -> None:
    path = constant(tmp_path / "x.png", (255, 51, 0))
    planes = read_image(path, PREPROCESSINGS[name], 3, (2, 3))
    assert planes.shape == (3, 2, 3)
    np.testing.assert_allclose(planes, np.reshape(expected, (3, 1, 1)) * np.ones((3, 2, 3)), 1e-5)


def test_the_sides_are_cut_off(tmp_path: Path) -> None:
    canvas = Image.new("RGB", (12, 4), (0, 0, 0))
    canvas.paste((255, 255, 255), (0, 0, 4, 4))
    canvas.save(tmp_path / "x.png")
    raw = PREPROCESSINGS["raw"]
    assert read_image(tmp_path / "x.png", raw, 3, (4, 4)).max() == 0


def test_grey_takes_average_statistics(tmp_path: Path) -> None:
    path = constant(tmp_path / "x.png", (255, 255, 255))
    planes = read_image(path, IMAGENET, 1, (2, 2))
    assert planes.shape == (1, 2, 2)
    np.testing.assert_allclose(planes, (1 - 0.449) / 0.226, 1e-5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_other_modes_become_colours(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (2, 2), (255, 255, 255)).convert(mode).save(tmp_path / "x.jpg", "tiff")
    assert read_image(tmp_path / "x.jpg", PREPROCESSINGS["raw"], 3, (2, 2)).min() == 255


def test_sixteen_bits_are_refused_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 1000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png can't be read\n.*mode I;16"):
        read_image(tmp_path / "x.png", IMAGENET, 3, (2, 2))


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.7])
def test_unreadable_images_are_named(picture: Path, kept: float) -> None:
    content = picture.read_bytes()
    picture.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=r"the image .*picture\.png can't be read") as caught:
        read_image(picture, IMAGENET, 3, (4, 4))
    assert caught.value.why
    assert caught.value.__cause__ is not None


def test_images_of_a_folder_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp", "d.bmp", "e.jpg", "._a.png", "notes.txt", "f.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in image_files(tmp_path)]
    assert names == ["a.jpeg", "b.PNG", "c.webp", "d.bmp", "e.jpg"]


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no images in") as caught:
        image_files(tmp_path)
    assert "none of its 1 entries" in caught.value.why
    assert all(kind in caught.value.why for kind in ("*.png", "*.jpg", "*.webp"))


def test_a_folder_that_can_not_be_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read\nNo such file"):
        image_files(tmp_path / "none")


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="needs Pillow") as caught:
        image_files(tmp_path)
    assert "swapnet-trt[models]" in caught.value.hint
