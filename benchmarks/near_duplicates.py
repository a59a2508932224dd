"""Measure near-duplicates by hash: recall for twelve changes, false pairs, time and memory."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from tfrecord_tools.base import command
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import near_duplicates

DISTANCES = (0, 2, 3, 4, 5, 6, 7, 8, 10)
Change = Callable[[Image.Image], Image.Image]


def _scaled(share: float) -> Change:
    return lambda image: image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def _cropped(image: Image.Image) -> Image.Image:
    """Cut 5 % off each side: 10 % of the width and of the height."""
    x, y = round(image.width * 0.05), round(image.height * 0.05)
    return image.crop((x, y, image.width - x, image.height - y))


def _titled(image: Image.Image) -> Image.Image:
    copy = image.copy()
    draw, size = ImageDraw.Draw(copy), max(8, image.height // 12)
    draw.text((size, image.height - 2 * size), "holiday 2024", fill="white", font_size=size)
    return copy


def _rotated(image: Image.Image) -> Image.Image:
    return image.rotate(2, Image.Resampling.BICUBIC)


CHANGES: dict[str, tuple[Change, str, int]] = {  # Name -> change, file format, quality.
    "rescaled to 50 %": (_scaled(0.5), "JPEG", 90),
    "rescaled to 25 %": (_scaled(0.25), "JPEG", 90),
    "JPEG of quality 30": (lambda image: image, "JPEG", 30),
    "brightness 1.3": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), "JPEG", 90),
    "gray": (ImageOps.grayscale, "JPEG", 90),
    "mirrored": (ImageOps.mirror, "JPEG", 90),
    "cropped by 10 %": (_cropped, "JPEG", 90),
    "border of 5 %": (lambda image: ImageOps.expand(image, max(image.size) // 20, "black"), "JPEG", 90),
    "text": (_titled, "JPEG", 90),
    "rotated by 2 degrees": (_rotated, "JPEG", 90),
    "blur of 2 pixels": (lambda image: image.filter(ImageFilter.GaussianBlur(2)), "JPEG", 90),
    "other format (PNG)": (lambda image: image, "PNG", 90),
}


def changed(data: bytes, change: Change, kind: str, quality: int) -> bytes:
    """Return an image with a change, encoded again."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        change(image.convert("RGB")).save(stream, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return stream.getvalue()


def recalls(photos: Sequence[bytes], hashes: np.ndarray, each: int, distances: Sequence[int]) -> None:
    """Print the share of changed photographs with a hash near to that of the original."""
    print(f"recall of {each:,} photographs by distance\n  {'':<24}" + "".join(f"{d:>8}" for d in distances))
    chosen = np.random.default_rng(0).permutation(len(photos))[:each]
    for name, (change, kind, quality) in CHANGES.items():
        others = appearance.facts_of([changed(photos[i], change, kind, quality) for i in chosen])["phash"]
        bits = near_duplicates.distances(hashes[chosen], others)
        known = others != near_duplicates.UNKNOWN
        print(f"  {name:<24}" + "".join(f"{((bits <= d) & known).mean():8.3f}" for d in distances))


def false_pairs(hashes: np.ndarray, origins: np.ndarray, distances: Sequence[int]) -> None:
    """Print the number of near pairs of different photographs, which may contain true ones.

    Args:
        hashes: u64[n].
        origins: i64[n], the photograph that each image was made from.
        distances: The numbers of bits.
    """
    total = len(hashes) * (len(hashes) - 1) // 2 - int((np.bincount(origins) * (np.bincount(origins) - 1) // 2).sum())
    print(f"near pairs of different photographs among {len(hashes):,} images")
    for distance in distances:
        found = near_duplicates.pairs(hashes, distance)
        count = int((origins[found[:, 0]] != origins[found[:, 1]]).sum())
        print(f"  distance {distance:>2}: {count:,} of {total:,} pairs, {count / total * 1e5:.4f} in 10^5")


def times(count: int, distances: Sequence[int]) -> None:
    """Print time and memory of all groups of random hashes."""
    hashes = np.random.default_rng(0).integers(1, 2**63, count, np.uint64)
    for distance in distances:
        start = time.perf_counter()
        near_duplicates.groups(hashes, distance)
        seconds, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"  {count:,} random hashes, distance {distance}: {seconds:.1f} s, peak memory so far {memory:,.0f} MB")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    if given.photos:
        photos = [path.read_bytes() for path in sorted(Path(given.photos).rglob("*.jpg"))]
        hashes = appearance.facts_of(photos)["phash"]
        recalls(photos, hashes, given.each, DISTANCES)
        numbers = np.arange(len(photos))
        false_pairs(hashes, numbers, DISTANCES)
        if given.copies:
            made = ([changed(photo, *how) for photo in photos] for how in CHANGES.values())
            parts = [hashes, *(appearance.facts_of(images)["phash"] for images in made)]
            false_pairs(np.concatenate(parts), np.tile(numbers, len(parts)), DISTANCES)
    times(given.hashes, (5, 7, 8))


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs. Default: only time and memory are measured.")
    flags.DEFINE_integer("each", 500, "Number of photographs for each change.")
    flags.DEFINE_bool("copies", False, "Also count near pairs among all photographs and twelve copies of each.")
    flags.DEFINE_integer("hashes", 1_000_000, "Number of random hashes.")
    command.run(main)
