"""Mutated images of all types: nothing crashes or hangs, and what becomes a record decodes in TensorFlow."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from odd_files import encoded, translucent, turned
from PIL import Image

from tfrecord_tools.images.preparation import BadImage, ImageConfig, prepare

MOST_SECONDS = 5.0  # For an image of 60 x 40 pixels; usual are thousandths.
MAX_PIXELS = 20_000_000  # Mutants announce any size; this is what bounds memory.
MOST_BYTES = 300 << 20  # By which the process may grow: decoders of WebP hold a picture twice, of 4 bytes a pixel.


def picture(mode: str = "RGB") -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (10, 15, 3), np.uint8)
    return Image.fromarray(blocks).resize((60, 40)).convert(mode)


SEEDS = {
    "JPEG": encoded(picture(), "JPEG"),
    "JPEG progressive": encoded(picture(), "JPEG", progressive=True),
    "JPEG turned": turned(6),
    "JPEG grey": encoded(picture("L"), "JPEG"),
    "JPEG CMYK": encoded(picture("CMYK"), "JPEG"),
    "JPEG with restarts": encoded(picture(), "JPEG", restart_marker_blocks=2),
    "PNG": encoded(picture(), "PNG"),
    "PNG palette": encoded(picture("P"), "PNG"),
    "PNG alpha": encoded(translucent(), "PNG"),
    "GIF": encoded(picture("P"), "GIF", interlace=0),
    "GIF interlaced": encoded(picture("P"), "GIF", interlace=1),
    "GIF animated": encoded(picture("P"), "GIF", save_all=True, append_images=[Image.new("P", (60, 40))]),
    "WebP": encoded(picture(), "WEBP"),
    "WebP lossless": encoded(picture(), "WEBP", lossless=True),
    "WebP alpha": encoded(translucent(), "WEBP"),
    "BMP": encoded(picture(), "BMP"),
    "BMP grey": encoded(picture("L"), "BMP"),
    "BMP palette": encoded(picture("P"), "BMP"),
}
FAR = 70_000  # Zeros, which push what follows behind the 64 KiB that Pillow reads at once.
SECOND_FRAME = b"\xff\xc0\0\x0b\x08\0\x28\0\x3c\1\1\x11\0"
MARKERS = (b"", b"\xff\xd8", b"\xff\xdf\0\2", b"\xff\2", b"\xff\xd9", b"\xff\xff", SECOND_FRAME)


def mutants(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Damage of the usual sorts, anywhere in the file."""
    for number in range(count):
        at = int(rng.integers(2, len(data)))
        noise = rng.bytes(int(rng.integers(1, 9)))
        yield (
            data[:at],  # Cut off.
            data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :],  # A bit.
            data[:at] + noise[:1] + data[at + 1 :],  # A byte.
            data[:at] + bytes(len(data) - at),  # Zeros to the end, as of a download that broke off.
            data[:at] + data[at + len(noise) :],  # Some bytes lost.
            data[:at] + noise + data[at:],  # Some more.
        )[number % 6]


def large(**save: Any) -> bytes:
    """A JPEG of more than 64 KiB, so that its coded data can be hit behind them."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    return encoded(Image.fromarray(noise), "JPEG", quality=80, **save)


LARGE = {
    "JPEG large": large(),
    "JPEG large progressive": large(progressive=True),
    "JPEG large with restarts": large(restart_marker_rows=1),
    "PNG large": encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)), "PNG"),
}


def far_mutants(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Damage behind 64 KiB: zeros and markers before the end and elsewhere, bytes flipped, lost or cut off there."""
    start = 65_536 if len(data) > 70_000 else len(data) * 2 // 3
    for number in range(count):
        at = int(rng.integers(start, len(data)))
        end = len(data) - 2 if number % 2 else at
        marker = MARKERS[int(rng.integers(len(MARKERS)))]
        noise = rng.bytes(int(rng.integers(1, 9)))
        yield (
            data[:end] + bytes(FAR) + marker + data[end:],
            data[:end] + bytes(int(rng.integers(FAR))) + marker + noise + data[end:],
            data[:at] + marker + data[at:],
            data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :],
            data[:at] + data[at + len(noise) :],
            data[:at] + data[-2:],  # Cut off, and ended.
            data[:at] + bytes(FAR) + data[-2:],
        )[number % 7]


def decodes(data: bytes) -> bool:
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False).shape[-1] == 3
    except tf.errors.InvalidArgumentError:
        return False


def fuzz(
    count: int,
    config: ImageConfig,
    seeds: Mapping[str, bytes] = SEEDS,
    mutate: Callable[[bytes, int, np.random.Generator], Iterator[bytes]] = mutants,
) -> dict[str, Counter[str]]:
    """Mutates each seed `count` times; returns the counts of each.

    Keys: "mutants", "records", "decodes" in TensorFlow, "kept" of these as records.
    """
    found: dict[str, Counter[str]] = {}
    for name, data in seeds.items():
        counts: Counter[str] = Counter()
        for mutant in mutate(data, count, np.random.default_rng(len(found))):
            start = time.process_time()
            try:
                stored, reason = prepare(mutant, config).data, ""
            except BadImage as error:
                stored, reason = b"", str(error)
            assert time.process_time() - start < MOST_SECONDS
            assert not stored or decodes(stored), f"{name}: a record that TensorFlow does not decode: {mutant[:2000]!r}"
            # TensorFlow has no limit of pixels: it would take 24 GB to hold what a flipped bit made of a GIF's size.
            # It also decodes what is mostly gone, which the rule of half of the rows leaves out.
            readable = "--max_pixels" not in reason and "too much" not in reason and decodes(mutant)
            counts.update(mutants=1, records=bool(stored), decodes=readable, kept=readable and bool(stored))
        found[name] = counts
    return found


def kept(found: dict[str, Counter[str]]) -> float:
    """Of what TensorFlow decodes, the share that became records."""
    return sum(counts["kept"] for counts in found.values()) / sum(counts["decodes"] for counts in found.values())


def show(capsys: pytest.CaptureFixture[str], mode: str, found: dict[str, Counter[str]]) -> None:
    with capsys.disabled():
        print(f"\n--on_bad_image={mode}: {kept(found):.2%} of what TensorFlow decodes became records")
        for name, counts in found.items():
            print(f"  {name:<24}", *(f"{key} {counts[key]:>5,}" for key in ("mutants", "records", "decodes", "kept")))


def test_some_mutants() -> None:
    found = fuzz(24, ImageConfig(on_bad_image="repair", max_pixels=MAX_PIXELS))
    assert kept(found) > 0.97
    assert all(counts["records"] > 0 for name, counts in found.items() if not name.startswith("PNG"))
    assert sum(counts["decodes"] for counts in found.values()) > 100  # Else nothing was tested.


def test_some_mutants_behind_64_kib() -> None:
    for mode in ("skip", "repair"):
        found = fuzz(7, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS), SEEDS | LARGE, far_mutants)
        assert sum(counts["records"] for counts in found.values()) > 40


@pytest.mark.slow
def test_five_thousand_mutants_behind_64_kib(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = SEEDS | LARGE
    each = -(-5000 // (2 * len(seeds)))
    for mode in ("skip", "repair"):
        found = fuzz(each, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS), seeds, far_mutants)
        show(capsys, mode, found)
        assert kept(found) >= 0.6  # TensorFlow decodes what was cut and ended, and no one should learn from it.


@pytest.mark.slow
def test_twenty_thousand_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    each = -(-20_000 // (2 * len(SEEDS)))
    results = {mode: fuzz(each, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS)) for mode in ("repair", "skip")}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for mode, found in results.items():
        show(capsys, mode, found)
    with capsys.disabled():
        print(f"grown by {grown / 1e6:,.0f} MB")
    assert kept(results["repair"]) >= 0.99
    assert kept(results["skip"]) >= 0.97  # GIFs whose pixels break off are what it leaves out on purpose.
    assert grown < MOST_BYTES
