"""Write images as CSV files of pixels, one file per split.

python -m tfrecord_tools.to_csv --src=cat_dog_img --image_size=64 writes csv/train.csv and csv/validation.csv. Each line
holds the class name and then all pixel values, 0 to 255, row by row. Splits are made and images are verified as in
tfrecord_tools.convert. That command also reads these CSV files as its --src.
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
_MAX_SIZE = 4096  # A line with this size has about 180 MB.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvConfig(ScanConfig):
    """Settings of `to_csv`, including those of the source.

    Attributes:
        out: Directory of the CSV files.
        image_size: Height and width of each image in pixels, 1 to 4,096.
        color: "rgb" or "gray".
        resize_mode: "exact" stretches the whole image to a square, "center_crop" crops its central square.
        validation_fraction: Share of each class that becomes the validation split, in 0..1, if the source has no
            splits of its own. None: 0.2.
        test_fraction: Share of each class that becomes the test split, in 0..1, if the source has no splits of its
            own. None: 0.
        seed: Seed of the automatic split and of the order of the lines.
        max_bad: Largest share of files, in 0..1, that may be left out because they are not valid images.
        overwrite: Replace existing CSV files.
        workers: Number of processes. The output does not depend on it. None: one per processor.
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
        files.check_local("out", self.out)
        if self.color not in COLORS:
            raise UserError(f"--color={self.color}: must be one of {', '.join(COLORS)}.")
        if self.resize_mode not in _SQUARE_MODES:
            raise UserError(f"--resize_mode={self.resize_mode}: must be one of {', '.join(_SQUARE_MODES)}.")
        if not 1 <= self.image_size <= _MAX_SIZE:
            raise UserError(f"--image_size={self.image_size}: must be 1 to {_MAX_SIZE:,} pixels.")
        workers.check_count(self.workers)
        self.plan_config()  # Raises UserError if a setting of the split is wrong.

    def image_config(self) -> ImageConfig:
        """Return the settings with which `convert` would store the same pixels."""
        return ImageConfig(store="raw", resize=self.image_size, resize_mode=self.resize_mode, upscale=True)

    def plan_config(self) -> PlanConfig:
        """Return the settings of the automatic split."""
        return PlanConfig(
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            max_bad=self.max_bad,
        )


@dataclasses.dataclass(frozen=True)
class _Job:
    """Some images; each field holds one value per image."""

    files: Files
    labels: list[str]
    splits: np.ndarray
    config: CsvConfig


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Lines of the CSV files, as (split, line), and the files that were left out."""

    lines: list[tuple[str, str]]
    rejected: list[Rejected]


def to_csv(config: CsvConfig, log: Callable[[str], object] = print) -> dict[str, int]:
    """Write the images of a source as CSV files of pixels. Only some images are in memory at once.

    Args:
        config: All settings.
        log: Called with each line of the report.

    Returns:
        Split -> number of images.

    Raises:
        UserError: Anything that the user can fix. In that case, no incomplete file is left.

    Example:
        to_csv(CsvConfig(src="cat_dog_img", image_size=64))
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
        raise UserError(f"{refusal(error)}. Nothing was written. Fix the cause, or choose another --out.") from error
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
            f"--out={config.out}: the CSV files would be inside --src={config.src} or would replace the images. Choose"
            " another --out."
        )


def _free_paths(sources: Sources, config: CsvConfig) -> dict[str, Path]:
    """Return the file of each split, or raise UserError if files of an earlier run are in the way."""
    paths = {split: Path(config.out) / f"{split}.csv" for split in SPLITS}
    written = _splits(sources, config)
    for split, path in paths.items():
        if path.exists() and not config.overwrite:
            raise UserError(f"{path}: exists. Add --overwrite to replace the file, or choose another --out.")
        if path.exists() and split not in written:  # The old and the new files would be read as one dataset.
            raise UserError(
                f"{path}: exists, but the images of --src have no {split} split that could replace this file. Remove"
                " the file, or choose another --out."
            )
    return {split: paths[split] for split in written}


def _splits(sources: Sources, config: CsvConfig) -> list[str]:
    """Return the names of the splits that will be written."""
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
    # The order is shuffled, so that a reader of the first lines gets all classes.
    numbers = order.permute(np.arange(len(sources)), len(sources), config.seed)
    numbers = numbers[~np.isin(numbers, list(reasons))]
    parts = (numbers[i : i + _FILES_PER_JOB] for i in range(0, len(numbers), _FILES_PER_JOB))
    header = pixel_csv.header(config.image_size, config.image_size, COLORS[config.color])
    with contextlib.ExitStack() as stack:
        opened = {split: stack.enter_context(files.atomic(path)) for split, path in paths.items()}
        for file in opened.values():
            file.write(header.encode())
        progress = stack.enter_context(Progress("write", len(sources)))
        for result in pool.map(_make_lines, (_job(sources, splits, part, config) for part in parts)):
            for split, line in result.lines:
                opened[split].write(line.encode())
                counts[split] += 1
            rejected += result.rejected
            check_rejected(rejected, total, config.max_bad)
            progress(len(result.lines) + len(result.rejected))
    return counts, rejected


def _automatic_split(sources: Sources, config: CsvConfig, pool: Pool) -> tuple[np.ndarray, dict[int, str]]:
    """Return the splits that `convert` would choose, i8[n], and number -> reason for rejected files.

    This reads every file once, because the split depends on the contents of all files of a class.
    """
    with Progress("inspect", len(sources)) as progress:
        facts = survey(sources, pool, progress=progress)
    reasons = facts.reasons
    valid = np.delete(np.arange(len(sources)), list(reasons))
    keys = split_keys(facts.of(valid)["source_sha256"], sources.groups[valid])
    del facts  # They take more memory than all that follows.
    settings, splits = config.plan_config(), sources.splits.copy()
    splits[valid] = choose_splits(keys, sources.labels[valid], settings.fractions, settings.seed)
    return splits, reasons


def _job(sources: Sources, splits: np.ndarray, part: np.ndarray, config: CsvConfig) -> _Job:
    return _Job(
        files=sources.files(part),
        labels=[sources.class_names[label] for label in sources.labels[part]],
        splits=splits[part],
        config=config,
    )


def _make_lines(job: _Job) -> _Lines:
    lines, rejected = [], []
    for i, path in enumerate(job.files.paths):
        try:
            pixels = _pixels(job.files.read(i).data, job.config)
        except (BadImage, ReadError, OSError) as error:
            rejected.append(Rejected(path=path, reason=reason_of(error)))
            continue
        lines.append((SPLITS[job.splits[i]], pixel_csv.line(job.labels[i], pixels)))
    return _Lines(lines, rejected)


def _pixels(data: bytes, config: CsvConfig) -> np.ndarray:
    """Return the pixels of an image file, u8[size size channels]."""
    prepared = preparation.prepare(data, config.image_config())
    pixels = np.frombuffer(prepared.data, np.uint8).reshape(prepared.height, prepared.width, 3)
    return pixels if config.color == "rgb" else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(CsvConfig)}
    usage.define_path(
        "src",
        None,
        "The images: a directory, a URL such as s3://bucket/images, a zip or tar archive, a CSV or Parquet file that"
        " lists images (a manifest), or a CSV file with pixel values.",
    )
    usage.define_path("out", default["out"], "Directory to write the CSV files to.")
    flags.DEFINE_integer(
        "image_size", None, f"Height and width of each image in pixels, from 1 to {_MAX_SIZE:,}. Required."
    )
    flags.DEFINE_enum(
        "color",
        default["color"],
        list(COLORS),
        "rgb: three values per pixel (red, green, blue); gray: one value per pixel.",
    )
    flags.DEFINE_enum(
        "resize_mode",
        default["resize_mode"],
        _SQUARE_MODES,
        "exact: stretch the whole image to a square; center_crop: crop the central square, then scale it.",
    )
    source_flags.define_source_flags()
    flags.DEFINE_integer("seed", default["seed"], "Seed of the automatic split and of the order of the lines.")
    flags.DEFINE_bool("overwrite", default["overwrite"], "Replace existing CSV files.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    if flags.FLAGS.image_size is None:
        raise UserError(
            "--image_size is missing. Add the height and width of the images in pixels, for example --image_size=64."
        )
    to_csv(command.from_flags(CsvConfig, src=flags.FLAGS.src or ""))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
