"""Compute the statistics and samples of a dataset that convert.json and card.html show."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from tfrecord_tools.base import files, workers
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.conversion.bucket_objects import right_part
from tfrecord_tools.conversion.notes import Note
from tfrecord_tools.conversion.plan import Plan
from tfrecord_tools.conversion.survey import TYPES, Columns, Facts
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation, recode
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import schema
from tfrecord_tools.layout.dataset_files import Colors, DuplicateFile, Histogram, Look, NearCounts, Report
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.findings import FINDINGS
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.remote.store import open_store
from tfrecord_tools.sources.base import ReadError
from tfrecord_tools.sources.scan import Sources

_BINS = 16
_SHOWN = 12  # Examples for each kind of duplicates.
_NEAR_SHOWN = 6  # Groups for each kind of near-duplicates. They need more space: every image is shown.
_NEAR_PICTURES = 6  # Pictures of each group of near-duplicates. The card shows all of them.
_EXTREMES = 6  # Images for each kind of extreme.
DARK, BRIGHT = 20, 235  # An image shows hardly anything if its mean gray level is below DARK or above BRIGHT.
FLAT = 0.95  # An image shows hardly anything if its `flat_share` (see `images.appearance`) is above this.
_REASONS = 20
_COLOR_SAMPLES = 256
_THUMBNAILS = 8  # Thumbnails per class.
_CLASSES_SHOWN = 40  # Only the first classes have thumbnails.
THUMBNAIL_PIXELS = 112
_RECORDS_PER_JOB = 64
_REQUESTS = 16  # Records of a job that are read from a bucket at once.
Decoded = tuple[np.ndarray, bytes]  # Moments of the colors and a small JPEG, see `_decode_job`.
Frame = tuple[str, int, int, int, int]  # The place of a frame, see `_job`.


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A sample image of a class, as a small JPEG."""

    label: int
    split: str
    path: str
    jpeg: bytes


@dataclasses.dataclass(frozen=True)
class Samples:
    """Statistics and pictures from decoded records.

    Attributes:
        colors: Entry of `convert.json`: number of sampled images, number of those that cannot be decoded, mean and
            standard deviation of each channel in 0..255.
        thumbnails: Samples of the classes, ordered by label, then by record.
        pictures: Path -> small JPEG, for the images that are named in notes and in lists of duplicates.
    """

    colors: Colors
    thumbnails: list[Thumbnail]
    pictures: dict[str, bytes]


def describe(plan: Plan, sources: Sources, facts: Facts, colors: Colors, verified: str, distance: int = 6) -> Report:
    """Return the entries of `convert.json` about the images. No image is decoded.

    Args:
        plan: The plan of the conversion.
        sources: The source files.
        facts: The inspection results of the source files.
        colors: The colors of a sample of the images.
        verified: How the images were verified: "full" or "header".
        distance: `PlanConfig.near_distance`: near-duplicates have hashes that differ in at most this number of bits.
    """
    table = facts.of(plan.rows.numbers)
    height, width = table["height"].astype(np.float64), table["width"].astype(np.float64)
    same = plan.duplicates.counts
    done = Counter(r.done for r in plan.rejected)
    reasons = Counter((r.done, _without_numbers(r.reason)) for r in plan.rejected if r.done != "dropped")
    return {
        "images": {
            "source_types": _names(table["source_type"]),
            "types": _names(table["type"]),
            "changes": _counts(table["changes"], preparation.CHANGES),
            "findings": _counts(table["findings"], FINDINGS),
            "shorter_side": _histogram(np.minimum(height, width)),
            "longer_side": _histogram(np.maximum(height, width)),
            "aspect": _histogram(width / height),
            "bytes": _histogram(table["bytes"].astype(np.float64)),
            "colors": colors,
            "look": _look(plan, sources, table),
            "verified": verified,
        },
        "files": {"skipped": done["skipped"], "repaired": done["repaired"], "dropped": done["dropped"]},
        "reasons": [
            {"done": name, "reason": reason, "files": count} for (name, reason), count in reasons.most_common(_REASONS)
        ],
        "duplicates": {
            "copies": same["copies"],
            "leaks": same["leaks"],
            "conflicts": same["conflicts"],
            "files": plan.duplicates.files,
            "groups_in_several_splits": plan.group_leaks,
            "examples": _examples(plan, sources, plan.duplicates, _SHOWN),
            "sizes": _sizes(plan.duplicates, _SHOWN),
        },
        "near_duplicates": _near(plan, sources, distance),
    }


def _near(plan: Plan, sources: Sources, distance: int) -> NearCounts:
    near = plan.near_duplicates
    counts = near.images.counts
    return {
        "distance": distance,
        "copies": counts["copies"],
        "leaks": counts["leaks"],
        "conflicts": counts["conflicts"],
        "files": near.images.files,
        "groups": near.groups,
        "chains": near.chains,
        "longest_chain": near.longest,
        "examples": _examples(plan, sources, near.images, _NEAR_SHOWN),
        "sizes": _sizes(near.images, _NEAR_SHOWN),
    }


def _look(plan: Plan, sources: Sources, table: Columns) -> Look:
    """Return counts and the most extreme images. Images that were not decoded are only counted."""
    known = ~np.isnan(table["brightness"])
    rows = {
        kind: [(int(row), float(value[row])) for row in _extreme(value, sign)]
        for kind, (value, sign) in _extreme_values(table).items()
    }
    paths = {row: sources.paths[int(plan.rows.numbers[row])] for found in rows.values() for row, _ in found}
    return {
        "unknown": int((~known).sum()),
        "gray": int(table["gray"][known].sum()),
        "dark": int((table["brightness"] < DARK).sum()),
        "bright": int((table["brightness"] > BRIGHT).sum()),
        "flat": int((table["flat_share"] > FLAT).sum()),
        "extremes": {
            kind: [{"path": paths[row], "value": round(value, 3)} for row, value in found]
            for kind, found in rows.items()
            if found
        },
    }


def _extreme_values(table: Columns) -> dict[str, tuple[np.ndarray, int]]:
    """Return kind of extreme -> values, and a sign. 1: the smallest values are shown, -1: the largest."""
    longer, shorter = (pick(table["height"], table["width"]).astype(float) for pick in (np.maximum, np.minimum))
    return {
        "darkest": (table["brightness"], 1),
        "brightest": (table["brightness"], -1),
        "blurriest": (table["sharpness"], 1),
        "flattest": (table["flat_share"], -1),
        "oddest shapes": (longer / shorter, -1),
    }


def _extreme(values: np.ndarray, sign: int) -> np.ndarray:
    """Return the positions of the most extreme known values, at most a quarter of the known values."""
    known = np.flatnonzero(~np.isnan(values))
    most = min(_EXTREMES, len(known) // 4) if len(np.unique(values[known])) > 1 else 0
    return np.asarray(known[np.argsort(sign * values[known], kind="stable")[:most]])


def _examples(plan: Plan, sources: Sources, same: Duplicates, most: int) -> dict[str, list[list[DuplicateFile]]]:
    """Return kind -> sets of files, with path, class and split of each file. Split "": it was dropped."""
    shown = {kind: sets[:most] for kind, sets in same.examples.items()}
    rows = _rows(plan, [i for contents in shown.values() for numbers in contents for i in numbers])

    def described(number: int) -> DuplicateFile:
        return {
            "path": sources.paths[number],
            "class": plan.class_names[plan.decided.labels[number]],
            "split": SPLITS[plan.rows.splits[rows[number]]] if number in rows else "",
        }

    return {kind: [[described(i) for i in numbers] for numbers in contents] for kind, contents in shown.items()}


def _sizes(same: Duplicates, most: int) -> dict[str, list[int]]:
    """Return kind -> number of files of each set in `_examples`, which may name only some of them."""
    return {kind: sizes[:most] for kind, sizes in same.sizes.items()}


def _rows(plan: Plan, numbers: Sequence[int]) -> dict[int, int]:
    """Return file number -> row of its record, for the files that have a record."""
    rows = np.flatnonzero(np.isin(plan.rows.numbers, numbers))
    return dict(zip(plan.rows.numbers[rows].tolist(), rows.tolist()))


def sample(
    plan: Plan,
    sources: Sources,
    facts: Facts,
    data: StrPath,
    pool: Pool,
    config: ImageConfig = ImageConfig(),
    notes: Sequence[Note] = (),
) -> Samples:
    """Decode evenly spaced records, samples of each class, and the examples of notes and duplicates.

    Args:
        plan: The plan of the conversion. The same plan gives the same samples.
        sources: The source files.
        facts: The inspection results of the source files.
        data: Directory or URL of the shards.
        pool: The pool that decodes.
        config: Settings for preparing images without a record: dropped files are read from the source.
        notes: Notes with examples to decode.
    """
    count = len(plan.rows)
    colored = np.unique(np.linspace(0, count - 1, min(count, _COLOR_SAMPLES)).astype(np.int64))
    shown = _shown_rows(plan)
    same = [numbers for contents in plan.duplicates.examples.values() for numbers in contents[:_SHOWN]]
    similar = [sets for contents in plan.near_duplicates.images.examples.values() for sets in contents[:_NEAR_SHOWN]]
    recorded = _rows(plan, [i for numbers in same for i in numbers])
    # Identical files need only one picture.
    named = [i for numbers in same for i in itertools.islice(filter(recorded.__contains__, numbers), 1)]
    named += [i for note in notes for i in note.examples]
    pictured = _rows(plan, named + [i for numbers in similar for i in numbers[:_NEAR_PICTURES]])
    table = facts.of(plan.rows.numbers)
    extremes = (_extreme(values, sign) for values, sign in _extreme_values(table).values())
    pictured |= {int(plan.rows.numbers[row]): int(row) for rows in extremes for row in rows}
    rows = np.unique([*colored.tolist(), *shown, *pictured.values()])
    decoded = _decode_rows(plan, facts, data, rows, pool)
    moments = [image[0] for row in colored.tolist() if (image := decoded[row]) is not None]
    if not moments:
        raise UserError(
            f"none of the {len(colored):,} decoded records is a valid image, for example"
            f" {sources.paths[int(plan.rows.numbers[0])]}. --verify=header does not detect all damaged images. Convert"
            " with --verify=full --restart."
        )
    return Samples(
        colors=_colors(moments, len(colored)),
        thumbnails=[_thumbnail(plan, sources, row, image[1]) for row in shown if (image := decoded[row]) is not None],
        pictures=_pictures(
            {number: image[1] for number, row in pictured.items() if (image := decoded[row]) is not None},
            same,
            lambda number: _from_source(sources, number, config),
            sources,
        ),
    )


def _decode_rows(plan: Plan, facts: Facts, data: StrPath, rows: np.ndarray, pool: Pool) -> dict[int, Decoded | None]:
    """Return row -> decoded record, see `_decode_job`."""
    chunks = [rows[i : i + _RECORDS_PER_JOB] for i in range(0, len(rows), _RECORDS_PER_JOB)]
    images = itertools.chain.from_iterable(pool.map(_decode_job, (_job(plan, facts, data, chunk) for chunk in chunks)))
    return dict(zip(rows.tolist(), images))


def _colors(moments: Sequence[np.ndarray], sampled: int) -> Colors:
    mean, square = np.mean(moments, axis=0)
    return {
        "sampled": sampled,
        "undecodable": sampled - len(moments),
        "mean": np.round(mean, 2).tolist(),
        "std": np.round(np.sqrt(np.maximum(square - mean**2, 0)), 2).tolist(),
    }


def _thumbnail(plan: Plan, sources: Sources, row: int, jpeg: bytes) -> Thumbnail:
    rows = plan.rows
    return Thumbnail(int(rows.labels[row]), SPLITS[rows.splits[row]], sources.paths[int(rows.numbers[row])], jpeg)


def _pictures(
    known: dict[int, bytes], same: Sequence[Sequence[int]], read: Callable[[int], bytes | None], sources: Sources
) -> dict[str, bytes]:
    """Return path -> small JPEG, for the files in `known` and in `same`, the sets of identical files.

    For a set without a known file, `read` reads the first file.
    """
    pictures = dict(known)
    for numbers in same:
        jpeg = next((known[i] for i in numbers if i in known), None) or read(numbers[0])
        if jpeg is not None:
            pictures |= dict.fromkeys(numbers, jpeg)
    return {sources.paths[i]: jpeg for i, jpeg in sorted(pictures.items())}


def _from_source(sources: Sources, number: int, config: ImageConfig) -> bytes | None:
    """Return a small JPEG of a source file that has no record; None if the file cannot be read."""
    try:
        data = sources.store.read(sources.paths[number], sources.spans[number]).data
        prepared = preparation.prepare(data, preparation.config_of(config))
    except (preparation.BadImage, ReadError, OSError):
        return None
    shape = (prepared.height, prepared.width) if prepared.type == "RAW" else (0, 0)
    decoded = _decoded(prepared.data, *shape)
    return None if decoded is None else decoded[1]


def _shown_rows(plan: Plan) -> list[int]:
    """Return the first rows of each class. The plan has shuffled the rows, so this is a random sample."""
    rows: list[int] = []
    for label in range(min(len(plan.class_names), _CLASSES_SHOWN)):
        rows += np.flatnonzero(plan.rows.labels == label)[:_THUMBNAILS].tolist()
    return rows


def _job(plan: Plan, facts: Facts, data: StrPath, rows: np.ndarray) -> list[Frame]:
    """Return the place of the frame of each row (file or URL, offset, size), and its height and width.

    A frame is the bytes of a record in its shard. Height and width are those of raw pixels, and 0 for encoded images.
    """
    starts = np.array([shard.start for shard in plan.shards])
    numbers = np.searchsorted(starts, rows, side="right") - 1
    sizes = plan.rows.frame_bytes
    frames = []
    for row, number in zip(rows.tolist(), numbers.tolist()):
        shard = plan.shards[number]
        offset = int(sizes[shard.start : row].sum())
        fact = facts.table[plan.rows.numbers[row]]
        raw = TYPES[fact["type"]] == "RAW"
        shape = (int(fact["height"]), int(fact["width"])) if raw else (0, 0)
        frames.append((f"{os.fspath(data)}/{shard.file_name(plan.name)}", offset, int(sizes[row]), *shape))
    return frames


def _decode_job(frames: Sequence[Frame]) -> list[Decoded | None]:
    """Decode frames, see `_job`.

    Returns:
        A pair for each frame: f64[2 3], the mean and the mean square of each channel (pixels in 0..255), and a small
        JPEG. None: the image is damaged.
    """
    in_bucket = bool(frames) and files.is_url(frames[0][0])
    contents = workers.in_threads(_read, frames, _REQUESTS, _REQUESTS) if in_bucket else map(_read, frames)
    return [_decode(frame, content) for frame, content in zip(frames, contents)]


def _read(place: Frame) -> bytes:
    path, offset, size, _, _ = place
    if files.is_url(path):
        directory, _, name = path.rpartition("/")
        read = functools.partial(open_store(directory).get, name)
        frame = right_part(read, offset, offset + size, lambda part: schema.content(part) is not None)
        if frame is None:
            raise UserError(
                f"{path}: a record arrived damaged each time, or another program has changed this object. Check the"
                " network and its proxies, and run the same command again."
            )
        return bytes(frame)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _decode(frame: Frame, content: bytes) -> Decoded | None:
    *_, height, width = frame
    return _decoded(schema.decode_example(content[schema.HEADER_BYTES : -4])["image"], height, width)


def _decoded(encoded: bytes, height: int, width: int) -> Decoded | None:
    """Return means and mean squares, and a small JPEG. `height` and `width` are 0 for encoded images."""
    if height:
        image = Image.frombytes("RGB", (width, height), encoded)
    else:
        try:
            with preparation.as_bad_image(), Image.open(io.BytesIO(encoded)) as opened:
                image = recode.as_decoded(opened).convert("RGB")
        except preparation.BadImage:  # Possible after --verify=header.
            return None
    shares = np.reshape(image.histogram(), (3, 256)) / (image.width * image.height)
    levels = np.arange(256)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return np.stack([shares @ levels, shares @ levels**2]), stream.getvalue()


def _counts(masks: np.ndarray, names: Iterable[str]) -> dict[str, int]:
    """Return name -> number of masks with its bit: bit i stands for the i-th name."""
    return {name: int((masks >> i & 1).sum()) for i, name in enumerate(names)}


def _names(types: np.ndarray) -> dict[str, int]:
    return {TYPES[t]: int(count) for t, count in enumerate(np.bincount(types, minlength=len(TYPES))) if count}


def _histogram(values: np.ndarray) -> Histogram:
    """Return minimum, median and maximum, and a histogram with logarithmically spaced edges."""
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, _BINS + 1) if high > low else np.array([low, high])
    edges[0], edges[-1] = low, high
    counts = np.histogram(values, edges)[0] if high > low else np.array([len(values)])
    return {
        "min": low,
        "median": float(np.median(values)),
        "max": high,
        "edges": [round(float(edge), 3) for edge in edges],
        "counts": counts.tolist(),
    }


def _without_numbers(reason: str) -> str:
    """Replace numbers by N, so that `ends at byte 1,812` and `ends at byte 7` are one reason."""
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"""b(["']).*\1""", "…", reason))
