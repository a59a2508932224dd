"""Writes a dataset's images out again: as a directory, or as the tar files of webdataset.

    python -m tfrecord_tools.export --to=folder --tfrecords=out --out=images
    python -m tfrecord_tools.export --to=webdataset --tfrecords=out --out=shards --shard_bytes=250000000

folder writes split/class/image, byte for byte as stored; tfrecord_tools.convert makes the same records of it.
webdataset writes train-000000.tar …, of each record NUMBER.jpg (or .png), NUMBER.cls (the label) and NUMBER.json.
What was written is read again and counted, and appears whole or not at all.
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
    """What is written, and as what.

    Attributes:
        tfrecords: The dataset directory.
        out: The directory to write; it must not be there yet.
        to: "folder" or "webdataset".
        shard_bytes: The most bytes of a tar file, unless a single image takes more.
    """

    tfrecords: str
    out: str
    to: str = "folder"
    shard_bytes: int = 250_000_000

    def __post_init__(self) -> None:
        for name in ("tfrecords", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing. It takes a directory: --tfrecords=out --out=images.")
        if self.to not in TO:
            raise UserError(f"--to={self.to}: one of {', '.join(TO)} is expected.")
        if self.shard_bytes < 1:
            raise UserError(f"--shard_bytes={self.shard_bytes}: bytes are meant, at least 1.")


class Picture(NamedTuple):
    """A record as it goes out. `path` is that of its source, `kind` what `image` is: JPEG, PNG, GIF, BMP or WEBP."""

    split: str
    number: int
    label: int
    class_name: str
    path: str
    image: bytes
    kind: str


def export(config: ExportConfig, log: Callable[[str], object] = print) -> dict[str, int]:
    """Writes all records of all splits, in the memory of one.

    Args:
        config: What, and as what.
        log: Takes each line of the report.

    Returns:
        Split -> number of images.

    Raises:
        UserError: Anything that the user can mend, a corrupt record too; nothing is written then.
    """
    data, out = open_dataset(config.tfrecords), Path(config.out)
    sink = TO[config.to](data.class_names, config.shard_bytes)
    try:
        with fresh(out, lambda: _check_free(out)) as space, Progress("export", sum(data.splits.values())) as progress:
            written = Counts()
            with sink.writer(space.data) as write:
                for picture in _pictures(data):
                    write(picture)
                    written[picture.split, picture.label] += 1
                    progress(1)
            files.sync_tree(space.data)
            if sink.count(space.data) != written:
                raise RuntimeError(f"{out}: what was written cannot be read again; please report this")
    except OSError as error:
        raise UserError(f"{refusal(error)}. Nothing was written; mend the cause and try again.") from error
    for split, count in data.splits.items():
        log(f"{out}/: {words.number(count, 'image')} of {split}, read again and counted")
    for line in sink.notes(out):
        log(line)
    return dict(data.splits)


class Folder:
    """split/class/image, as `convert` reads it."""

    def __init__(self, class_names: Sequence[str], shard_bytes: int):
        self._directories = _distinct([_file_name(name) for name in class_names])

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Gives what writes a picture below `root`."""

        def write(picture: Picture) -> None:
            path = root / picture.split / self._directories[picture.label] / _relative(picture)
            stem, number = path.stem, 1
            while path.exists():  # Other sources, the same name.
                number += 1
                path = path.with_name(f"{stem}-{number}{path.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.image)

        yield write

    def count(self, root: Path) -> Counts:
        """Counts the files."""
        counts = Counts()
        for split in root.iterdir():
            for label, name in enumerate(self._directories):
                count = sum(len(names) for _, _, names in os.walk(split / name))
                counts.update({(split.name, label): count} if count else {})
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yields how to convert it back, with the same labels."""
        names = self._directories
        classes = [] if names == sorted(names) else [f"--classes={','.join(names)}"]
        yield f"back: python -m tfrecord_tools.convert {shlex.join([f'--src={out}', *classes])}"


class Webdataset:
    """Tar files of one split each; of a record three members, told apart by the ending: image, .cls and .json."""

    def __init__(self, class_names: Sequence[str], shard_bytes: int):
        self._shard_bytes = shard_bytes

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Gives what writes a picture into the tar file whose turn it is."""
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
        """Reads the tar files."""
        counts = Counts()
        for path in root.iterdir():
            with tarfile.open(path, "r:") as tar:
                members = list(tar)
                for image, label in zip(members[::3], members[1::3], strict=True):
                    same = image.size and os.path.splitext(image.name)[0] == os.path.splitext(label.name)[0]
                    text = tar.extractfile(label)
                    if same and text is not None:
                        counts[path.name.split("-")[0], int(text.read())] += 1
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yields the pattern of each split's files, as webdataset takes it."""
        for split, last in sorted(Counter(path.name.split("-")[0] for path in out.glob("*.tar")).items()):
            yield f"{out}/{split}-{{000000..{last - 1:06d}}}.tar"


TO: dict[str, Callable[[Sequence[str], int], Folder | Webdataset]] = {"folder": Folder, "webdataset": Webdataset}


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists. Choose a directory that is not there yet.")


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
    """Name in the tar file -> content. The key is a number: webdataset would cut a name at its first dot."""
    key = f"{picture.number:09d}"
    about = {"path": picture.path, "label": picture.label, "class": picture.class_name, "split": picture.split}
    return {
        f"{key}{_SUFFIXES[picture.kind][0]}": picture.image,
        f"{key}.cls": str(picture.label).encode(),
        f"{key}.json": json.dumps(about, ensure_ascii=False).encode(),
    }


def _relative(picture: Picture) -> Path:
    """Its source path below split and class, which it may begin with; of an ending that says what it is."""
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
    """Makes one visible file or directory of any text: hidden ones are not converted."""
    name = text.replace("/", "_").replace("\0", "_")
    return f"_{name[1:]}" if name.startswith(".") else name


def _distinct(names: Sequence[str]) -> list[str]:
    """Appends a number to what stands there twice."""
    times = Counter(names)
    return [f"{name}-{number}" if times[name] > 1 else name for number, name in enumerate(names)]


def define_flags() -> None:
    flags.DEFINE_enum("to", ExportConfig.to, list(TO), "Images in directories, or tar files as of webdataset.")
    usage.define_path("tfrecords", "", "The dataset directory.")
    usage.define_path("out", "", "The directory to write; it must not be there yet.")
    flags.DEFINE_integer("shard_bytes", ExportConfig.shard_bytes, "The most bytes of a tar file.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    export(command.from_flags(ExportConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: nothing was written")
