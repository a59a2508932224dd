"""The functions that take most of the time of converting and reading, for `benchmarks.check`.

    python -m benchmarks.hot_paths DIRECTORY

Each function is called a fixed number of times between two calls of `zlib.adler32`, at which Callgrind writes what it
counted. Nothing else in this process may call `zlib.adler32`. So `prepare` makes the files in another process.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import common
from tfrecord_tools import order
from tfrecord_tools.decoding import decoder
from tfrecord_tools.images import preparation
from tfrecord_tools.layout import schema
from tfrecord_tools.records import open_dataset

MARK = "adler32"
_SIZE = (440, 374)  # Width and height of a mean photograph.
_IMAGES = 16
_RAW = 150  # Side of raw pixels.


@dataclasses.dataclass(frozen=True)
class HotPath:
    """A function to watch.

    Attributes:
        name: Name in expected.json.
        calls: Number of times that `run` calls the function.
        run: Calls the function `calls` times.
    """

    name: str
    calls: int
    run: Callable[[], object]


def drawing(number: int) -> bytes:
    """Return a JPEG of smooth noise with about as many bytes as a photograph."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 28, 3), np.uint8)
    fine = np.random.default_rng(-number % 1000).integers(-12, 13, (_SIZE[1], _SIZE[0], 3))
    smooth = np.asarray(Image.fromarray(noise).resize(_SIZE, Image.Resampling.BICUBIC), np.int64)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=80)
    return encoded.getvalue()


def prepare(directory: Path) -> None:
    """Draw the images, and convert them to `directory`/out and, as raw pixels, to `directory`/raw."""
    for number in range(_IMAGES):
        folder = directory / "images" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(drawing(number))
    for name, options in (("out", []), ("raw", common.raw_options(_RAW))):
        common.convert(
            f"--src={directory / 'images'}", f"--out={directory / name}", "--validation_fraction=0", "--workers=1",
            *options,
        )  # fmt: skip


def hot_paths(directory: Path) -> list[HotPath]:
    """Return the functions, with the files that `prepare` made in a directory."""
    records = open_dataset(directory / "out").records("train")
    raw = open_dataset(directory / "raw").records("train")
    numbers, pixels = np.arange(_IMAGES), np.empty((_IMAGES, _RAW, _RAW, 3), np.uint8)
    image = (directory / "images/cats/00.jpg").read_bytes()
    example = schema.encode_example(image, "cats/00.jpg", 0)
    framed = schema.frame(example)

    def ordered() -> None:
        positions = order.Shuffled(1_000_000, 0)
        for step in range(1000):  # Five chunks of the order.
            positions.at(order.batch_positions(step, 20))

    def repeated(name: str, calls: int, call: Callable[[int], object]) -> HotPath:
        return HotPath(name, calls, lambda: [call(number) for number in range(calls)])

    return [
        repeated("read a record by number", 400, lambda number: records[number * 7 % len(records)]),
        repeated("read 16 raw images", 30, lambda _: raw.read_pixels(numbers, pixels)),
        repeated("decode_example", 400, lambda _: schema.decode_example(example)),
        repeated("content and image_of", 400, lambda _: schema.image_of(schema.content(memoryview(framed)) or b"")),
        repeated(
            "encode_example and frame", 400, lambda n: schema.frame(schema.encode_example(image, "cats/00.jpg", n))
        ),
        repeated("inspect a JPEG", 30, lambda _: preparation.prepare(image, look=True)),
        repeated("decode a JPEG to 150 px", 30, lambda _: decoder.decode(image, 150)),
        HotPath("order of a batch", 1000, ordered),
    ]


def main(directory: str) -> None:
    paths = hot_paths(Path(directory))
    for path in paths:
        path.run()  # The first call loads modules.
    for path in paths:
        zlib.adler32(b"")
        path.run()
        zlib.adler32(b"")


if __name__ == "__main__":
    main(sys.argv[1])
