"""Tests with mutated images of all types: no crash or hang, and TensorFlow decodes every record."""

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

MOST_SECONDS = 5.0  # For an image of 60 x 40 pixels, which usually takes milliseconds.
MAX_PIXELS = 20_000_000  # Mutants may have any size in the header, so this limits memory.
MOST_BYTES = 300 << 20  # Allowed growth of the process: WebP decoders hold a picture twice, with 4 bytes per pixel.


def picture(mode: str = "RGB") -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (10, 15, 3), np.uint8)
    return Image.fromarray(blocks).resize((60, 40)).convert(mode)


SEEDS = {
    "JPEG": encoded(picture(), "JPEG"),
    "JPEG progressive": encoded(picture(), "JPEG", progressive=True),
    "JPEG turned": turned(6),
    "JPEG gray": encoded(picture("L"), "JPEG"),
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
    "BMP gray": encoded(picture("L"), "BMP"),
    "BMP palette": encoded(picture("P"), "BMP"),
}
FAR = 70_000  # Number of zeros that move the following bytes past the 64 KiB that Pillow reads at once.
SECOND_FRAME = b"\xff\xc0\0\x0b\x08\0\x28\0\x3c\1\1\x11\0"
MARKERS = (b"", b"\xff\xd8", b"\xff\xdf\0\2", b"\xff\2", b"\xff\xd9", b"\xff\xff", SECOND_FRAME)


def mutants(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield mutants with the usual kinds of damage, anywhere in the file."""
    for number in range(count):
        at = int(rng.integers(2, len(data)))
        noise = rng.bytes(int(rng.integers(1, 9)))
        yield (
            data[:at],  # Cut.
            data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :],  # One bit changed.
            data[:at] + noise[:1] + data[at + 1 :],  # One byte changed.
            data[:at] + bytes(len(data) - at),  # Zeros to the end, as after an interrupted download.
            data[:at] + data[at + len(noise) :],  # Some bytes lost.
            data[:at] + noise + data[at:],  # Some bytes inserted.
        )[number % 6]


def large(**save: Any) -> bytes:
    """Return a JPEG of more than 64 KiB, so that image data after the first 64 KiB can be damaged."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    return encoded(Image.fromarray(noise), "JPEG", quality=80, **save)


LARGE = {
    "JPEG large": large(),
    "JPEG large progressive": large(progressive=True),
    "JPEG large with restarts": large(restart_marker_rows=1),
    "PNG large": encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)), "PNG"),
}


def far_mutants(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield mutants with damage after 64 KiB: inserted zeros and markers, changed, lost or cut bytes."""
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
            data[:at] + data[-2:],  # Cut, with an end marker.
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
    """Mutate each seed `count` times and return the counts for each seed.

    The counts are "mutants", "records", "decodes" (TensorFlow decodes the mutant), and "kept" (a record, and TensorFlow
    decodes the mutant).
    """
    results: dict[str, Counter[str]] = {}
    for name, data in seeds.items():
        counts: Counter[str] = Counter()
        for mutant in mutate(data, count, np.random.default_rng(len(results))):
            start = time.process_time()
            try:
                stored, reason = prepare(mutant, config).data, ""
            except BadImage as error:
                stored, reason = b"", str(error)
            assert time.process_time() - start < MOST_SECONDS
            assert not stored or decodes(stored), f"{name}: a record that TensorFlow does not decode: {mutant[:2000]!r}"
            # TensorFlow has no limit of pixels: a GIF with a flipped bit in its size could take 24 GB. It also decodes
            # images with more than half of the rows lost, which are rejected here.
            readable = "--max_pixels" not in reason and "too many to repair" not in reason and decodes(mutant)
            counts.update(mutants=1, records=bool(stored), decodes=readable, kept=readable and bool(stored))
        results[name] = counts
    return results


def kept(results: dict[str, Counter[str]]) -> float:
    """Return the fraction of the mutants decoded by TensorFlow that became records."""
    return sum(counts["kept"] for counts in results.values()) / sum(counts["decodes"] for counts in results.values())


def show(capsys: pytest.CaptureFixture[str], mode: str, results: dict[str, Counter[str]]) -> None:
    with capsys.disabled():
        print(f"\n--on_bad_image={mode}: {kept(results):.2%} of the mutants decoded by TensorFlow became records")
        for name, counts in results.items():
            print(f"  {name:<24}", *(f"{key} {counts[key]:>5,}" for key in ("mutants", "records", "decodes", "kept")))


def test_some_mutants() -> None:
    results = fuzz(24, ImageConfig(on_bad_image="repair", max_pixels=MAX_PIXELS))
    assert kept(results) > 0.97
    assert all(counts["records"] > 0 for name, counts in results.items() if not name.startswith("PNG"))
    assert sum(counts["decodes"] for counts in results.values()) > 100  # The test needs enough readable mutants.


def test_some_mutants_after_64_kib() -> None:
    for mode in ("skip", "repair"):
        results = fuzz(7, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS), SEEDS | LARGE, far_mutants)
        assert sum(counts["records"] for counts in results.values()) > 40


@pytest.mark.slow
def test_five_thousand_mutants_after_64_kib(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = SEEDS | LARGE
    each = -(-5000 // (2 * len(seeds)))
    for mode in ("skip", "repair"):
        results = fuzz(each, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS), seeds, far_mutants)
        show(capsys, mode, results)
        assert kept(results) >= 0.6  # TensorFlow also decodes JPEGs that were cut, which are rejected here.


@pytest.mark.slow
def test_twenty_thousand_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    each = -(-20_000 // (2 * len(SEEDS)))
    results = {mode: fuzz(each, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS)) for mode in ("repair", "skip")}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for mode, result in results.items():
        show(capsys, mode, result)
    with capsys.disabled():
        print(f"grown by {grown / 1e6:,.0f} MB")
    assert kept(results["repair"]) >= 0.99
    assert kept(results["skip"]) >= 0.97  # GIFs that are cut are rejected on purpose.
    assert grown < MOST_BYTES
