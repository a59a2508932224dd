"""A SavedModel turns photographs upright as Pillow does, by the EXIF orientation in the file."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_sources import image
from PIL import Image

from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.images import preparation, recode
from trainers.exporting import upright
from trainers.exporting.export_model import ModelExportConfig, export
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import image_files

SIZE = 16
PLAIN = image("a", size=(40, 30))


def tiff(value: int, order: str = "<", kind: int = 3, before: int = 1, at: int = 8) -> bytes:
    """Return an EXIF block with an orientation.

    Args:
        value: The orientation.
        order: "<": little endian; ">": big endian.
        kind: Type of the value: 3 (short) or 4 (long).
        before: Number of entries in front of it.
        at: Position of the directory.
    """
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(f"{order}{'H2x' if kind == 3 else 'I'}", value)
    other = struct.pack(f"{order}HHII", 0x0100, 4, 1, 6)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return header.ljust(at, b"\0") + struct.pack(f"{order}H", before + 1) + other * before + entry + b"\0" * 4


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_exif(block: bytes, before: bytes = b"", jpeg: bytes = PLAIN) -> bytes:
    """Return a JPEG with an EXIF block at its start, behind other bytes."""
    return jpeg[:2] + before + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:]


def expected(data: bytes) -> int:
    """Return the orientation that `convert` reads."""
    with Image.open(io.BytesIO(data)) as opened:
        return preparation.orientation_of(opened)


FILES = {
    "no EXIF": (PLAIN, 1),
    "not a JPEG": (image("a", "PNG"), 1),
    "text": (b"<html>", 1),
    "nothing": (b"", 1),
    "only a start": (b"\xff\xd8", 1),
    **{f"{value}, little endian": (with_exif(tiff(value)), value) for value in range(1, 9)},
    **{f"{value}, big endian": (with_exif(tiff(value, ">")), value) for value in range(1, 9)},
    "a long value": (with_exif(tiff(6, kind=4)), 6),
    "a long value, big endian": (with_exif(tiff(6, ">", kind=4)), 6),
    "many entries before it": (with_exif(tiff(6, before=50)), 6),
    "the directory further back": (with_exif(tiff(6, at=200)), 6),
    "behind JFIF": (with_exif(tiff(6), before=segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")), 6),
    "behind a large segment": (with_exif(tiff(6), before=segment(0xE2, b"ICC_PROFILE\0" * 5000)), 6),
    "behind other data of this kind": (with_exif(tiff(6), before=segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")), 6),
    "not allowed: 0": (with_exif(tiff(0)), 1),
    "not allowed: 9": (with_exif(tiff(9)), 1),
    "another tag": (with_exif(tiff(6).replace(struct.pack("<H", 0x0112), struct.pack("<H", 0x0113))), 1),
    "cut off": (with_exif(tiff(6)[:20]), 1),
    "a directory outside of the file": (with_exif(tiff(6)[:4] + struct.pack("<I", 0xFFFFFFF0) + tiff(6)[8:]), 1),
    "more entries than bytes": (with_exif(tiff(6)[:8] + b"\xff\xff" + tiff(6)[10:]), 6),
}


@pytest.fixture(scope="module")
def read() -> tf.types.experimental.PolymorphicFunction:
    return tf.function(upright.orientation, [tf.TensorSpec([], tf.string)], autograph=False)


@pytest.mark.parametrize("name", FILES)
def test_the_orientation_is_read(name: str, read: tf.types.experimental.PolymorphicFunction) -> None:
    data, orientation = FILES[name]
    assert read(tf.constant(data)).numpy() == orientation
    if data.startswith(PLAIN[:2]) and len(data) > 2 and name not in ("more entries than bytes",):
        assert expected(data) == orientation  # The same as when a dataset is converted.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("geometry", [Geometry.of(8), Geometry.of((8, 12), 0.5), Geometry.of((13, 8), fit="pad")])
def test_pixels_are_turned_as_by_convert(orientation: int, geometry: Geometry) -> None:
    data = photograph(orientation)
    turned = recode.upright(Image.open(io.BytesIO(data)), orientation)
    stream = io.BytesIO()
    turned.save(stream, "PNG")
    wanted = decode_pixels(tf.constant(stream.getvalue()), geometry).numpy().astype(int)
    pixels = upright.decoded(tf.constant(data), geometry).numpy()
    assert pixels.shape == geometry.shape
    assert np.abs(pixels - wanted).mean() < 2  # The JPEG is decoded at 1/2 or 1/4.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.of(40, 0.5),  # 101 - 50 px: the part begins 25 px from the left, and 26 px from the right.
        Geometry.of((31, 44), 0.7),
        Geometry.of((64, 101), fit="pad"),
        Geometry.of((101, 60), fit="pad"),
        Geometry.of((50, 61)),
    ],
    ids=str,
)
def test_pixels_are_those_of_the_turned_image(orientation: int, geometry: Geometry) -> None:
    """Also if an odd number of pixels is left out, or is added as gray."""
    noise = np.random.default_rng(0).integers(0, 256, (74, 101, 3), np.uint8)
    jpeg = tf.io.encode_jpeg(noise, quality=95).numpy()
    stored = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
    turned = np.asarray(recode.upright(Image.fromarray(stored), orientation))
    wanted = decode_pixels(tf.io.encode_png(turned), geometry).numpy().astype(int)
    pixels = upright.decoded(tf.constant(with_exif(tiff(orientation), jpeg=jpeg)), geometry).numpy()
    assert np.abs(pixels - wanted).max() <= 1  # Levels that end in 0.5 may be rounded otherwise.


def halves() -> keras.Model:
    """Return a model with an answer that depends on every row and column."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    dense = keras.layers.Dense(3, "softmax")
    network = keras.Model(pixels, dense(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))))
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    kernel = np.stack([rows, columns, rows * columns], -1)[:, :, None].repeat(3, 2).reshape(-1, 3)
    dense.set_weights([kernel * 0.5, np.zeros(3)])
    return network


def photograph(orientation: int) -> bytes:
    """Return a JPEG of a drawing without symmetry, stored as a camera that was held otherwise stores it."""
    rows, columns = np.mgrid[0:60, 0:90]
    pixels = np.stack([rows * 4, columns * 2, (rows > 30) * (columns > 20) * 255], -1).astype(np.uint8)
    drawing = Image.fromarray(pixels)
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # The turn that `orientation` undoes.
    stream = io.BytesIO()
    recode.upright(drawing, back).save(stream, "JPEG", quality=95, subsampling=0)
    return with_exif(tiff(orientation), jpeg=stream.getvalue())


@pytest.fixture(scope="module", params=["converted", "adopted"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory with an exported SavedModel."""
    info = ModelInfo(classes=("a", "b", "c"), image_size=SIZE, crop=0.875)
    if request.param == "adopted":
        info = dataclasses.replace(info, images={})
    run = tmp_path_factory.mktemp(request.param)
    model_file.save(halves(), info, run / "model.keras")
    export(ModelExportConfig(run=str(run)))
    return run


def test_a_saved_model_turns_photographs_as_predict_does(exported: Path) -> None:
    """Photographs of adopted records were not turned in training, so they are not turned."""
    model, info = model_file.load(exported / "model.keras")
    signature = tf.saved_model.load(str(exported / "export/saved_model")).signatures["serving_default"]
    photographs = [photograph(orientation) for orientation in range(1, 9)]
    answers = signature(image_bytes=tf.constant(photographs))["probabilities"].numpy()  # In one batch.
    pixels = np.stack([np.asarray(image_files.decode_file(data, info)) for data in photographs])
    np.testing.assert_allclose(answers, model(pixels).numpy(), atol=0.01)
    spread = np.ptp(answers, axis=0).max()
    assert spread < 0.01 if info.images else spread > 0.5
