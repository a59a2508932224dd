"""Images of Pillow and arrays are sources that give the same pixels as their files."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfrecord_tools.errors import UserError
from trainers.models.model_file import ModelInfo
from trainers.results import image_files, sources
from trainers.results.image_files import Unreadable
from trainers.results.sources import MemorySource, Source

INFO = ModelInfo(classes=("a", "b"), image_size=(20, 30))
ADOPTED = dataclasses.replace(INFO, images={})
MAPPED = dataclasses.replace(INFO, images={**INFO.images, "depth_range": "0,1"})
ROWS, COLUMNS = np.mgrid[0:20, 0:30]
DRAWING = np.stack([ROWS * 12, COLUMNS * 8, (ROWS > 9) * 200], -1).astype(np.uint8)  # No symmetry.


def file(path: Path, image: Image.Image, orientation: int = 1, **save: Any) -> Path:
    if orientation != 1:
        save["exif"] = Image.Exif()
        save["exif"][0x0112] = orientation
    image.save(path, **save)
    return path


def closed_file() -> io.BytesIO:
    closed = io.BytesIO(b"")
    closed.close()
    return closed


def pixels_of(source: Source, info: ModelInfo = INFO) -> np.ndarray:
    pixels = image_files.read_pixels(source, info)
    assert not isinstance(pixels, Unreadable), pixels
    return pixels.astype(int)


def only(images: Any) -> Source:
    (source,) = sources.of_images(images).sources
    return source


@pytest.mark.parametrize(
    ("suffix", "info"),
    [("jpg", INFO), ("png", INFO), ("tiff", INFO), ("jpg", ADOPTED), ("png", ADOPTED)],
    ids=["jpg", "png", "tiff", "adopted jpg", "adopted png"],
)
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_opened_image_is_turned_like_its_file(
    orientation: int, suffix: str, info: ModelInfo, tmp_path: Path
) -> None:
    more = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    path = file(tmp_path / f"a.{suffix}", Image.fromarray(DRAWING), orientation, **more)
    of_path = pixels_of(only(path), info)
    with Image.open(path) as opened:
        of_image = pixels_of(only(opened), info)
    with Image.open(path) as opened:
        of_copy = pixels_of(only([opened.convert("RGB")]), info)
    is_turned = np.abs(of_path - pixels_of(only(DRAWING), info)).mean() > 30
    assert is_turned == (info is INFO)  # A model of adopted records gets the file as it is.
    for other in (of_image, of_copy):
        assert np.abs(other - of_path).max() <= (8 if suffix == "jpg" else 0)  # A JPEG is encoded again.


@pytest.mark.parametrize(
    "mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "PA", "RGBa", "La", "LA", "RGBA", "P", "1", "L"]
)
def test_all_modes_are_read(mode: str) -> None:
    plain = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.fromarray(DRAWING)
    if mode == "LAB":  # Pillow has no conversion to it.
        image = Image.merge("LAB", [Image.new("L", image.size, level) for level in (128, 0, 0)])
    else:
        image = image.convert(plain).convert(mode)
    expected = image.convert(plain if mode != "PA" else "RGBA").convert("RGB")
    np.testing.assert_array_equal(pixels_of(only(image)), np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [("F", np.float32, "floating-point"), ("I", np.int32, "signed 32-bit")],
)
def test_levels_without_a_range_are_refused_like_those_of_a_file(
    mode: str, kind: type, message: str, tmp_path: Path
) -> None:
    image = Image.fromarray((ROWS / 19).astype(kind))
    assert image.mode == mode
    of_image = image_files.read_pixels(only(image), INFO)
    of_path = image_files.read_pixels(only(file(tmp_path / "a.tiff", image)), INFO)
    assert isinstance(of_image, Unreadable)
    assert message in of_image.reason
    assert of_image == of_path
    np.testing.assert_array_equal(
        pixels_of(only(image), MAPPED)[:, 0, 0], np.floor((ROWS[:, 0] / 19).astype(kind) * 255 + 0.5)
    )


def test_16_bits_in_any_byte_order_are_read() -> None:
    values = (ROWS * 3000).astype(np.uint16)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2"), ("I;16L", "<u2")):
        image = Image.frombytes(mode, (30, 20), values.astype(order).tobytes())
        np.testing.assert_array_equal(pixels_of(only(image))[..., 0], values >> 8, err_msg=mode)
    image = Image.open(io.BytesIO(b"P5 30 20 65535 " + values.astype(">u2").tobytes()))
    assert image.mode == "I"  # Pillow opens only TIFFs with 32 bits, and PNMs with 16 bits, in this mode.
    np.testing.assert_array_equal(pixels_of(only(image))[..., 0], values >> 8)


def test_a_damaged_image_is_unreadable_like_its_file() -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(whole, "JPEG")
    cut = Image.open(io.BytesIO(whole.getvalue()[:2000]))
    first, second = sources.of_images([cut, DRAWING]).sources
    result = image_files.read_pixels(first, INFO)
    assert isinstance(result, Unreadable)
    assert result.reason.startswith("damaged image: image file is truncated")
    assert result.may_be_image
    assert pixels_of(second).shape == (20, 30, 3)


class Column:
    """A column of a table as pandas has it: one dimension, a type that NumPy does not know, and an index."""

    ndim, dtype = 1, "string"

    def __init__(self, values: list[Any]):
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = np.empty(len(self.values), object)
        array[:] = self.values
        return array

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


def test_arrays_and_columns_of_paths_and_images_are_sequences(tmp_path: Path) -> None:
    paths = [str(file(tmp_path / name, Image.fromarray(DRAWING))) for name in ("a.png", "b.png")]
    given: Any
    for given in (np.array(paths), np.array(paths, object), Column(paths), np.array([Path(path) for path in paths])):
        assert [source.path for source in sources.of_images(given).sources] == paths
    assert only(np.array(paths[0])).path == paths[0]
    images: Any
    for images in (Column([DRAWING, Image.fromarray(DRAWING)]), np.stack([DRAWING, DRAWING]), [DRAWING] * 2):
        found = sources.of_images(images).sources
        assert [source.path for source in found] == ["image 0", "image 1"]
        for source in found:
            assert isinstance(source, MemorySource)
            np.testing.assert_array_equal(pixels_of(source), DRAWING)
    np.testing.assert_array_equal(pixels_of(only(DRAWING[..., 0])), DRAWING[..., :1].repeat(3, 2))  # One gray image.


def test_bytes_and_open_files_are_files(tmp_path: Path) -> None:
    path = file(tmp_path / "a.png", Image.fromarray(DRAWING))
    with open(path, "rb") as opened:
        given: list[Any] = [path.read_bytes(), [path.read_bytes()], io.BytesIO(path.read_bytes()), [opened]]
        for images in given:
            source = only(images)
            assert (source.path, source.read()) == ("image 0", path.read_bytes())


def test_gray_pixels_may_have_a_channel() -> None:
    gray = DRAWING[..., :1]
    np.testing.assert_array_equal(pixels_of(only(gray)), gray.repeat(3, 2))
    assert len(sources.of_images(np.stack([gray, gray])).sources) == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros(3), "image 0: is float64 of shape (3,), but pixels must be uint8"),
        (np.zeros((2, 4, 4), np.uint8), "image 0: is uint8 of shape (2, 4, 4), but pixels must be uint8"),
        (np.array([["a.jpg", "b.jpg"]]), "image 0: is list, which is not an image. Pass paths of images, the bytes of"),
        ([None], "image 0: is NoneType, which is not an image. Pass paths of images, the bytes of image files, "),
        ([[[1], [1, 2]]], "image 0: is list, which is not an image. "),
        (closed_file(), "image 0: cannot be read: I/O operation on closed file. Pass a file that is open for reading"),
        ([io.BytesIO], "image 0: cannot be read: "),
        (5, "images=5: must be images. Pass paths of images, the bytes of image files, uint8 arrays of shape (height,"),
        (np.array([], object), "no images given."),
    ],
)
def test_what_is_neither_path_nor_image_is_refused(images: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        sources.of_images(images)
    assert str(error.value).startswith(message)
