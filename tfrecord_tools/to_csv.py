"""Writes images as CSVs of pixels, one file a split: class name, then all values 0..255 row by row.

python -m tfrecord_tools.to_csv --src=cat_dog_img --image_size=64 writes csv/train.csv and csv/validation.csv.
Split and what is a sound image are as in tfrecord_tools.convert, whose --src such files may be.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from tfrecord_tools import order
from tfrecord_tools.base import command, files, usage, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.conversion import plan_config, source_flags
from tfrecord_tools.conversion.plan_config import PlanConfig
from tfrecord_tools.conversion.rejected import check_rejected, listed, rejected_files
from tfrecord_tools.conversion.survey import reason_of, survey
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.images import preparation
from tfrecord_tools.images.preparation import BadImage, ImageConfig
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.layout.splitting import choose_splits, split_keys
from tfrecord_tools.sources import pixel_csv
from tfrecord_tools.sources.base import Files, ReadError
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan

COLORS = {"rgb": 3, "gray": 1}
_FILES_PER_JOB = 64
_SQUARE_MODES = ("exact", "center_crop")
_MAX_SIZE = 4096  # A line of some 180 MB.


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
        if not 1 <= self.image_size <= _MAX_SIZE:
            raise UserError(f"--image_size={self.image_size}: a length of 1 to {_MAX_SIZE:,} pixels is expected.")
        workers.check_count(self.workers)
        self.plan_config()  # Checks its own.

    def image_config(self) -> ImageConfig:
        return ImageConfig(store="raw", resize=self.image_size, resize_mode=self.resize_mode, upscale=True)

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

    files: Files
    labels: list[str]
    splits: np.ndarray
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
    try:
        _check_apart(config)
        sources = scan(config)
        sources = plan_config.divided(sources, config.plan_config())
        paths = _free_paths(sources, config)
        Path(config.out).mkdir(parents=True, exist_ok=True)
        with workers.pool(config.workers) as pool:
            counts, rejected = _write(sources, paths, config, pool)
    except OSError as error:
        raise UserError(f"{refusal(error)}. Nothing was written. Mend the cause, or choose another --out.") from error
    for split, count in counts.items():
        log(
            f"{paths[split]}: {words.number(count, 'image')} of {config.image_size} x {config.image_size} pixels,"
            f" {config.color}"
        )
    for note in sources.notes:
        log(f"  note: {note}")
    for line in listed(rejected):
        log(line)
    return counts


def _check_apart(config: CsvConfig) -> None:
    out, source = Path(config.out).resolve(), Path(config.src).resolve()
    if source in (out, *out.parents, *(out / f"{split}.csv" for split in SPLITS)):
        raise UserError(
            f"--out={config.out}: its CSVs would replace --src={config.src} or lie among its images. Choose another."
        )


def _free_paths(sources: Sources, config: CsvConfig) -> dict[str, Path]:
    """The file of each split that there will be; refuses to replace or to join what is there."""
    paths = {split: Path(config.out) / f"{split}.csv" for split in SPLITS}
    written = _splits(sources, config)
    for split, path in paths.items():
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists. Pass --overwrite to replace it, or choose another --out.")
        if path.exists() and split not in written:  # Together they would be read as one dataset.
            raise UserError(f"{path} exists, and no {split} split will replace it. Remove it or choose another --out.")
    return {split: paths[split] for split in written}


def _splits(sources: Sources, config: CsvConfig) -> list[str]:
    """The splits that there will be."""
    if sources.has_splits:
        return [SPLITS[number] for number in np.unique(sources.splits)]
    return config.plan_config().made_splits


def _write(
    sources: Sources, paths: Mapping[str, Path], config: CsvConfig, pool: Pool
) -> tuple[dict[str, int], list[Rejected]]:
    counts = dict.fromkeys(paths, 0)
    rejected = list(sources.rejected)
    total = len(sources) + len(rejected)
    check_rejected(rejected, total, config.max_bad)
    splits, reasons = (sources.splits, {}) if sources.has_splits else _automatic_split(sources, config, pool)
    rejected += rejected_files(sources, reasons)
    check_rejected(rejected, total, config.max_bad)
    # A reader of the lines gets mixed classes.
    numbers = order.permute(np.arange(len(sources)), len(sources), config.seed)
    numbers = numbers[~np.isin(numbers, list(reasons))]
    parts = (numbers[i : i + _FILES_PER_JOB] for i in range(0, len(numbers), _FILES_PER_JOB))
    header = pixel_csv.header(config.image_size, config.image_size, COLORS[config.color])
    with contextlib.ExitStack() as stack:
        opened = {split: stack.enter_context(files.atomic(path)) for split, path in paths.items()}
        for file in opened.values():
            file.write(header.encode())
        progress = stack.enter_context(Progress("write", len(sources)))
        for made in pool.map(_make_lines, (_job(sources, splits, part, config) for part in parts)):
            for split, line in made.lines:
                opened[split].write(line.encode())
                counts[split] += 1
            rejected += made.rejected
            check_rejected(rejected, total, config.max_bad)
            progress(len(made.lines) + len(made.rejected))
    return counts, rejected


def _automatic_split(sources: Sources, config: CsvConfig, pool: Pool) -> tuple[np.ndarray, dict[int, str]]:
    """Return the splits that convert chooses, i8[n], and the reasons for the files that cannot be records.

    Every file is read once for that: the share of a class follows from all of its contents.
    """
    with Progress("survey", len(sources)) as progress:
        facts = survey(sources, pool, progress=progress)
    valid = np.setdiff1d(np.arange(len(sources)), list(facts.reasons))
    settings, splits = config.plan_config(), sources.splits.copy()
    keys = split_keys(facts.table["source_sha256"][valid], sources.groups[valid])
    splits[valid] = choose_splits(keys, sources.labels[valid], settings.fractions, settings.seed)
    return splits, facts.reasons


def _job(sources: Sources, splits: np.ndarray, part: np.ndarray, config: CsvConfig) -> _Job:
    return _Job(
        files=sources.files(part),
        labels=[sources.class_names[label] for label in sources.labels[part]],
        splits=splits[part],
        config=config,
    )


def _make_lines(job: _Job) -> _Made:
    lines, rejected = [], []
    for i, path in enumerate(job.files.paths):
        try:
            pixels = _pixels(job.files.read(i).data, job.config)
        except (BadImage, ReadError, OSError) as error:
            rejected.append(Rejected(path=path, reason=reason_of(error)))
            continue
        lines.append((SPLITS[job.splits[i]], pixel_csv.line(job.labels[i], pixels)))
    return _Made(lines, rejected)


def _pixels(data: bytes, config: CsvConfig) -> np.ndarray:
    """Returns u8[size size channels]."""
    prepared = preparation.prepare(data, config.image_config())
    pixels = np.frombuffer(prepared.data, np.uint8).reshape(prepared.height, prepared.width, 3)
    return pixels if config.color == "rgb" else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(CsvConfig)}
    usage.define_path("src", None, "Images, as in tfrecord_tools.convert.")
    usage.define_path("out", default["out"], "Directory of the CSVs.")
    flags.DEFINE_integer("image_size", None, "Height and width in pixels.")
    flags.DEFINE_enum("color", default["color"], list(COLORS), "Values of a pixel: red, green, blue, or grey.")
    flags.DEFINE_enum("resize_mode", default["resize_mode"], _SQUARE_MODES, "Stretch, or take the central square.")
    source_flags.define_source_flags()
    flags.DEFINE_integer("seed", default["seed"], "Decides split and order of the lines.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace CSVs that are there.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    if flags.FLAGS.image_size is None:
        raise UserError("--image_size is missing: height and width of the images in pixels, such as --image_size=64.")
    to_csv(command.from_flags(CsvConfig, src=flags.FLAGS.src or ""))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
