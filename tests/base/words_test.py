"""Tests of numbers with nouns, and of names with articles."""

from __future__ import annotations

import pytest

from tfrecord_tools.base import words


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (0, ["image"], "0 images"),
        (1, ["image"], "1 image"),
        (1234, ["image"], "1,234 images"),
        (2, ["class"], "2 classes"),
        (1, ["class"], "1 class"),
        (3, ["copy"], "3 copies"),
        (2, ["day"], "2 days"),
        (2, ["batch"], "2 batches"),
        (1, ["image is", "images are"], "1 image is"),
        (2, ["image is", "images are"], "2 images are"),
    ],
)
def test_numbers(count: int, nouns: list[str], expected: str) -> None:
    assert words.number(count, *nouns) == expected


@pytest.mark.parametrize(
    "expected",
    ["an AVIF", "a JPEG", "a PNG", "an MPO", "a WebP", "a TIFF", "an ICO", "an XBM", "a HEIC", "an SGI", "a GIF"],
)
def test_articles(expected: str) -> None:
    assert words.with_article(expected.split()[1]) == expected
