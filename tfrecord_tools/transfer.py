"""Copy a dataset between this machine and an object store.

    python -m tfrecord_tools.transfer out/ s3://bucket/pets
    python -m tfrecord_tools.transfer s3://bucket/pets out/

Files are copied one by one, convert.json last, so that no reader opens an incomplete copy. If the command is stopped,
run it again: it continues. Files of an unfinished copy are kept if their MD5 equals that of the source. They are copied
again if the store does not report an MD5 (S3 with KMS keys, or an upload in parts that do not have 50 MiB).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tfrecord_tools.base import command, files, words
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.layout.dataset_files import CLAIM, CONVERT_JSON
from tfrecord_tools.sources import object_store
from tfrecord_tools.sources.base import is_litter

_PART_BYTES = 50 * 2**20  # The same as in s3fs, because the ETag of an upload in parts depends on it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Source and destination of a copy.

    Attributes:
        source: The dataset: a local directory, or a URL such as s3://bucket/pets.
        destination: A local directory or a URL that does not exist, or that holds an unfinished copy of the source.
    """

    source: str
    destination: str

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            if not getattr(self, name):
                raise UserError(f"the {name} is empty. It must be a directory or a URL such as s3://bucket/pets.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
    """Numbers of files.

    Attributes:
        copied: Files that were copied.
        verified: Files that were at the destination before, with the same checksum.
        by_size: Files that were at the destination before, with the same size; the store has no checksum.
    """

    copied: int
    verified: int
    by_size: int


class _Directory(Protocol):
    """A directory on this machine or in an object store."""

    @property
    def shown(self) -> str:
        """Name of the directory, for messages."""

    def sizes(self) -> dict[str, int]:
        """Return file name -> bytes. A dataset has no names with a slash: they are other directories."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""

    def etag(self, name: str) -> str | None:
        """Return the checksum that the store reports for a file, or None."""

    def path(self, name: str) -> Path | None:
        """Return the path of a file on this machine, or None in an object store."""

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file from here to a path on this machine."""

    def store(self, name: str, source: _Directory) -> None:
        """Copy a file from another directory to here. It appears when it is complete."""


@dataclasses.dataclass(frozen=True)
class _Local:
    root: Path

    @property
    def shown(self) -> str:
        return f"{self.root}/"

    def sizes(self) -> dict[str, int]:
        if not self.root.exists():
            return {}
        if not self.root.is_dir():
            raise UserError(f"{self.root}: is a file, not a directory. Choose a directory.")
        entries = [path for path in self.root.iterdir() if not is_litter(path.name) and path.suffix != ".tmp"]
        return {f"{path.name}/" if path.is_dir() else path.name: path.stat().st_size for path in entries}

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def etag(self, name: str) -> str | None:
        return None

    def path(self, name: str) -> Path | None:
        return self.root / name

    def fetch(self, name: str, path: Path) -> None:
        shutil.copyfile(self.root / name, path)

    def store(self, name: str, source: _Directory) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with files.atomic(self.root / name) as file:
            source.fetch(name, Path(file.name))


class _Remote:
    def __init__(self, url: str):
        self.shown = url.rstrip("/")
        self._system, self._root = object_store.opened(url)
        self._infos: Mapping[str, Mapping[str, Any]] = {}

    def sizes(self) -> dict[str, int]:
        with object_store.explained(self.shown):
            infos = self._system.find(self._root, detail=True)
        if self._root in infos:
            raise UserError(f"{self.shown}: is an object, not a directory. Choose a directory.")
        self._infos = {key.removeprefix(f"{self._root}/"): info for key, info in infos.items() if key[-1] != "/"}
        return {name: info["size"] for name, info in self._infos.items() if not is_litter(name)}

    def read(self, name: str) -> bytes:
        with object_store.explained(self.shown):
            data: bytes = self._system.cat_file(f"{self._root}/{name}")
        return data

    def etag(self, name: str) -> str | None:
        info = self._infos[name]
        if "md5Hash" in info:  # Google's store, in which the ETag is not a checksum.
            return base64.b64decode(info["md5Hash"]).hex()
        etag = info.get("ETag")
        return etag.strip('"') if etag else None

    def path(self, name: str) -> Path | None:
        return None

    def fetch(self, name: str, path: Path) -> None:
        with object_store.explained(self.shown):
            self._system.get_file(f"{self._root}/{name}", str(path))

    def store(self, name: str, source: _Directory) -> None:
        path = source.path(name)
        if path is None:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, name)
                source.fetch(name, path)
                return self._put(name, path)
        return self._put(name, path)

    def _put(self, name: str, path: Path) -> None:
        with object_store.explained(self.shown):
            self._system.put_file(str(path), f"{self._root}/{name}")


def transfer(config: TransferConfig, log: Callable[[str], object] = print) -> Transferred:
    """Copy a dataset, or continue an interrupted copy.

    Args:
        config: Source and destination.
        log: Called with the line of the report.

    Returns:
        The numbers of files that were copied and that were already there.

    Raises:
        UserError: The source is not a dataset, the destination holds other files, or a store cannot be reached.
    """
    source, destination = _directory(config.source), _directory(config.destination)
    try:
        transferred = _transfer(source, destination)
    except OSError as error:
        raise UserError(f"{refusal(error)}. Fix the cause and run the same command again to continue.") from error
    by_size = f" ({transferred.by_size:,} of them compared by size only)" if transferred.by_size else ""
    existing = transferred.verified + transferred.by_size
    log(
        f"{destination.shown}: complete; {words.number(transferred.copied, 'file')} copied,"
        f" {words.number(existing, 'was', 'were')} already there{by_size}"
    )
    return transferred


def _directory(name: str) -> _Directory:
    return _Remote(name) if files.is_url(name) else _Local(Path(name))


def _transfer(source: _Directory, destination: _Directory) -> Transferred:
    sizes = {name: size for name, size in source.sizes().items() if "/" not in name and name != CLAIM}
    if CONVERT_JSON not in sizes:
        raise UserError(
            f"{source.shown}: is not a dataset (it has no {CONVERT_JSON}). Pass a directory that convert or adopt has"
            " written."
        )
    existing = destination.sizes()
    _check_destination(source, destination, sizes, existing)
    complete = CONVERT_JSON in existing  # `_check_destination` has compared both.
    data = {name: size for name, size in sizes.items() if name != CONVERT_JSON}
    counts: Counter[bool | None] = Counter({complete: 1})
    with Progress("transfer", len(data), unit="files") as progress:
        for name, size in sorted(data.items()):
            same = _same(source, destination, name) if existing.get(name) == size else False
            if same is None and not complete:
                same = False
            if same is False:
                destination.store(name, source)
            counts[same] += 1
            progress(1)
    _check_sizes(destination, data)
    if not complete:  # This file comes last, because it marks a complete copy.
        destination.store(CONVERT_JSON, source)
        _check_sizes(destination, sizes)
    return Transferred(copied=counts[False], verified=counts[True], by_size=counts[None])


def _check_destination(
    source: _Directory, destination: _Directory, sizes: Mapping[str, int], existing: Mapping[str, int]
) -> None:
    """Raise UserError if the destination holds anything else than a complete or unfinished copy."""
    foreign = sorted(existing.keys() - sizes.keys())
    if foreign:
        raise UserError(
            f"{destination.shown}: contains {foreign[0]}, which is not in {source.shown}. Nothing was changed. Choose"
            " another destination."
        )
    if CONVERT_JSON in existing:
        if destination.read(CONVERT_JSON) != source.read(CONVERT_JSON):
            raise UserError(
                f"{destination.shown}: contains another dataset. Nothing was changed. Choose another destination."
            )
        return  # A file of another size is damaged, and is copied again.
    for name in sorted(existing):
        if existing[name] != sizes[name]:
            raise UserError(
                f"{destination.shown}: {name} has {existing[name]:,} bytes there and {sizes[name]:,} in {source.shown}."
                f" Perhaps the file in {destination.shown} belongs to another dataset. Nothing was changed. Remove this"
                " file, or choose another destination."
            )


def _check_sizes(destination: _Directory, sizes: Mapping[str, int]) -> None:
    existing = destination.sizes()
    for name, size in sizes.items():
        if existing.get(name) != size:
            state = f"has {existing[name]:,} bytes" if name in existing else "is missing"
            raise UserError(
                f"{destination.shown}: {name} {state} after it was copied, but should have {size:,} bytes. Check that"
                " no other program writes there, and run the same command again."
            )


def _same(source: _Directory, destination: _Directory, name: str) -> bool | None:
    """Return whether two files of equal size are equal, or None if the stores have no checksum to compare."""
    etags = [directory.etag(name) for directory in (source, destination)]
    paths = [directory.path(name) for directory in (source, destination)]
    if paths[0] is not None and paths[1] is not None:
        return _etag(paths[0]) == _etag(paths[1])
    if etags[0] is not None and etags[1] is not None:
        return etags[0] == etags[1] or None
    etag = etags[0] or etags[1]
    path = paths[0] or paths[1]
    if etag is None or path is None:
        return None
    if "-" in etag:  # An upload in parts. If the sizes of the parts differ, the ETags of equal files differ too.
        return etag == _etag(path, parts=True) or None
    return etag == _etag(path)


def _etag(path: Path, parts: bool = False) -> str:
    """Return the ETag of S3 for a file: its MD5, or with `parts` the MD5 of the MD5s of its parts."""
    whole, of_parts, count = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while data := file.read(_PART_BYTES):
            whole.update(data)
            of_parts.update(hashlib.md5(data, usedforsecurity=False).digest())
            count += 1
    return f"{of_parts.hexdigest()}-{count}" if parts else whole.hexdigest()


def main(argv: Sequence[str]) -> None:
    source, destination = command.two_arguments(
        argv, "a SOURCE and a DESTINATION: directories or addresses such as s3://bucket/pets."
    )
    transfer(TransferConfig(source=source, destination=destination))


if __name__ == "__main__":
    command.run(main, "interrupted: run the same command again to continue", arguments="SOURCE DESTINATION")
