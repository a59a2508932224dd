"""Compare the speed of the input pipeline with other loaders on the same photographs.

This project reads records through the index, fully shuffled. The other loaders are ImageDataGenerator,
image_dataset_from_directory with Keras layers, and, with the extra `interop`, torchvision's transforms in a DataLoader.
Two limits are measured: reading TFRecords sequentially, with and without decoding.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from benchmarks import common
from tfrecord_tools import dataset
from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.base import command
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.records import Dataset, Records

_FEATURES = {"image": tf.io.FixedLenFeature([], tf.string)}
_REFERENCE = PRESETS["reference"]
Rate = Callable[[], float]  # Measures images/s.


def sequential(data: Dataset, decode: Callable[[tf.Tensor], tf.Tensor] | None, batch_size: int) -> tf.data.Dataset:
    """Read as TensorFlow's guide does: shards in order, a shuffle buffer, parallel decoding."""
    records = (
        tf.data.TFRecordDataset(sorted(map(str, data.directory.glob("*-train.tfrecord-*")))).repeat().shuffle(1000)
    )
    if decode is not None:
        records = records.map(
            lambda example: decode(tf.io.parse_single_example(example, _FEATURES)["image"]), tf.data.AUTOTUNE
        )
    return records.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def generator(photos: Path, size: int, batch_size: int, augment: bool) -> Iterator[Any]:
    """Return batches of ImageDataGenerator, the loader of the reference recipe."""
    settings: dict[str, Any] = {"rescale": 1 / 255}
    if augment:
        settings |= {
            "rotation_range": 90, "width_shift_range": 0.2, "height_shift_range": 0.2, "zoom_range": 0.2,
            "horizontal_flip": True, "vertical_flip": True, "fill_mode": "nearest",
        }  # fmt: skip
    loader = tf.keras.preprocessing.image.ImageDataGenerator(**settings)
    flow: Iterator[Any] = loader.flow_from_directory(
        str(photos), (size, size), batch_size=batch_size, class_mode="binary"
    )
    return flow


def keras_directory(photos: Path, size: int, batch_size: int, augment: bool) -> tf.data.Dataset:
    data = keras.utils.image_dataset_from_directory(
        str(photos), image_size=(size, size), batch_size=batch_size, verbose=False
    ).repeat()
    if augment:
        edges: dict[str, Any] = {"fill_mode": "nearest"}
        layers = [
            keras.layers.RandomRotation(0.25, **edges),
            keras.layers.RandomTranslation(0.2, 0.2, **edges),
            keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **edges),
            keras.layers.RandomFlip(),
        ]
        data = data.map(
            lambda images, labels: (functools.reduce(lambda x, f: f(x, training=True), layers, images), labels),
            tf.data.AUTOTUNE,
        )
    return data.prefetch(tf.data.AUTOTUNE)


def torchvision_rate(*options: str) -> float:
    """Return the images/s of torchvision's loader; see `benchmarks.torchvision_peer`."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.torchvision_peer", *options], capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def rates(data: Dataset, prepared: Dataset, photos: Path, given: Any) -> dict[str, tuple[Rate, Rate]]:
    """Return name -> functions that measure images/s without and with augmentation."""
    size, batch_size, count = given.image_size, given.batch_size, given.images

    def rate_of(make: Callable[[], Iterable[Any]]) -> Rate:
        return lambda: common.images_per_second(make(), batch_size, count)

    def ours(records: Records, **settings: Any) -> tuple[Rate, Rate]:
        make = functools.partial(
            dataset.train_batches, records, batch_size=batch_size, image_size=size, seed=0, **settings
        )
        return rate_of(make), rate_of(functools.partial(make, augment=_REFERENCE))

    def theirs(make: Callable[..., Iterable[Any]]) -> tuple[Rate, Rate]:
        plain, augmented = (functools.partial(make, photos, size, batch_size, augment) for augment in (False, True))
        return rate_of(plain), rate_of(augmented)

    records = data.records("train")
    table = {
        "ours": ours(records),
        "ours, records made with --resize": ours(prepared.records("train")),
        "ours, from memory": ours(records, cache=dataset.cache_pixels(records, image_size=size)),
        "ImageDataGenerator": theirs(generator),
        "image_dataset_from_directory": theirs(keras_directory),
    }
    if importlib.util.find_spec("torchvision"):
        options = [f"--photos={photos}", f"--image_size={size}", f"--batch_size={batch_size}", f"--images={count}"]
        plain, augmented = (functools.partial(torchvision_rate, *options, f"--augment={x}") for x in (False, True))
        table["torchvision v2, 2 workers"] = plain, augmented
    else:
        print("torchvision is not installed, so it is not measured")
    return table


def compare(table: dict[str, tuple[Rate, Rate]], limits: dict[str, Rate], rounds: int) -> None:
    """Print medians, and the median ratio of ours to each."""
    figures: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, pair in table.items():
            for number, measure in enumerate(pair):
                figures.setdefault((name, number), []).append(measure())
        for name, measure in limits.items():
            figures.setdefault((name, 0), []).append(measure())
    print(f"images/s, medians of {rounds} rounds (median ratio of ours to this loader)")
    print(f"  {'':<34} {'plain':>16} {'augmented':>16}")
    for name in [*table, *limits]:
        cells = []
        for number in (0, 1):
            if values := figures.get((name, number)):
                ratio = statistics.median(a / b for a, b in zip(figures["ours", number], values))
                cells.append(f"{statistics.median(values):,.0f} ({ratio:.2f})")
        print(f"  {name:<34} {''.join(f'{cell:>17}' for cell in cells)}")


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


def convert(photos: Path, out: Path, *options: str) -> Dataset:
    common.convert(f"--src={photos}", f"--out={out}", *options)
    return dataset.open(out)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    photos, size, batch_size = Path(given.photos), given.image_size, given.batch_size
    with tempfile.TemporaryDirectory() as work:
        data = convert(photos, Path(work) / "out")
        prepared = convert(photos, Path(work) / "small", f"--resize={given.resize}")
        records = data.records("train")
        quality(records, size)

        def rate(make: Callable[[], Iterable[Any]], count: int = given.images) -> Rate:
            return lambda: common.images_per_second(make(), batch_size, count)

        def only_decoded(image: tf.Tensor) -> tf.Tensor:
            return tf.shape(tf.io.decode_jpeg(image, channels=3))

        limits = {"limit: sequential, only decoded": rate(lambda: sequential(data, only_decoded, batch_size))}
        compare(rates(data, prepared, photos / "train", given), limits, given.rounds)
        ours = functools.partial(dataset.serialized_batches, records, batch_size=batch_size, seed=0)
        bytes_only = {
            "index, full shuffle": rate(ours, given.images * 5),
            "sequential + shuffle(1000)": rate(lambda: sequential(data, None, batch_size), given.images * 5),
        }
        print("records/s, bytes only")
        for name, measure in bytes_only.items():
            print(f"  {name:<34} {statistics.median(measure() for _ in range(given.rounds)):>16,.0f}")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("batch_size", 20, "Number of images per batch.")
    flags.DEFINE_integer("image_size", 150, "Height and width in pixels.")
    flags.DEFINE_integer(
        "resize", 160, "Length in pixels of the shorter side of the images in the records that are made with --resize."
    )
    flags.DEFINE_integer("images", 2000, "Number of images to read in each measurement.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    command.run(main)
