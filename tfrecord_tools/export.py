"""Export the images of a dataset to folders, or to tar files for webdataset.

    python -m tfrecord_tools.export --to=folder --tfrecords=out --out=images
    python -m tfrecord_tools.export --to=webdataset --tfrecords=out --out=shards --shard_bytes=250000000

--to=folder writes split/class/image, byte for byte as stored. tfrecord_tools.convert makes the same records from these
files. --to=webdataset writes train-000000.tar and so on, with NUMBER.jpg (or .png), NUMBER.cls (the label) and
NUMBER.json per record. All files are read again and counted before --out appears. If the command fails, --out does not
exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from PIL import Image

from tfrecord_tools.base import command, files, usage, words
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.conversion.workspace import fresh
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.foreign.example_parser import image_type
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.records import Dataset, open_dataset

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "GIF": (".gif",), "BMP": (".bmp",),
    "WEBP": (".webp",),
}  # fmt: skip
_IMAGE_SUFFIXES = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes} | {".tif", ".tiff"}
_TAR_END = 2 * tarfile.BLOCKSIZE
Counts = Counter[tuple[str, int]]  # (split, label) -> images.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of `export`.

    Attributes:
        tfrecords: The dataset directory.
        out: Directory to write. It must be new or empty.
        to: "folder" or "webdataset".
        shard_bytes: Largest size of a tar file in bytes. A single larger image gets a larger file.
    """

    tfrecords: str
    out: str
    to: str = "folder"
    shard_bytes: int = 250_000_000

    def __post_init__(self) -> None:
        for name in ("tfrecords", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing. Pass two directories, as in --tfrecords=out --out=images.")
        if self.to not in TO:
            raise UserError(f"--to={self.to}: must be one of {', '.join(TO)}.")
        if self.shard_bytes < 1:
            raise UserError(f"--shard_bytes={self.shard_bytes}: must be a number of bytes, at least 1.")


class Picture(NamedTuple):
    """A record to export.

    Attributes:
        split: Name of the split.
        number: Number of the record in the split.
        label: Label of the record.
        class_name: Name of the class.
        path: Path of the source file.
        image: The encoded image.
        kind: Format of the image: JPEG, PNG, GIF, BMP or WEBP.
    """

    split: str
    number: int
    label: int
    class_name: str
    path: str
    image: bytes
    kind: str


def export(config: ExportConfig, log: Callable[[str], object] = print) -> dict[str, int]:
    """Export the records of all splits. Only one record is in memory at once.

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
    data, out = open_dataset(config.tfrecords), Path(config.out)
    sink = TO[config.to](data.class_names, config.shard_bytes)
    try:
        with (
            fresh(out, lambda: _check_free(out)) as workspace,
            Progress("export", sum(data.splits.values())) as progress,
        ):
            written = Counts()
            with sink.writer(workspace.data) as write:
                for picture in _pictures(data):
                    write(picture)
                    written[picture.split, picture.label] += 1
                    progress(1)
            files.sync_tree(workspace.data)
            if sink.count(workspace.data) != written:
                raise RuntimeError(f"{out}: the written files cannot be read again; please report this")
    except OSError as error:
        raise UserError(
            f"{refusal(error)}. Nothing was written. Fix the cause and run the same command again."
        ) from error
    for split, count in data.splits.items():
        log(f"{out}/: {words.number(count, 'image')} of {split}, read again and counted")
    for line in sink.notes(out):
        log(line)
    return dict(data.splits)


class Folder:
    """Folders split/class/image, which `convert` reads."""

    def __init__(self, class_names: Sequence[str], shard_bytes: int):
        self._directories = _distinct([_file_name(name) for name in class_names])

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Yield a function that writes a picture below `root`."""

        def write(picture: Picture) -> None:
            path = root / picture.split / self._directories[picture.label] / _relative(picture)
            stem, number = path.stem, 1
            while path.exists():  # Different sources may have equal names.
                number += 1
                path = path.with_name(f"{stem}-{number}{path.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.image)

        yield write

    def count(self, root: Path) -> Counts:
        """Count the written files per split and label."""
        counts = Counts()
        for split in root.iterdir():
            for label, name in enumerate(self._directories):
                count = sum(len(names) for _, _, names in os.walk(split / name))
                counts.update({(split.name, label): count} if count else {})
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield the command that converts the folders into the same records."""
        names = self._directories
        classes = [] if names == sorted(names) else [f"--classes={','.join(names)}"]
        yield f"to convert them back: python -m tfrecord_tools.convert {shlex.join([f'--src={out}', *classes])}"


class Webdataset:
    """Tar files of one split each, with three members per record: image, .cls and .json."""

    def __init__(self, class_names: Sequence[str], shard_bytes: int):
        self._shard_bytes = shard_bytes

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Yield a function that appends a picture to the current tar file below `root`."""
        with contextlib.ExitStack() as opened:
            tar: tarfile.TarFile | None = None
            split, shard = "", 0

            def write(picture: Picture) -> None:
                nonlocal tar, split, shard
                members = _members(picture)
                size = sum(tarfile.BLOCKSIZE * (1 - -len(data) // tarfile.BLOCKSIZE) for data in members.values())
                if tar is None or split != picture.split or tar.offset + size + _TAR_END > self._shard_bytes:
                    opened.close()
                    split, shard = picture.split, shard + 1 if split == picture.split else 0
                    tar = opened.enter_context(tarfile.open(root / f"{split}-{shard:06d}.tar", "w:"))
                for name, data in members.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

            yield write

    def count(self, root: Path) -> Counts:
        """Read the tar files, and count their images per split and label."""
        counts = Counts()
        for path in root.iterdir():
            with tarfile.open(path, "r:") as tar:
                members = list(tar)
                for image, label in zip(members[::3], members[1::3], strict=True):
                    paired = image.size and os.path.splitext(image.name)[0] == os.path.splitext(label.name)[0]
                    text = tar.extractfile(label)
                    if paired and text is not None:
                        counts[path.name.split("-")[0], int(text.read())] += 1
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield the webdataset pattern of the files of each split."""
        for split, last in sorted(Counter(path.name.split("-")[0] for path in out.glob("*.tar")).items()):
            yield f"{out}/{split}-{{000000..{last - 1:06d}}}.tar"


TO: dict[str, Callable[[Sequence[str], int], Folder | Webdataset]] = {"folder": Folder, "webdataset": Webdataset}


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out}: exists and is not an empty directory. Choose a new or an empty directory.")


def _pictures(data: Dataset) -> Iterator[Picture]:
    for split in data.splits:
        records = data.records(split)
        for number in range(len(records)):
            record = records[number]
            image = record["image"] if data.raw_size is None else _png(record["image"], data.raw_size)
            name = data.class_names[record["label"]]
            yield Picture(split, number, record["label"], name, record["path"], image, image_type(image) or "JPEG")


def _png(pixels: bytes, side: int) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(stream, "PNG")
    return stream.getvalue()


def _members(picture: Picture) -> dict[str, bytes]:
    """Return name in the tar file -> content."""
    key = f"{picture.number:09d}"  # Not the source path: webdataset would cut it at its first dot.
    about = {"path": picture.path, "label": picture.label, "class": picture.class_name, "split": picture.split}
    return {
        f"{key}{_SUFFIXES[picture.kind][0]}": picture.image,
        f"{key}.cls": str(picture.label).encode(),
        f"{key}.json": json.dumps(about, ensure_ascii=False).encode(),
    }


def _relative(picture: Picture) -> Path:
    """Return the source path without split and class, with the suffix of the stored format."""
    parts = [_file_name(part) for part in picture.path.split("/") if part not in ("", ".", "..")]
    if len(parts) > 1 and split_named(parts[0]) == picture.split:
        parts = parts[1:]
    if len(parts) > 1 and parts[0] == _file_name(picture.class_name):
        parts = parts[1:]
    stem, suffix = os.path.splitext(parts[-1])
    if suffix.lower() not in _SUFFIXES[picture.kind]:
        stem = stem if suffix.lower() in _IMAGE_SUFFIXES else parts[-1]
        suffix = _SUFFIXES[picture.kind][0]
    return Path(*parts[:-1], stem + suffix)


def _file_name(text: str) -> str:
    """Return a text as the name of a file or directory that is not hidden, so that `convert` reads it."""
    name = text.replace("/", "_").replace("\0", "_")
    return f"_{name[1:]}" if name.startswith(".") else name


def _distinct(names: Sequence[str]) -> list[str]:
    """Append a number to names that occur more than once."""
    times = Counter(names)
    return [f"{name}-{number}" if times[name] > 1 else name for number, name in enumerate(names)]


def define_flags() -> None:
    flags.DEFINE_enum(
        "to",
        ExportConfig.to,
        list(TO),
        "folder: image files in folders SPLIT/CLASS; webdataset: tar files for the library webdataset.",
    )
    usage.define_path("tfrecords", "", "Directory of the dataset to export. Required.")
    usage.define_path("out", "", "Directory to write. It must be new or empty. Required.")
    flags.DEFINE_integer(
        "shard_bytes",
        ExportConfig.shard_bytes,
        "Largest size of a tar file in bytes, for --to=webdataset. If a single image is larger, its tar file is"
        " larger, too.",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    export(command.from_flags(ExportConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
