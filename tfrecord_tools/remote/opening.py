"""Open a dataset in a bucket: pin the versions of its objects, and fetch its index once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import dataset_files, index
from tfrecord_tools.layout.record_map import RecordMap
from tfrecord_tools.remote import space as spaces
from tfrecord_tools.remote import whole
from tfrecord_tools.remote.interface import SHORT, Denied, Missing, Object, Patience, Store
from tfrecord_tools.remote.shards import RemoteShards, Split
from tfrecord_tools.remote.store import open_store

PATIENCE = Patience()  # While records are read.
_UNLISTED = ("http://", "https://", "file://")  # Most web servers cannot list, and a file is not a directory.
_ONCE = Patience(retry=0.5)
_PART = 8 << 20
_SHARD = re.compile(r"\.tfrecord-\d+-of-\d+$")
_HEADS = 16  # Requests at once, for stores that cannot list objects.


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A dataset in a bucket.

    Attributes:
        url: URL of the dataset.
        directory: Directory in the cache that holds its convert.json and records.parquet.
        store: The store.
        objects: File name -> version when the dataset was opened.
        cache_dir: The cache directory.
        cache_bytes: Largest number of bytes of records there. None: 80 % of the disk.
    """

    url: str
    directory: Path
    store: Store
    objects: Mapping[str, Object]
    cache_dir: Path
    cache_bytes: int | None

    def shards(self, splits: Mapping[str, Sequence[str]], maps: Mapping[str, RecordMap]) -> RemoteShards:
        """Return the shards of splits.

        Args:
            splits: Name of a split -> file names of its shards.
            maps: Name of a split -> the map of its records.

        Raises:
            UserError: A shard does not exist.
        """
        parts = [
            Split(self.directory / name, [self._object(shard) for shard in shards], maps[name])
            for name, shards in splits.items()
        ]
        return RemoteShards(self.store, self.cache_dir, self.cache_bytes, parts)

    def fetch(self, name: str) -> Path:
        """Fetch a file of the dataset to the cache, unless it is there. Return its path.

        Raises:
            UserError: The file does not exist, or was changed since the dataset was opened.
        """
        path = self.directory / name
        found = self._object(name)
        if path.exists() and path.stat().st_size == found.size:
            return path
        try:
            while (held := files.hold(self.directory / "opening")) is None:  # Another process fetches it.
                time.sleep(0.05)
            with held:
                if not path.exists() or path.stat().st_size != found.size:
                    with files.atomic(path) as file:
                        whole.fetch(self.store, found, file)
        except OSError as error:
            raise spaces.unusable(self.cache_dir, error) from error
        return path

    def in_parts(self, name: str) -> tuple[int, Callable[[int, int], bytes]]:
        """Return the size of an object, and a function that reads a number of bytes at an offset.

        The object is fetched in parts of 8 MiB, which are kept in memory for the next call, but not in the cache.
        """
        found = self._object(name)
        part, start = memoryview(b""), 0

        def read(size: int, offset: int) -> bytes:
            nonlocal part, start
            end = min(offset + size, found.size)
            if offset < start or end > start + len(part):
                if offset >= end:
                    return b""
                part = self.store.get(name, offset, min(max(end, offset + _PART), found.size), found.tag)
                start = offset
            return bytes(part[offset - start : end - start])

        return found.size, read

    def _object(self, name: str) -> Object:
        found = self.objects.get(name)
        if found is None:
            raise Missing(f"{self.url}/{name}: does not exist. The dataset is incomplete. Copy it to the bucket again.")
        return found


def open_bucket(url: str, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> Bucket:
    """Open the dataset at a URL.

    Args:
        url: For example s3://bucket/pets.
        cache_dir: Directory on this machine for copies, not a URL. None: `~/.cache/tfrecord_tools`.
        cache_bytes: Largest number of bytes of records in `cache_dir`. None: 80 % of the free space.

    Raises:
        UserError: The URL is not a dataset, the store cannot be reached, or `cache_dir` cannot be written.
    """
    if cache_bytes is not None and cache_bytes < 1:
        raise UserError(f"--cache_bytes={cache_bytes}: must be at least 1.")
    url = url.rstrip("/")
    objects, facts = _found(open_store(url, SHORT))
    root = Path(files.expand_user(os.fspath(cache_dir), "--cache_dir=")) if cache_dir else default_cache_dir()
    spaces.of(root, cache_bytes)
    directory = root / _key(facts, objects)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "url").write_text(f"{url}\n")
    except OSError as error:
        raise spaces.unusable(root, error) from error
    bucket = Bucket(url, directory, open_store(url, PATIENCE), objects, root, cache_bytes)
    for name in (index.FILE_NAME, dataset_files.CONVERT_JSON):
        bucket.fetch(name)
    return bucket


def objects_of(store: Store) -> dict[str, Object]:
    """Return file name -> version, for the index, convert.json and the shards of the dataset at a URL.

    If the store can list, all other files of the dataset are in the result, too.

    Raises:
        Missing: The URL is not a dataset.
        UserError: The conversion is unfinished, convert.json is damaged, or the store cannot be read.
    """
    return _found(store)[0]


def list_objects(store: Store, below: bool = True) -> list[Object]:
    """Return the objects at the URL of a store. A web server that cannot list gives an empty list.

    Args:
        store: The store.
        below: Whether the objects in subdirectories are returned, too.

    Raises:
        UserError: A bucket does not exist, or cannot be read.
    """
    if not store.url.startswith(_UNLISTED):
        return list(store.list(below=below))
    try:  # The answers of such a server look as if the next attempt could succeed.
        return list(open_store(store.url, _ONCE).list(below=below))
    except UserError:
        return []


def _found(store: Store) -> tuple[dict[str, Object], bytes]:
    """Return `objects_of`, and the content of convert.json."""
    try:
        found = store.head(dataset_files.CONVERT_JSON)
    except Missing as error:
        with contextlib.suppress(Missing):
            raise UserError(
                f"{store.url}: is not a dataset yet. A conversion is writing it{_began(store)}. Wait until it ends. If"
                " it does not run any more, run its command again."
            ) from error
        raise Missing(
            f"{store.url}: is not a dataset (it has no {dataset_files.CONVERT_JSON}). Pass the URL of a dataset that"
            " convert has written there. To copy a dataset there, run python -m tfrecord_tools.transfer OUT"
            f" {store.url}"
        ) from error
    with io.BytesIO() as file:
        whole.fetch(store, found, file)
        facts = file.getvalue()
    return {found.path: found} | _objects(store, store.url, facts), facts


def _began(store: Store) -> str:
    """Return a part of a message: when and where the conversion began. "": its claim is damaged.

    Raises:
        Missing: No conversion has claimed the place.
    """
    data = bytes(store.get(dataset_files.CLAIM))
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f" (it began {dataset_files.claim_began(json.loads(data))})"
    return ""


def default_cache_dir() -> Path:
    """Return the directory for copies if none is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfrecord_tools"


def _objects(store: Store, url: str, facts: bytes) -> dict[str, Object]:
    """Return the versions of the index and of all shards, by one listing or by a request for each."""
    with contextlib.suppress(Denied, Missing):  # Objects may be readable although they cannot be listed.
        listed = {found.path: found for found in list_objects(store, below=False)}
        if index.FILE_NAME in listed:
            return listed
    with concurrent.futures.ThreadPoolExecutor(_HEADS) as pool:
        return {found.path: found for found in pool.map(store.head, [index.FILE_NAME, *_shard_names(url, facts)])}


def _shard_names(url: str, facts: bytes) -> list[str]:
    try:
        parsed = json.loads(facts)
        return [
            dataset_files.shard_name(parsed["name"], split, number, entry["shards"])
            for split, entry in parsed["splits"].items()
            for number in range(entry["shards"])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{url}/{dataset_files.CONVERT_JSON}: is damaged ({error!r}). Copy the dataset to the bucket again."
        ) from error


def _key(facts: bytes, objects: Mapping[str, Object]) -> str:
    """Return the name of the directory for these versions. Copies of other versions are never read."""
    versions = sorted(
        (found.path, found.size, found.tag)
        for found in objects.values()
        if _SHARD.search(found.path) or found.path in (index.FILE_NAME, dataset_files.CONVERT_JSON)
    )
    hashed = hashlib.sha256(facts + json.dumps(versions).encode()).hexdigest()
    return hashed[:20]
