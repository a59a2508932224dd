"""Files of public test corpora, beside TensorFlow's and Pillow's verdict: nothing aborts, each difference has a reason.

TFRECORD_TOOLS_CORPORA: a directory of such files, of any sort, such as the test images of Pillow, libjpeg-turbo,
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
MOST_SECONDS = 5.0  # For an image of 20 million pixels that is encoded anew.

pytestmark = [pytest.mark.slow, pytest.mark.corpora]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a file, and what two other readers say of it.

    Attributes:
        path: The file.
        kind: What it is, if it became a record.
        changes: What was done to it.
        reason: Why it is no record; "" if it is.
        tensorflow: Whether TensorFlow decodes the file as it is.
        pillow: Whether Pillow does.
    """

    path: Path
    kind: str
    changes: tuple[str, ...]
    reason: str
    tensorflow: bool
    pillow: bool


Rule = Callable[[Verdict], bool]
WHY_REJECTED: dict[str, Rule] = {  # Though TensorFlow or Pillow reads it.
    "larger than --max_pixels": lambda v: "--max_pixels" in v.reason,
    "a format that only Pillow knows": lambda v: not v.tensorflow and "not a supported format" in v.reason,
    "pages or text, which Pillow would render": lambda v: not v.tensorflow and v.reason.startswith("not an image"),
    "pixels whose range is not known": lambda v: not v.tensorflow and "whose range is not known" in v.reason,
    "Pillow passes over damage in a PNG": lambda v: not v.tensorflow and " PNG" in v.reason,
    "a JPEG that TensorFlow does not decode": lambda v: not v.tensorflow and "JPEG" in v.reason,
    "most of a JPEG's data are missing, which both fill in": lambda v: "image data ends early" in v.reason,
    "TensorFlow passes over wrong checksums": lambda v: not v.pillow and "wrong checksum of the PNG" in v.reason,
    "a BMP that Pillow does not read": lambda v: not v.pillow and v.path.read_bytes()[:2] == b"BM",
    "a WebP whose chunks are damaged": lambda v: not v.pillow and v.path.read_bytes()[8:12] == b"WEBP",
    "a JPEG XL that the plugin does not decode": lambda v: not v.pillow and "JPEG XL" in v.reason,
}  # fmt: skip
WHY_A_RECORD: dict[str, Rule] = {  # Though TensorFlow or Pillow does not read it.
    "decoded and stored as JPEG or PNG": lambda v: "converted" in v.changes or "turned" in v.changes,
    "Pillow refuses chunks that hold no pixels": lambda v: v.kind == "PNG" and v.tensorflow and not v.pillow,
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
    except Exception:  # noqa: BLE001  Any of its parsers.
        return False


def tensorflow_reads(data: bytes) -> bool:
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False).shape[-1] == 3
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError, tf.errors.UnimplementedError):
        return False


def judged(path: Path) -> Verdict:
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
    """Returns why it was decided otherwise than by another reader; "" without a difference, "?" without a reason."""
    if verdict.tensorflow == verdict.pillow == (not verdict.reason):
        return ""
    rules = WHY_REJECTED if verdict.reason else WHY_A_RECORD
    return next((why for why, holds in rules.items() if holds(verdict)), "?")


def test_no_verdict_is_without_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [judged(path) for path in corpus()]
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
    """What a C library prints has no file's name: it floods the terminal, and helps nobody."""
    paths = corpus()
    capfd.readouterr()
    for path in paths:
        with contextlib.suppress(BadImage):
            prepare(path.read_bytes(), dataclasses.replace(CONFIG, on_bad_image="repair"))
    assert capfd.readouterr() == ("", "")
