"""Mutated images of all types: nothing crashes or hangs, and what becomes a record decodes in TensorFlow."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from odd_files import encoded, translucent, turned
from PIL import Image

from tfrecord_tools.images import BadImage, ImageConfig, prepare

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


def decodes(data: bytes) -> bool:
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False).shape[-1] == 3
    except tf.errors.InvalidArgumentError:
        return False


def fuzz(count: int, config: ImageConfig) -> dict[str, Counter[str]]:
    """Mutates each seed `count` times; returns the counts of each.

    Keys: "mutants", "records", "decodes" in TensorFlow, "kept" of these as records.
    """
    found = {}
    for name, data in SEEDS.items():
        counts: Counter[str] = Counter()
        for mutant in mutants(data, count, np.random.default_rng(len(found))):
            start = time.process_time()
            try:
                stored, reason = prepare(mutant, config).data, ""
            except BadImage as error:
                stored, reason = b"", str(error)
            assert time.process_time() - start < MOST_SECONDS
            assert not stored or decodes(stored), f"{name}: a record that TensorFlow does not decode: {mutant!r}"
            # TensorFlow has no limit of pixels: it would take 24 GB to hold what a flipped bit made of a GIF's size.
            readable = "--max_pixels" not in reason and decodes(mutant)
            counts.update(mutants=1, records=bool(stored), decodes=readable, kept=readable and bool(stored))
        found[name] = counts
    return found


def kept(found: dict[str, Counter[str]]) -> float:
    """Of what TensorFlow decodes, the share that became records."""
    return sum(counts["kept"] for counts in found.values()) / sum(counts["decodes"] for counts in found.values())


def test_some_mutants() -> None:
    found = fuzz(24, ImageConfig(on_bad_image="repair", max_pixels=MAX_PIXELS))
    assert kept(found) > 0.97
    assert all(counts["records"] > 0 for name, counts in found.items() if not name.startswith("PNG"))
    assert sum(counts["decodes"] for counts in found.values()) > 100  # Else nothing was tested.


@pytest.mark.slow
def test_twenty_thousand_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    each = -(-20_000 // (2 * len(SEEDS)))
    results = {mode: fuzz(each, ImageConfig(on_bad_image=mode, max_pixels=MAX_PIXELS)) for mode in ("repair", "skip")}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    with capsys.disabled():
        for mode, found in results.items():
            print(f"\n--on_bad_image={mode}: {kept(found):.2%} of what TensorFlow decodes became records")
            for name, counts in found.items():
                print(
                    f"  {name:<18}", *(f"{key} {counts[key]:>5,}" for key in ("mutants", "records", "decodes", "kept"))
                )
        print(f"grown by {grown / 1e6:,.0f} MB")
    assert kept(results["repair"]) >= 0.99
    assert kept(results["skip"]) >= 0.97  # GIFs whose pixels break off are what it leaves out on purpose.
    assert grown < MOST_BYTES
