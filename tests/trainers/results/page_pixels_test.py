"""Tests that the page and the facts of an audit show the pixels that a training decodes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tfrecord_tools.card import statistics
from tfrecord_tools.decoding import decoder
from tfrecord_tools.images import appearance
from trainers.results import review_page


def unusual(mode: str) -> bytes:
    """Return a PNG of 16 bits, or with a red square on transparent black."""
    if mode == "I;16":
        image = Image.fromarray(np.linspace(2_000, 40_000, 64 * 64).reshape(64, 64).astype(np.uint16))
    else:
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        image.paste((200, 20, 20, 255), (16, 16, 48, 48))
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P"])
def test_the_page_and_the_facts_have_the_pixels_of_the_training(mode: str) -> None:
    png = unusual(mode)
    pixels = decoder.decode(png, 64, 1.0).astype(np.float64)
    with Image.open(io.BytesIO(review_page.jpeg_of(png))) as small:
        np.testing.assert_allclose(np.asarray(small).mean((0, 1)), pixels.mean((0, 1)), atol=2)
    (facts,) = appearance.facts_of([png])
    gray = pixels @ (0.299, 0.587, 0.114)
    assert facts["brightness"] == pytest.approx(gray.mean(), abs=2)
    assert facts["contrast"] == pytest.approx(gray.std(), abs=4)
    assert facts["phash"] != 0
    decoded = statistics._decoded(png, 0, 0)
    assert decoded
    np.testing.assert_allclose(decoded[0][0], pixels.mean((0, 1)), atol=1)
