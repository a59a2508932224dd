"""Write the page `review.html`: a person looks at doubtful images and decides on each with one key."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from tfrecord_tools.base import files, page
from tfrecord_tools.errors import UndecodableImage
from tfrecord_tools.images import preparation, recode

if TYPE_CHECKING:
    from tfrecord_tools.layout.decisions import Decision

PAGE = "review.html"
PAGE_BYTES = 12_000_000  # Largest page with 1,000 pictures; larger ones are slow to send to a phone or a notebook.
SIDE = 320  # Longer side of a picture in pixels.

_FRAME_BYTES = 100_000  # Script, style and texts of the page.
_TEXT_BYTES = 1_000  # Path, hash, reason and decision of an image.
_LARGEST_PICTURE = 24_000  # Bytes. A larger picture of `SIDE` pixels does not look better.
_SMALLEST_PICTURE = 2_500  # Bytes. Smaller pictures cannot be judged.
_QUALITIES = (95, 90, 85, 80, 75, 70, 65, 60, 55, 50, 45)  # JPEG qualities to try, the best first.
_SHRINK = 0.8  # Factor of the side if even the lowest quality is too large.
_SHOWN_AT_ONCE = 24  # Pictures before the script in the file. The page shows them before the rest has arrived.

# Kind -> title, question.
_KINDS = {
    "label": ("Label errors", "Is the given label right?"),
    "off_topic": ("Off-topic", "Does this image belong to the dataset?"),
    "near_duplicate": ("Near-duplicates", "Is this the same picture twice? Drop one of them, or keep both."),
    "ambiguous": ("Ambiguous", "More than one class is likely. Which label is right?"),
    "low_quality": ("Low quality", "Is this image good enough for training?"),
    "rare": ("Rare conditions", "This image is unlike the rest of its class. Does it belong to the class?"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of the dataset as the page shows it.

    Attributes:
        sha256: Hash of the source file, 64 hex digits. Images with the same hash share one decision.
        path: Path of the source file.
        label: Name of the given class.
        split: Name of the split.
        jpeg: Small JPEG, as `jpeg_of` returns it. Empty: the page says that the picture cannot be shown.
    """

    sha256: str
    path: str
    label: str
    split: str
    jpeg: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A doubtful image.

    Attributes:
        kind: Kind of the issue, such as `label`. The page groups the items by kind.
        rank: Rank within the kind; 1 is the worst.
        score: Score of the issue, in 0..1.
        picture: The image to decide on.
        proposed: Name of the proposed class, or None.
        twins: The nearest images, or the near-duplicates, in the order in which they are shown.
        reason: Why the image is doubtful, a sentence.
    """

    kind: str
    rank: int
    score: float
    picture: Picture
    proposed: str | None = None
    twins: Sequence[Picture] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Review:
    """The contents of a page.

    Attributes:
        name: Name of the dataset.
        digest: Digest of the dataset. The browser stores decisions by digest and name.
        class_names: Names of the classes in label order.
        items: The doubtful images. The page groups them by kind, and keeps their order within a kind.
        total: Number of all issues of the audit. It is larger than the number of items if the page shows only a part.
        apply_command: Command that applies decisions.csv to the dataset.
        decided: `Decision.key` -> decision that the dataset already has. The page shows the decisions about its own
            images.
        facts: Sentences about the dataset, such as the estimated number of wrong labels.
    """

    name: str
    digest: str
    class_names: Sequence[str]
    items: Sequence[Item]
    total: int
    apply_command: str
    decided: Mapping[str, Decision] = dataclasses.field(default_factory=dict)
    facts: Sequence[str] = ()


def write(path: Path, review: Review) -> None:
    """Write the page completely or not at all."""
    text = render(review)
    with files.atomic(path) as file:
        file.write(text.encode())


def render(review: Review) -> str:
    """Return the page as HTML. It loads nothing and sends nothing."""
    from markupsafe import Markup

    pictures = _Pictures()
    rows = [_row(item, pictures) for item in _by_kind(review.items)]
    script = (importlib.resources.files("trainers.results") / "templates" / "review.js").read_text("utf-8")
    jpegs = [Markup(base64.b64encode(jpeg).decode()) for jpeg in pictures.jpegs]
    return page.render(
        "trainers.results",
        "review.html",
        heading=f"Review of {review.name}",
        kind="review",
        digest=review.digest,
        facts=review.facts,
        apply_command=review.apply_command,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        jpegs=list(enumerate(jpegs)),
        at_once=_SHOWN_AT_ONCE,
        # The filter `tojson` of the template escapes `<`, `>`, `&`, and all characters beyond ASCII such as U+2028.
        data={
            "name": review.name,
            "digest": review.digest,
            "classes": list(review.class_names),
            "kinds": [_kind(kind) for kind in dict.fromkeys(row["kind"] for row in rows)],
            "images": pictures.hashes,
            "pictures": pictures.rows,
            "items": rows,
            "total": review.total,
            "decided": list(_decided(review.decided, pictures.hashes)),
        },
    )


def jpeg_of(image: bytes | np.ndarray, *, pictures: int = 1_000) -> bytes:
    """Return a small JPEG for a page with this number of pictures.

    Up to 1,000 pictures, with paths and reasons of usual length, make a page of at most `PAGE_BYTES`. With more
    pictures, first the quality of each picture falls, then its size. Beyond about 2,700 pictures, the page becomes
    larger than `PAGE_BYTES`, because a picture gets at least 2,500 bytes.

    Args:
        image: An encoded image in any format that Pillow reads, or pixels, u8[h w 3] or u8[h w].
        pictures: Number of different pictures on the page, twins included.

    Returns:
        An upright RGB JPEG without metadata. The longer side has at most `SIDE` pixels; small images are not enlarged.

    Raises:
        UndecodableImage: The bytes cannot be decoded.
    """
    small = _small(image)
    limit = bytes_of_each(pictures)
    while (found := _within(small, limit)) is None:
        small = small.resize([max(1, round(_SHRINK * side)) for side in small.size], Image.Resampling.LANCZOS)
    return found


def bytes_of_each(pictures: int) -> int:
    """Return the largest number of bytes of a JPEG on a page with this number of pictures."""
    share = (PAGE_BYTES - _FRAME_BYTES) // max(pictures, 1) - _TEXT_BYTES
    return min(_LARGEST_PICTURE, max(_SMALLEST_PICTURE, share * 3 // 4))  # Base64 makes four bytes out of three.


def _small(image: bytes | np.ndarray) -> Image.Image:
    """Return an image as upright RGB with at most `SIDE` pixels per side."""
    if isinstance(image, np.ndarray):
        small = Image.fromarray(image)
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return small.convert("RGB")
    try:
        with preparation.as_bad_image(image), Image.open(io.BytesIO(image)) as opened:
            # Pillow scales palettes without smoothing. A JPEG is decoded at a fraction of its size.
            plain = opened if opened.mode in ("RGB", "L") else recode.as_decoded(ImageOps.exif_transpose(opened))
            plain.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            return ImageOps.exif_transpose(plain).convert("RGB")
    except preparation.BadImage as error:
        raise UndecodableImage(str(error)) from error


def _within(image: Image.Image, limit: int) -> bytes | None:
    """Return the JPEG with the highest quality that has at most `limit` bytes, or None."""
    best = None
    low, high = 0, len(_QUALITIES)  # Bisection: the size falls with the quality.
    while low < high:
        middle = (low + high) // 2
        jpeg = _encoded(image, _QUALITIES[middle])
        if len(jpeg) <= limit:
            best, high = jpeg, middle
        else:
            low = middle + 1
    # An image of at most 16 pixels is not shrunk. It gets the lowest quality, even if it has more bytes than `limit`.
    return best if best or max(image.size) > 16 else _encoded(image, _QUALITIES[-1])


def _encoded(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


class _Pictures:
    """The pictures of the page. Bytes are stored once per hash, and texts once per file."""

    def __init__(self) -> None:
        self.hashes: list[str] = []
        self.jpegs: list[bytes] = []
        self.rows: list[tuple[int, str, str, str]] = []  # Number of the image, path, label, split.
        self._images: dict[str, int] = {}
        self._rows: dict[tuple[int, str, str, str], int] = {}

    def add(self, picture: Picture) -> int:
        """Return the number of the picture's row."""
        image = self._images.setdefault(picture.sha256, len(self.hashes))
        if image == len(self.hashes):
            self.hashes.append(picture.sha256)
            self.jpegs.append(picture.jpeg)
        row = (image, picture.path, picture.label, picture.split)
        number = self._rows.setdefault(row, len(self.rows))
        if number == len(self.rows):
            self.rows.append(row)
        return number


def _by_kind(items: Sequence[Item]) -> Iterable[Item]:
    """Return the items grouped by kind, in the order in which the kinds first appear."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.kind, []).append(item)
    return (item for group in groups.values() for item in group)


def _row(item: Item, pictures: _Pictures) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "rank": int(item.rank),
        "score": float(item.score) if math.isfinite(item.score) else None,  # JSON has no NaN.
        "picture": pictures.add(item.picture),
        "proposed": item.proposed,
        "twins": [pictures.add(twin) for twin in item.twins],
        "reason": item.reason,
    }


def _kind(kind: str) -> tuple[str, str, str]:
    """Return name, title and question of a kind."""
    return kind, *_KINDS.get(kind, (kind.replace("_", " ").capitalize(), "Is this image right?"))


def _decided(decided: Mapping[str, Decision], hashes: Sequence[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the decisions about images of the page in the order of the images, then those about pairs."""
    shown = {sha256: number for number, sha256 in enumerate(hashes)}
    named = [
        one for one in decided.values() if one.sha256 in shown and (not one.twin_sha256 or one.twin_sha256 in shown)
    ]
    for one in sorted(named, key=lambda one: (bool(one.twin_sha256), shown[one.sha256])):
        yield one.sha256, one.decision, one.label, one.path, one.twin_sha256
