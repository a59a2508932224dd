"""Write pictures to tar files for the library webdataset."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tfrecord_tools.exporting import shard_writer
from tfrecord_tools.exporting.pictures import Counts, Picture
from tfrecord_tools.exporting.shard_writer import ShardFormat, split_of
from tfrecord_tools.records import Dataset

_SHARD_BYTES = 250_000_000
_TAR_END = 2 * tarfile.BLOCKSIZE


class Webdataset:
    """Tar files of one split each, with three members per record: image, .cls and .json."""

    def __init__(self, data: Dataset, shard_bytes: int | None):
        self._form = ShardFormat(
            open=_Tar,
            name=lambda split, number, count: f"{split}-{number:06d}.tar",
            shard_bytes=shard_bytes or _SHARD_BYTES,
        )

    def writer(self, root: Path) -> contextlib.AbstractContextManager[Callable[[Picture], None]]:
        """Return a context with a function that appends a picture to the current tar file below `root`."""
        return shard_writer.writer(root, self._form)

    def count(self, root: Path) -> Counts:
        """Read the tar files, and count their images per split and label."""
        counts = Counts()
        for path in root.iterdir():
            # Images that cannot be read are not counted.
            with contextlib.suppress(tarfile.TarError, ValueError), tarfile.open(path, "r:") as tar:
                members = _read_members(tar)
                for image, label, _ in zip(members, members, members, strict=True):
                    paired = image.size and os.path.splitext(image.name)[0] == os.path.splitext(label.name)[0]
                    text = tar.extractfile(label)
                    if paired and text is not None:
                        counts[split_of(path), int(text.read())] += 1
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield the webdataset pattern of the files of each split."""
        for split, last in sorted(Counter(split_of(path) for path in out.glob("*.tar")).items()):
            yield f"{out}/{split}-{{000000..{last - 1:06d}}}.tar"


class _Tar:
    def __init__(self, path: Path):
        self._tar = tarfile.open(path, "w:")  # noqa: SIM115  `close` closes it.

    def bytes_with(self, picture: Picture) -> int:
        members = _members(picture).values()
        size = sum(tarfile.BLOCKSIZE * (1 - -len(data) // tarfile.BLOCKSIZE) for data in members)
        return self._tar.offset + size + _TAR_END

    def write(self, picture: Picture) -> None:
        for name, data in _members(picture).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        _forget_members(self._tar)

    def close(self) -> None:
        self._tar.close()


def _read_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _forget_members(tar)
        yield member


def _forget_members(tar: tarfile.TarFile) -> None:
    """Free the members that tarfile keeps in memory, 1 kB each."""
    vars(tar)["members"] = []


def _members(picture: Picture) -> dict[str, bytes]:
    """Return name in the tar file -> content."""
    key = f"{picture.number:09d}"  # Not the source path: webdataset would cut it at its first dot.
    about = {"path": picture.path, "label": picture.label, "class": picture.class_name, "split": picture.split}
    about |= {"source_sha256": picture.source_sha256, **({"group": picture.group} if picture.group else {})}
    return {
        f"{key}{picture.suffix}": picture.image,
        f"{key}.cls": str(picture.label).encode(),
        f"{key}.json": json.dumps(about, ensure_ascii=False).encode(),
    }
