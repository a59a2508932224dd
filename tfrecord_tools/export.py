"""Export the images of a dataset to folders, webdataset, Parquet for Hugging Face, or ArrayRecord.

    python -m tfrecord_tools.export --to=folder --tfrecords=out --out=images
    python -m tfrecord_tools.export --to=webdataset --tfrecords=out --out=shards --shard_bytes=250000000
    python -m tfrecord_tools.export --to=parquet --tfrecords=out --out=pets
    python -m tfrecord_tools.export --to=array_record --tfrecords=out --out=pets

Images are written byte for byte as stored.

    folder        SPLIT/CLASS/IMAGE
    webdataset    train-000000.tar and so on, with NUMBER.jpg (or .png), NUMBER.cls (the label), NUMBER.json per record
    parquet       data/train-00000-of-00001.parquet and so on, with README.md (the dataset card) and croissant.json;
                  datasets.load_dataset opens the directory
    array_record  files of tf.train.Example for Grain and for TensorFlow Datasets

tfrecord_tools.convert makes the same records again from folders, tar files and Parquet files. All files are read again
and counted before --out appears. If the command fails, --out does not exist.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import cache_options, command, files, usage, words
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.conversion.workspace import fresh
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.exporting import pictures
from tfrecord_tools.exporting.array_record import ArrayRecord
from tfrecord_tools.exporting.folder import Folder
from tfrecord_tools.exporting.parquet import Parquet
from tfrecord_tools.exporting.pictures import Counts, Sink
from tfrecord_tools.exporting.webdataset import Webdataset
from tfrecord_tools.records import Dataset, open_dataset

TO: dict[str, Callable[[Dataset, int | None], Sink]] = {
    "folder": Folder, "webdataset": Webdataset, "parquet": Parquet, "array_record": ArrayRecord,
}  # fmt: skip

USED_BY = {"shard_bytes": ("webdataset", "parquet", "array_record")}  # Setting -> the values of --to that use it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of `export`.

    Attributes:
        tfrecords: The dataset directory or its URL.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        out: Directory to write. It must be new or empty.
        to: "folder", "webdataset", "parquet" or "array_record".
        shard_bytes: Largest size of a tar, Parquet or ArrayRecord file in bytes. A single larger image gets a larger
            file. None: 500,000,000 for Parquet, 250,000,000 for the other formats. It is not used for "folder".
    """

    tfrecords: str
    out: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    to: str = "folder"
    shard_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("tfrecords", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing. Pass two directories, as in --tfrecords=out --out=images.")
        files.check_local("out", self.out)
        if self.to not in TO:
            raise UserError(f"--to={self.to}: must be one of {', '.join(TO)}.")
        for name, formats in USED_BY.items():
            value = getattr(self, name)
            if value is not None and self.to not in formats:
                others = [f"--to={one}" for one in formats]
                raise UserError(
                    f"--{name}={value}: --to={self.to} does not use it. Only {', '.join(others[:-1])} and {others[-1]}"
                    f" use it. Remove --{name}, or choose another --to."
                )
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise UserError(f"--shard_bytes={self.shard_bytes}: must be a number of bytes, at least 1.")


def export(config: ExportConfig, log: Callable[[str], object] = print) -> dict[str, int]:
    """Export the records of all splits.

    One image is in memory at once. For Parquet, the images of a row group are in memory, up to 32 MiB. From a bucket,
    each record is fetched once, and up to 64 requests are under way at once.

    Args:
        config: All settings.
        log: Called with each line of the report.

    Returns:
        Split -> number of images.

    Raises:
        UserError: Anything that the user can fix, or a corrupt record. In that case, nothing is written.

    Example:
        export(ExportConfig(tfrecords="out", out="images"))
    """
    out = Path(config.out)
    _check_free(out)  # Before a dataset in a bucket is fetched.
    data = open_dataset(config.tfrecords, cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)
    sink = TO[config.to](data, config.shard_bytes)
    try:
        with (
            fresh(out, lambda: _check_free(out)) as workspace,
            Progress("export", sum(data.splits.values())) as progress,
        ):
            written = Counts()
            with sink.writer(workspace.data) as write:
                for picture in pictures.pictures(data):
                    write(picture)
                    written[picture.split, picture.label] += 1
                    progress(1)
            files.sync_tree(workspace.data)
            if sink.count(workspace.data) != written:
                raise RuntimeError(f"{out}: the written files cannot be read again; please report this")
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. Nothing was written. Fix the cause and run the same command again."
            f"{_advice(error, data, out)}"
        ) from error
    for split, count in data.splits.items():
        log(f"{out}/: {words.number(count, 'image')} of {split}, read again and counted")
    for line in sink.notes(out):
        log(line)
    return dict(data.splits)


def _advice(error: OSError, data: Dataset, out: Path) -> str:
    """Return what else may help: a cache for records of a bucket may take the space of the output."""
    if data.bucket is None or error.errno != errno.ENOSPC or _disk(data.bucket.cache_dir) != _disk(out):
        return ""
    return (
        f" The cache in {data.bucket.cache_dir} is on the same disk: pass a smaller --cache_bytes, or a --cache_dir on"
        " another disk."
    )


def _disk(path: Path) -> int:
    """Return the number of the disk that holds a path, or will hold it."""
    return next(one for one in (path, *path.absolute().parents) if one.exists()).stat().st_dev


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out}: exists and is not an empty directory. Choose a new or an empty directory.")


def define_flags() -> None:
    flags.DEFINE_enum(
        "to",
        ExportConfig.to,
        list(TO),
        "folder: image files in folders SPLIT/CLASS; webdataset: tar files for the library webdataset; parquet: Parquet"
        " files with a dataset card, as Hugging Face's library datasets reads them; array_record: ArrayRecord files for"
        " Grain and TensorFlow Datasets.",
    )
    usage.define_path(
        "tfrecords",
        "",
        "Directory of the dataset to export, or its URL in a bucket, such as s3://bucket/pets. Required.",
    )
    for option in cache_options.OPTIONS:
        option.define()
    usage.define_path("out", "", "Directory to write. It must be new or empty. Required.")
    flags.DEFINE_integer(
        "shard_bytes",
        ExportConfig.shard_bytes,
        "Largest size of a file in bytes, for --to=webdataset, --to=parquet and --to=array_record. If a single image is"
        " larger, its file is larger, too. Default: 500000000 for Parquet, 250000000 for the other formats.",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    export(command.from_flags(ExportConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
