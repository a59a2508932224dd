"""Tests of the facts about the look of images, against SciPy and against drawn images."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
from odd_files import encoded, smooth
from PIL import Image, ImageFilter

from tfrecord_tools.images import appearance
from tfrecord_tools.images.appearance import Thumbnail
from tfrecord_tools.images.preparation import ImageConfig, prepare
from tfrecord_tools.layout.near_duplicates import distances


def picture(seed: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """Draw a smooth random picture with details of several sizes."""
    rng, result = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        result += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), float) / cells
    result = (result - result.min()) * 255 / (result.max() - result.min())
    return Image.fromarray(result.astype(np.uint8))


def test_the_hash_is_that_of_scipys_transform() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 32, 32), np.uint8)
    low = scipy.fft.dctn(pixels.astype(float), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    expected = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(">u8")[:, 0]
    found = appearance.facts([Thumbnail(one, (32, 32), False) for one in pixels])
    assert found["phash"].tolist() == expected.tolist()


def test_the_numbers_are_their_definitions() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    pixels[2, :, :20] = 7
    found = appearance.facts([Thumbnail(one, (32, 32), gray) for one, gray in zip(pixels, (True, False, True))])
    f = pixels.astype(float)
    laplacian = 4 * f[:, 1:-1, 1:-1] - f[:, :-2, 1:-1] - f[:, 2:, 1:-1] - f[:, 1:-1, :-2] - f[:, 1:-1, 2:]
    assert found["brightness"] == pytest.approx(f.mean((1, 2)))
    assert found["contrast"] == pytest.approx(f.std((1, 2)))
    assert found["sharpness"] == pytest.approx(laplacian.std((1, 2)) / f.std((1, 2)), rel=1e-5)
    shares = [np.bincount(one.reshape(-1) // 16).max() / 1024 for one in pixels]
    assert found["flat_share"] == pytest.approx(shares)
    assert found["gray"].tolist() == [True, False, True]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_has_no_hash(level: int) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8)
    blank = Image.fromarray(np.clip(level + noise.astype(int), 0, 255).astype(np.uint8))
    (fact,) = appearance.facts_of([encoded(blank, "PNG")])
    assert fact["phash"] == 0
    assert fact["flat_share"] == 1
    assert fact["brightness"] == pytest.approx(min(level + 1, 255), abs=1)


COPIES = {
    "PNG": lambda image: encoded(image, "PNG"),
    "JPEG 30": lambda image: encoded(image, "JPEG", quality=30),
    "half": lambda image: encoded(image.resize((150, 100)), "JPEG"),
    "quarter": lambda image: encoded(image.resize((75, 50)), "PNG"),
    "gray": lambda image: encoded(image.convert("L"), "JPEG"),
    "blur": lambda image: encoded(image.filter(ImageFilter.GaussianBlur(1)), "JPEG"),
    "opaque RGBA": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "progressive": lambda image: encoded(image, "JPEG", progressive=True),
    "odd size": lambda image: encoded(image.resize((297, 199)), "JPEG"),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_near_hashes_and_others_do_not(name: str) -> None:
    images = [picture(seed) for seed in range(8)]
    hashes = appearance.facts_of([encoded(image, "JPEG") for image in images])["phash"]
    copies = appearance.facts_of([COPIES[name](image) for image in images])["phash"]
    assert distances(hashes, copies).max() <= 6
    assert min(distances(hashes, np.roll(copies, shift)).min() for shift in range(1, 8)) > 12


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})])
@pytest.mark.parametrize("settings", [{}, {"resize": 90}, {"store": "png"}])
def test_the_facts_are_those_of_the_stored_image(
    kind: str, options: dict[str, bool], settings: dict[str, object]
) -> None:
    config = ImageConfig(**settings)  # type: ignore[arg-type]
    prepared = prepare(encoded(picture(3), kind, **options), config, look=True)
    assert prepared.thumbnail is not None
    (first,), (again,) = appearance.facts([prepared.thumbnail]), appearance.facts_of([prepared.data])
    assert distances(np.array([first["phash"]]), np.array([again["phash"]]))[0] <= 2
    assert first["brightness"] == pytest.approx(again["brightness"], abs=1)


@pytest.mark.parametrize("config", [ImageConfig(verify="header"), ImageConfig(verify="header", store="png")])
def test_without_full_verification_there_is_no_thumbnail(config: ImageConfig) -> None:
    assert prepare(encoded(smooth(), "JPEG"), config, look=True).thumbnail is None


def test_gray_is_one_channel() -> None:
    kinds = [encoded(picture(1).convert("L"), kind) for kind in ("JPEG", "PNG")]
    kinds += [encoded(picture(1).convert("L").convert("RGB"), kind) for kind in ("JPEG", "PNG")]
    assert appearance.facts_of(kinds)["gray"].tolist() == [True, True, False, False]


def test_raw_pixels_and_images_that_do_not_decode() -> None:
    raw = picture(2)
    found = appearance.facts_of(
        [raw.tobytes(), b"", b"\xff\xd8\xff not a JPEG", encoded(raw, "PNG")], [(200, 300), (0, 0), (0, 0), (0, 0)]
    )
    assert found["phash"][0] == found["phash"][3] != 0
    assert found["phash"].tolist()[1:3] == [0, 0]
    assert np.isnan(found["brightness"]).tolist() == [False, True, True, False]


def test_a_blur_lowers_the_sharpness() -> None:
    image = picture(4)
    images = [image, *(image.filter(ImageFilter.GaussianBlur(radius)) for radius in (8, 16))]
    sharpness = appearance.facts_of([encoded(one, "JPEG") for one in images])["sharpness"]
    assert sharpness[0] > sharpness[1] > sharpness[2]


def test_nothing_gives_no_facts() -> None:
    assert len(appearance.facts([])) == len(appearance.facts_of([])) == 0
