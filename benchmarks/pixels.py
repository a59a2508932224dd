"""Compare decoded pixels with Pillow's: the similarity of this package's pixels, and of TensorFlow's."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.records import Records, open_dataset


def quality(records: Records, size: int, count: int = 200) -> None:
    """Print the similarity of our pixels, and of TensorFlow's, to Pillow's antialiased full decoding.

    If the used part of an image has the right size, the pixels are equal, and the image is left out.
    """
    print(f"PSNR in dB against Pillow, full decoding and antialiased resizing, mean of {count}")
    for geometry in (
        Geometry.of(size),
        Geometry.of(size, 0.875),
        Geometry.of(size, fit="pad"),
        Geometry.of((size * 2 // 3, size)),
        Geometry.of((size * 2 // 3, size), 0.875),
        Geometry.of((size * 2 // 3, size), fit="pad"),
    ):
        for name in ("BILINEAR", "BICUBIC", "LANCZOS"):
            images = (records[number]["image"] for number in range(min(count, len(records))))
            pairs = [_similarity(data, geometry, Image.Resampling[name]) for data in images]
            ours, theirs = np.ma.masked_invalid(pairs).mean(axis=0)
            print(
                f"  {geometry!s:<22} {name.lower():<10} ours {ours:.1f}, tf.image.resize(antialias=True) {theirs:.1f}"
            )


def _similarity(data: bytes, geometry: Geometry, filter: Image.Resampling) -> tuple[float, float]:
    """Return the PSNR of our pixels, and of those of `tf.image.resize`, within the place of the image."""
    with Image.open(io.BytesIO(data)) as image:
        part, place = geometry.part(image.height, image.width), geometry.place(image.height, image.width)
        box = (part.left, part.top, part.left + part.width, part.top + part.height)
        resized = image.convert("RGB").resize((place.width, place.height), filter, box=box)
    expected = np.asarray(resized, np.float64)
    ours = decoder.decode(data, geometry)[place.top : place.top + place.height, place.left : place.left + place.width]
    full = tf.io.decode_image(data, channels=3, expand_animations=False)
    cropped = tf.image.crop_to_bounding_box(full, *part)
    theirs = tf.round(tf.image.resize(cropped, [place.height, place.width], antialias=True))
    return _psnr(ours, expected), _psnr(theirs, expected)


def _psnr(pixels: Any, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(pixels, np.float64) - expected) ** 2)))


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    with tempfile.TemporaryDirectory() as work:
        common.convert(f"--src={flags.FLAGS.photos}", f"--out={work}/out")
        quality(open_dataset(Path(work) / "out").records("train"), flags.FLAGS.image_size)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("image_size", 150, "Height and width in pixels.")
    command.run(main)
