"""Writes images as CSVs of pixels, one file a split: class name, then all values 0..255 row by row.

python -m tfrecord_tools.to_csv --src=cat_dog_img --image_size=64 writes csv/train.csv and csv/validation.csv.
Split, order and what is a sound image are as in tfrecord_tools.convert, whose --src such files may be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from tfrecord_tools import command, files, images, order, pixel_csv, plan, workers
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import BadImage, ImageConfig
from tfrecord_tools.plan import PlanConfig
from tfrecord_tools.progress import Progress
from tfrecord_tools.scan import SPLITS, TO_BE_SPLIT, ScanConfig, Sources, scan
from tfrecord_tools.stores import ReadError, Rejected, Store

COLORS = {"rgb": 3, "gray": 1}
_FILES_PER_JOB = 64
_SHOWN = 5
_SQUARE_MODES = ("exact", "center_crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvConfig(ScanConfig):
    """What is written.

    Attributes:
        out: Directory of the CSVs.
        image_size: Height and width of each image in pixels.
        color: "rgb" or "gray".
        resize_mode: "exact" stretches the whole image to the square, "center_crop" takes its central square.
        validation_fraction: As in `PlanConfig`; likewise the next ones.
        test_fraction: Share of the test split.
        seed: Decides the splits and the order of the lines.
        max_bad: Largest share of files that may be no sound images.
        overwrite: Replace CSVs that are there.
        workers: Number of processes; never changes the output. None: one a processor.
    """

    out: str = "csv"
    image_size: int
    color: str = "rgb"
    resize_mode: str = "exact"
    validation_fraction: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    max_bad: float = PlanConfig.max_bad
    overwrite: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.color not in COLORS:
            raise UserError(f"--color={self.color}: one of {', '.join(COLORS)} is expected.")
        if self.resize_mode not in _SQUARE_MODES:
            raise UserError(f"--resize_mode={self.resize_mode}: one of {', '.join(_SQUARE_MODES)} is expected.")
        if self.image_size < 1:
            raise UserError(f"--image_size={self.image_size}: at least 1.")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers={self.workers}: at least 1.")

    def plan_config(self) -> PlanConfig:
        return PlanConfig(
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            max_bad=self.max_bad,
        )


@dataclasses.dataclass(frozen=True)
class _Job:
    """Some images; columns run over them."""

    store: Store
    paths: list[str]
    spans: np.ndarray
    labels: list[str]
    splits: np.ndarray
    groups: np.ndarray
    config: CsvConfig


@dataclasses.dataclass(frozen=True)
class _Made:
    """Lines of the CSVs, (split, line), and what is not among them."""

    lines: list[tuple[str, str]]
    rejected: list[Rejected]


def to_csv(config: CsvConfig, log: Callable[[str], object] = print) -> dict[str, int]:
    """Writes the CSVs, in the memory of some images.

    Returns:
        Split -> number of images.

    Raises:
        UserError: Anything that the user can mend; no file is left half-written.
    """
    sources = scan(config)
    plan.check_fractions(sources, config.plan_config())
    paths = {split: Path(config.out) / f"{split}.csv" for split in _splits(sources, config)}
    for path in paths.values():
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists. Pass --overwrite to replace it, or choose another --out.")
    try:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        counts, rejected = _write(sources, paths, config)
    except OSError as error:
        raise UserError(f"{error.filename or config.out}: {error.strerror}. Nothing was written.") from error
    for split, count in counts.items():
        log(f"{paths[split]}: {count:,} images of {config.image_size} x {config.image_size} pixels, {config.color}")
    for one in rejected[:_SHOWN]:
        log(f"  {one.done}: {one.path}: {one.reason}")
    if len(rejected) > _SHOWN:
        log(f"  and {len(rejected) - _SHOWN:,} more such files")
    return counts


def _splits(sources: Sources, config: CsvConfig) -> list[str]:
    """The splits that there will be."""
    if sources.has_splits:
        return [SPLITS[number] for number in np.unique(sources.splits)]
    shares = dict(zip(SPLITS, (1.0, *config.plan_config().fractions)))
    return [split for split in SPLITS if shares[split] > 0]


def _write(sources: Sources, paths: Mapping[str, Path], config: CsvConfig) -> tuple[dict[str, int], list[Rejected]]:
    counts = dict.fromkeys(paths, 0)
    rejected = list(sources.rejected)
    total = len(sources) + len(rejected)
    # A reader of the lines gets mixed classes.
    numbers = order.permute(np.arange(len(sources)), len(sources), config.seed)
    parts = (numbers[i : i + _FILES_PER_JOB] for i in range(0, len(numbers), _FILES_PER_JOB))
    header = pixel_csv.header(config.image_size, config.image_size, COLORS[config.color])
    with contextlib.ExitStack() as stack:
        opened = {split: stack.enter_context(files.atomic(path)) for split, path in paths.items()}
        for file in opened.values():
            file.write(header.encode())
        pool = stack.enter_context(workers.pool(config.workers or workers.default_workers()))
        progress = stack.enter_context(Progress("write", len(sources)))
        for made in pool.map(_make_lines, (_job(sources, part, config) for part in parts)):
            for split, line in made.lines:
                opened[split].write(line.encode())
                counts[split] += 1
            rejected += made.rejected
            plan.check_rejected(rejected, total, config.max_bad)
            progress(len(made.lines) + len(made.rejected))
    return counts, rejected


def _job(sources: Sources, part: np.ndarray, config: CsvConfig) -> _Job:
    return _Job(
        store=sources.store,
        paths=[sources.paths[i] for i in part.tolist()],
        spans=sources.spans[part],
        labels=[sources.class_names[label] for label in sources.labels[part]],
        splits=sources.splits[part],
        groups=sources.groups[part],
        config=config,
    )


def _make_lines(job: _Job) -> _Made:
    lines, rejected = [], []
    decisions = job.config.plan_config()
    for i, path in enumerate(job.paths):
        try:
            data = job.store.read(path, job.spans[i]).data
            pixels = _pixels(data, job.config)
        except (BadImage, ReadError, OSError) as error:
            reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            rejected.append(Rejected(path=path, reason=reason))
            continue
        split = int(job.splits[i])
        if split == TO_BE_SPLIT:
            sha256 = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)[None]
            keys = plan.split_keys(sha256, job.groups[i : i + 1])
            split = int(plan.choose_splits(keys, decisions.fractions, decisions.seed)[0])
        lines.append((SPLITS[split], pixel_csv.line(job.labels[i], pixels)))
    return _Made(lines, rejected)


def _pixels(data: bytes, config: CsvConfig) -> np.ndarray:
    """Returns u8[size size channels]."""
    side = config.image_size
    prepared = images.prepare(data, ImageConfig(store="raw", resize=side, resize_mode=config.resize_mode, upscale=True))
    pixels = np.frombuffer(prepared.data, np.uint8).reshape(side, side, 3)
    return pixels if config.color == "rgb" else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(CsvConfig)}
    flags.DEFINE_string("src", None, "Images, as in tfrecord_tools.convert.")
    flags.DEFINE_string("out", default["out"], "Directory of the CSVs.")
    flags.DEFINE_integer("image_size", None, "Height and width in pixels.")
    flags.DEFINE_enum("color", default["color"], list(COLORS), "Values of a pixel: red, green, blue, or grey.")
    flags.DEFINE_enum("resize_mode", default["resize_mode"], _SQUARE_MODES, "Stretch, or take the central square.")
    flags.DEFINE_list("classes", None, "Class names; others are left out. Default: all, sorted.")
    flags.DEFINE_string("label_regex", None, "Its first group, found in the path, is the class. Default: directories.")
    flags.DEFINE_string("group_regex", None, "Images with the same first group stay on one side of a made split.")
    flags.DEFINE_string("manifest", None, "CSV or Parquet naming the images in --src, with their classes.")
    for name in ("path", "label", "split", "group"):
        flags.DEFINE_string(f"{name}_column", default[f"{name}_column"], f"The manifest's column of {name}s.")
    flags.DEFINE_float("validation_fraction", None, "Share for validation, if --src has no splits of its own.")
    flags.DEFINE_float("test_fraction", None, "Likewise for test (default 0).")
    flags.DEFINE_integer("seed", default["seed"], "Decides split and order of the lines.")
    flags.DEFINE_float("max_bad", default["max_bad"], "Largest share of files that may be rejected.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace CSVs that are there.")
    flags.DEFINE_integer("workers", None, "Processes; never changes the output. Default: one a processor.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    if flags.FLAGS.image_size is None:
        raise UserError("--image_size is missing: height and width of the images in pixels, such as --image_size=64.")
    to_csv(command.from_flags(CsvConfig, src=flags.FLAGS.src or ""))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
