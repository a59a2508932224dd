"""Copies a dataset between this machine and an object store, so that no reader ever takes half a copy for a whole.

python -m tfrecord_tools.transfer out/ s3://bucket/pets and python -m tfrecord_tools.transfer s3://bucket/pets out/ copy
file by file, convert.json last. A command that was killed continues when repeated: of an unfinished copy, files stay
whose MD5 is the source's. Where a store tells none (S3 with KMS keys, or parts of another size), they are copied again.
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
from tfrecord_tools.layout.dataset_files import CONVERT_JSON
from tfrecord_tools.sources import object_store
from tfrecord_tools.sources.base import is_litter

_PART_BYTES = 50 * 2**20  # As s3fs has it: the ETag of what was uploaded in parts depends on it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What to copy.

    Attributes:
        source: A dataset: a local directory, or a URL such as s3://bucket/pets.
        destination: Likewise; nothing yet, or an unfinished copy of that dataset.
    """

    source: str
    destination: str

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            if not getattr(self, name):
                raise UserError(f"the {name} is empty: a directory or a URL such as s3://bucket/pets is expected.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
    """Numbers of files: copied now; there before, by checksum; there before, by their size alone."""

    copied: int
    verified: int
    by_size: int


class _Place(Protocol):
    """A directory, on this machine or in an object store."""

    @property
    def shown(self) -> str:
        """Its name, for messages."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name; in what lies deeper, which is of no dataset, there is a slash."""

    def read(self, name: str) -> bytes:
        """The content of a small file."""

    def etag(self, name: str) -> str | None:
        """What the store says of the content; None where it says nothing that can be compared."""

    def path(self, name: str) -> Path | None:
        """The file, if it is one of this machine."""

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file to a path of this machine."""

    def store(self, name: str, source: _Place) -> None:
        """Copies a file of another place to here, where it appears whole or not at all."""


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
            raise UserError(f"{self.root}: a file, not a directory.")
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

    def store(self, name: str, source: _Place) -> None:
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
            found = self._system.find(self._root, detail=True)
        if self._root in found:
            raise UserError(f"{self.shown}: an object, no directory.")
        self._infos = {key.removeprefix(f"{self._root}/"): info for key, info in found.items() if key[-1] != "/"}
        return {name: info["size"] for name, info in self._infos.items() if not is_litter(name)}

    def read(self, name: str) -> bytes:
        with object_store.explained(self.shown):
            data: bytes = self._system.cat_file(f"{self._root}/{name}")
        return data

    def etag(self, name: str) -> str | None:
        info = self._infos[name]
        if "md5Hash" in info:  # Google's, whose ETag is another thing.
            return base64.b64decode(info["md5Hash"]).hex()
        etag = info.get("ETag")
        return etag.strip('"') if etag else None

    def path(self, name: str) -> Path | None:
        return None

    def fetch(self, name: str, path: Path) -> None:
        with object_store.explained(self.shown):
            self._system.get_file(f"{self._root}/{name}", str(path))

    def store(self, name: str, source: _Place) -> None:
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
    """Copies a dataset; goes on where an earlier call was killed.

    Args:
        config: From where to where.
        log: Takes the line of the report.

    Raises:
        UserError: The source is no dataset, something else is at the destination, or a store cannot be reached.
    """
    source, destination = _place(config.source), _place(config.destination)
    try:
        done = _transfer(source, destination)
    except OSError as error:
        raise UserError(f"{refusal(error)}. Mend it and repeat the command: it continues.") from error
    by_size = f" ({done.by_size:,} of these compared by size only)" if done.by_size else ""
    there = done.verified + done.by_size
    log(
        f"{destination.shown}: complete; {words.number(done.copied, 'file')} copied,"
        f" {words.number(there, 'was', 'were')} there{by_size}"
    )
    return done


def _place(name: str) -> _Place:
    return _Remote(name) if files.is_url(name) else _Local(Path(name))


def _transfer(source: _Place, destination: _Place) -> Transferred:
    sizes = {name: size for name, size in source.sizes().items() if "/" not in name}
    if CONVERT_JSON not in sizes:
        raise UserError(f"{source.shown}: no dataset (it has no {CONVERT_JSON}). Pass what a conversion wrote.")
    there = destination.sizes()
    _check_destination(source, destination, sizes, there)
    whole = CONVERT_JSON in there  # Which was compared; without it, files of these sizes may be another dataset's.
    data = {name: size for name, size in sizes.items() if name != CONVERT_JSON}
    found: Counter[bool | None] = Counter({whole: 1})
    with Progress("transfer", len(data), unit="files") as progress:
        for name, size in sorted(data.items()):
            same = _same(source, destination, name) if there.get(name) == size else False
            if same is None and not whole:
                same = False
            if same is False:
                destination.store(name, source)
            found[same] += 1
            progress(1)
    _check_sizes(destination, data)
    if not whole:  # Last: where it is, everything is.
        destination.store(CONVERT_JSON, source)
        _check_sizes(destination, sizes)
    return Transferred(copied=found[False], verified=found[True], by_size=found[None])


def _check_destination(source: _Place, destination: _Place, sizes: Mapping[str, int], there: Mapping[str, int]) -> None:
    """Refuses a destination that holds anything but a copy of the source, be it unfinished."""
    foreign = sorted(there.keys() - sizes.keys())
    if foreign:
        raise UserError(
            f"{destination.shown}: holds {foreign[0]}, which is not in {source.shown}. It is not touched: pass another"
            " destination."
        )
    if CONVERT_JSON in there:
        if destination.read(CONVERT_JSON) != source.read(CONVERT_JSON):
            raise UserError(f"{destination.shown}: holds another dataset. It is not touched: pass another destination.")
        return  # A file of another size is damaged, and copied again.
    for name in sorted(there):
        if there[name] != sizes[name]:
            raise UserError(
                f"{destination.shown}: {name} has {there[name]:,} bytes there and {sizes[name]:,} in {source.shown}:"
                " of another dataset? It is not touched: remove it, or pass another destination."
            )


def _check_sizes(destination: _Place, sizes: Mapping[str, int]) -> None:
    there = destination.sizes()
    for name, size in sizes.items():
        if there.get(name) != size:
            state = f"has {there[name]:,} bytes" if name in there else "is missing"
            raise UserError(
                f"{destination.shown}: {name} {state} after it was copied, and should have {size:,}. Does something"
                " else write there? Repeat the command."
            )


def _same(source: _Place, destination: _Place, name: str) -> bool | None:
    """Whether a file of the same size is the same at both places; None where it cannot be told without copying it."""
    etags = [place.etag(name) for place in (source, destination)]
    paths = [place.path(name) for place in (source, destination)]
    if paths[0] is not None and paths[1] is not None:
        return _etag(paths[0]) == _etag(paths[1])
    if etags[0] is not None and etags[1] is not None:
        return etags[0] == etags[1] or None
    etag = etags[0] or etags[1]
    path = paths[0] or paths[1]
    if etag is None or path is None:
        return None
    if "-" in etag:  # Uploaded in parts, of whatever size.
        return etag == _etag(path, parts=True) or None
    return etag == _etag(path)


def _etag(path: Path, parts: bool = False) -> str:
    """What S3 says of an object: its MD5; of one uploaded in parts, the MD5 of theirs, and their number."""
    whole, of_parts, count = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while data := file.read(_PART_BYTES):
            whole.update(data)
            of_parts.update(hashlib.md5(data, usedforsecurity=False).digest())
            count += 1
    return f"{of_parts.hexdigest()}-{count}" if parts else whole.hexdigest()


def main(argv: Sequence[str]) -> None:
    source, destination = command.two_arguments(argv, "a SOURCE and a DESTINATION, directories or s3://bucket/pets,")
    transfer(TransferConfig(source=source, destination=destination))


if __name__ == "__main__":
    command.run(main, "interrupted: the same command continues from here", arguments="SOURCE DESTINATION")
