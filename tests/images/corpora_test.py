"""Tests with public test corpora: no crash, and a reason for each difference from other readers.

TFRECORD_TOOLS_CORPORA names a directory of files of all kinds, such as the test images of Pillow, libjpeg-turbo,
libavif, libheif, libjxl, openjpeg, exiv2 and image-rs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from tfrecord_tools.images.preparation import BadImage, ImageConfig, prepare

CONFIG = ImageConfig(max_pixels=20_000_000)
MOST_SECONDS = 5.0  # For an image of 20 million pixels that is encoded again.

pytestmark = [pytest.mark.slow, pytest.mark.corpora]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result for a file, and whether two other readers decode it.

    Attributes:
        path: Path of the file.
        kind: Type of the file, if it became a record. "": it was rejected.
        changes: Changes to the image.
        reason: Reason for the rejection. "": the file became a record.
        tensorflow: Whether TensorFlow decodes the file.
        pillow: Whether Pillow decodes the file.
    """

    path: Path
    kind: str
    changes: tuple[str, ...]
    reason: str
    tensorflow: bool
    pillow: bool


Rule = Callable[[Verdict], bool]
WHY_REJECTED: dict[str, Rule] = {  # Reasons although TensorFlow or Pillow reads the file.
    "larger than --max_pixels": lambda v: "--max_pixels" in v.reason,
    "a format that only Pillow reads": lambda v: not v.tensorflow and "not a supported format" in v.reason,
    "pages or text, which Pillow would render": lambda v: not v.tensorflow and v.reason.startswith("not an image"),
    "levels without a known black and white": lambda v: not v.tensorflow and "are black and white" in v.reason,
    "Pillow ignores damage in a PNG": lambda v: not v.tensorflow and " PNG" in v.reason,
    "a JPEG that TensorFlow does not decode": lambda v: not v.tensorflow and "JPEG" in v.reason,
    "a JPEG with missing data, which both fill with a color": lambda v: "image data ends early" in v.reason,
    "TensorFlow ignores wrong checksums": lambda v: not v.pillow and "wrong checksum of the PNG" in v.reason,
    "a BMP that Pillow does not read": lambda v: not v.pillow and v.path.read_bytes()[:2] == b"BM",
    "a WebP with damaged chunks": lambda v: not v.pillow and v.path.read_bytes()[8:12] == b"WEBP",
    "a JPEG XL that the plugin does not decode": lambda v: not v.pillow and "JPEG XL" in v.reason,
}  # fmt: skip
WHY_A_RECORD: dict[str, Rule] = {  # Reasons although TensorFlow or Pillow does not read the file.
    "decoded and stored as JPEG or PNG": lambda v: "converted" in v.changes or "turned" in v.changes,
    "Pillow rejects chunks that do not hold pixels": lambda v: v.kind == "PNG" and v.tensorflow and not v.pillow,
}


def corpus() -> list[Path]:
    root = os.environ.get("TFRECORD_TOOLS_CORPORA")
    if not root:
        pytest.skip("TFRECORD_TOOLS_CORPORA is not set: it names a directory of image files of all sorts")
    paths = (path for path in Path(root).rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in paths if ".git" not in path.parts)


def pillow_reads(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height <= CONFIG.max_pixels:
                image.load()
            return True
    except Exception:  # noqa: BLE001  Pillow's parsers may raise anything.
        return False


def tensorflow_reads(data: bytes) -> bool:
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False).shape[-1] == 3
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError, tf.errors.UnimplementedError):
        return False


def verdict_of(path: Path) -> Verdict:
    data = path.read_bytes()
    start = time.process_time()
    changes: tuple[str, ...]
    try:
        prepared = prepare(data, CONFIG)
    except BadImage as error:
        kind, changes, reason, stored = "", (), str(error), b""
    else:
        kind, changes, reason, stored = prepared.source_type, prepared.changes, "", prepared.data
    assert time.process_time() - start < MOST_SECONDS, path
    assert bool(reason) != tensorflow_reads(stored), f"{path}: a record that TensorFlow does not decode"
    tensorflow = "--max_pixels" not in reason and tensorflow_reads(data)
    return Verdict(path, kind, changes, reason, tensorflow, pillow_reads(data))


def explained(verdict: Verdict) -> str:
    """Return why the result differs from another reader's; "" if it does not, "?" if no rule applies."""
    if verdict.tensorflow == verdict.pillow == (not verdict.reason):
        return ""
    rules = WHY_REJECTED if verdict.reason else WHY_A_RECORD
    return next((why for why, holds in rules.items() if holds(verdict)), "?")


def test_every_difference_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [verdict_of(path) for path in corpus()]
    differences = Counter(why for verdict in verdicts if (why := explained(verdict)))
    with capsys.disabled():
        records = [verdict for verdict in verdicts if not verdict.reason]
        changed = sum(bool(verdict.changes) for verdict in records)
        print(f"\n{len(verdicts):,} files: {len(records):,} records, {changed:,} of them changed")
        print(f"{len(verdicts) - len(records):,} rejected; {sum(differences.values()):,} differences:")
        for why, count in differences.most_common():
            print(f"  {count:>5,}  {why}")
    unexplained = [verdict for verdict in verdicts if explained(verdict) == "?"]
    assert unexplained == []


def test_decoders_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Messages of C libraries do not name the file and fill the terminal."""
    paths = corpus()
    capfd.readouterr()
    for path in paths:
        with contextlib.suppress(BadImage):
            prepare(path.read_bytes(), dataclasses.replace(CONFIG, on_bad_image="repair"))
    assert capfd.readouterr() == ("", "")
