"""A conversion into a bucket: what is on this machine, the claim, and the commit.

The workspace is as in `workspace`, in a directory on this machine, with these differences:

WORK_DIR/data/               files next to the shards. Each shard is uploaded by its worker and deleted at once
WORK_DIR/index/*.json        size and version of each uploaded shard, as the store reported them
WORK_DIR/index/*.parquet     one file per uploaded shard

The first object in the bucket is the claim. It names the conversion that may write there, and a conversion that would
write other bytes stops. The last object is `convert.json`: it makes a dataset of the objects. It is created after a
listing has shown that all other objects are there. After that, the claim is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import shutil
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfrecord_tools.base import files, words
from tfrecord_tools.conversion import bucket_objects
from tfrecord_tools.conversion.bucket_objects import LARGEST, BucketObjects
from tfrecord_tools.conversion.workspace import Workspace, changed_settings, check_apart
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import CLAIM, CONVERT_JSON, ConvertJson, claim_began
from tfrecord_tools.remote.interface import SHORT, Attempts, Changed, Denied, Exists, Missing, Object, Store
from tfrecord_tools.remote.store import CREATING, open_store

_LISTINGS = 2  # A listing that differs is requested again, because it may have been damaged on its way.
_INDEX_BYTES = 250  # More than the bytes of a record in records.parquet.
_BY_TRANSFER = "Convert into a local directory, then copy it: python -m tfrecord_tools.transfer DIRECTORY"


def check_url(url: str) -> None:
    """Check that a dataset can be written to a URL. No request is sent.

    Raises:
        UserError: The URL has no path in the bucket, or the store cannot create objects under a condition.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in CREATING:
        raise UserError(
            f"--out={url}: a store {scheme}:// cannot create objects under the condition that they do not exist, so two"
            " conversions could mix their objects. Allowed are s3://, gs://, az:// and file://."
            f" {_BY_TRANSFER} {url}"
        )
    if not urllib.parse.urlsplit(url).path.strip("/"):
        raise UserError(
            f"--out={url}: has no path in a bucket. All objects of the bucket would belong to the dataset, also those"
            " of datasets that are written later. Pass a URL such as s3://bucket/pets."
        )


def name_of(url: str) -> str:
    """Return the last part of a URL."""
    return urllib.parse.unquote(url.partition("://")[2].rstrip("/").rpartition("/")[2])


@dataclasses.dataclass(frozen=True)
class BucketWorkspace(Workspace):
    """The workspace of a conversion into a bucket.

    Attributes:
        out: The directory of the intermediate files on this machine.
        url: URL of the dataset.
        log: Called with each line for the user.
    """

    url: str
    log: Callable[[str], object] = dataclasses.field(default=print, compare=False)
    flag: ClassVar[str] = "--work_dir"

    @property
    def bucket(self) -> BucketObjects:
        return BucketObjects(self.url)

    @property
    def root(self) -> Path:
        return self.out

    @property
    def shown(self) -> str:
        return self.url

    @property
    def address(self) -> str:
        return self.url

    @property
    def shards(self) -> str:
        return self.url

    def check_free(self, overwrite: bool, source: Callable[[], object] | None = None) -> None:
        """Refuse a place in the bucket with a dataset, or with objects that no conversion has claimed.

        Args:
            overwrite: Not used: a dataset in a bucket is never replaced.
            source: As in `workspace.check_out`.

        Raises:
            UserError: The place is refused, or the bucket cannot be read.
        """
        problem = self._problem(open_store(self.url, SHORT))
        if problem and source:
            source()
        if problem:
            raise UserError(problem)

    def check_apart(self, source: str) -> None:
        if not files.is_url(source):
            check_apart(self.root, Path(source), self.flag)
            if self.url.startswith("file://"):
                check_apart(Path(urllib.parse.unquote(self.url.removeprefix("file://"))), Path(source))
        elif f"{self.url}/".startswith(f"{source.rstrip('/')}/"):
            raise UserError(
                f"--out={self.url}: is inside --src={source}, so the files of the dataset would be treated as images."
                " Choose a URL outside --src."
            )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        claim = self._claimed()
        if claim is not None and changed_settings(claim["settings"], settings):
            raise UserError(self._taken(claim, {"settings": settings}))

    def check_sizes(self, shard_bytes: np.ndarray, records: int) -> None:
        if (largest := int(shard_bytes.max(initial=0))) > LARGEST:
            raise UserError(
                f"--out={self.url}: a shard would have {words.size(largest)}, but an object in a bucket may have only"
                f" {words.size(LARGEST)} if it must not replace another one. Pass a smaller --shard_bytes, or more"
                " --shards."
            )
        if records > LARGEST // _INDEX_BYTES:
            raise UserError(
                f"--out={self.url}: the index of {records:,} records would be too large for an object that must not"
                f" replace another one. {LARGEST // _INDEX_BYTES:,} records are allowed. {_BY_TRANSFER} {self.url}"
            )

    def start_writing(self, digest: str, config: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
        super().start_writing(digest, config, claim)
        if self._claim(claim):
            # Nothing is in the bucket, so what earlier runs have uploaded is gone.
            shutil.rmtree(self.index)
            self.index.mkdir()

    def result(self) -> ConvertJson:
        contents: ConvertJson = json.loads(self.bucket.read(CONVERT_JSON))
        return contents

    def stored(self) -> ConvertJson | None:
        try:
            open_store(self.url, SHORT).head(CONVERT_JSON)
        except Missing:
            return None
        return self.result()

    def commit_data(self, request: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
        """Upload the files in `data`, and make a dataset of the objects in the bucket.

        Args:
            request: The settings of this run. `finish_commit` returns them.
            claim: The claim of this conversion, see `start_writing`.
        """
        with files.atomic(self.commit) as file:
            file.write(json.dumps({"bucket": self.url, "request": request, "claim": claim}).encode())
        self.finish_commit()

    def finish_commit(self) -> dict[str, Any] | None:
        """Finish an interrupted commit, if there is one.

        Returns:
            The `request` of that commit. None: there was no commit.

        Raises:
            UserError: An object is missing, or has other content than this conversion has written, or another
                conversion has claimed the place in the bucket.
        """
        if not self.commit.exists():
            return None
        commit: dict[str, Any] = json.loads(self.commit.read_text())
        self._check_place(commit)
        if self._marker.exists():
            self._publish(commit.get("claim"))
            self._marker.unlink()  # Before `clear`, which may be interrupted at any file.
        self.clear()
        request: dict[str, Any] = commit["request"]
        return request

    @property
    def _marker(self) -> Path:
        """The file of the last object. While it and commit.json exist, the commit is not done."""
        return self.data / CONVERT_JSON

    def _publish(self, ours: Mapping[str, Any] | None) -> None:
        """Upload the files in `data`, the last one as `convert.json`, and delete the claim.

        Args:
            ours: The claim of this conversion. None: an earlier version of this tool did not save it.
        """
        self._check_ours(ours)
        shards = list(self._uploaded())
        left = {CONVERT_JSON, *(shard.path for shard in shards)}  # A killed worker may leave a shard and its ".tmp".
        paths = sorted(path for path in self.data.iterdir() if path.name.removesuffix(".tmp") not in left)
        self._check_all([*shards, *(self.bucket.put(path.name, path) for path in paths)])
        self._check_ours(ours)
        self.bucket.put(CONVERT_JSON, self._marker)
        claim = self._claimed()
        if claim is not None and _is_same(claim, ours):
            self._delete_claim()

    def _check_ours(self, ours: Mapping[str, Any] | None) -> None:
        """Raise UserError if the claim is not that of this conversion, and this conversion has not published.

        Without a claim, another machine may have published the same dataset.
        """
        claim = self._claimed()
        if claim is not None and not _is_same(claim, ours):
            raise UserError(self._taken(claim, ours or {}))
        if claim is None and self.bucket.find(CONVERT_JSON) is None:
            raise UserError(
                f"{self.url}/{CLAIM}: is missing, so another conversion can write there now. Somebody has deleted it"
                f" while this conversion ran. To begin again, delete {self.root}, and run the same command. Objects"
                " that are right are kept."
            )
        if claim is None:
            self.bucket.put(CONVERT_JSON, self._marker)  # It exists, so it is only compared.

    def _delete_claim(self) -> None:
        try:
            self.bucket.store.delete(CLAIM)
        except Denied:
            self.log(
                f"note: {self.url}/{CLAIM} could not be deleted, because access is denied. The dataset is complete, and"
                " readers do not need this object. Delete it with an account that may delete objects."
            )

    def _problem(self, store: Store) -> str | None:
        names = [name for name in (CONVERT_JSON, CLAIM) if _is_there(store, name)]
        if not names:  # A listing of many objects takes long. A dataset may be complete by now, without a claim.
            names = [found.path for found in store.list()]
        if CONVERT_JSON in names:
            return (
                f"--out={self.url}: the dataset exists. A dataset in a bucket is never replaced, because others may"
                " read it. Choose another --out, or delete all objects there first."
            )
        if names and CLAIM not in names:
            return (
                f"--out={self.url}: contains {names[0]}, and is not a dataset of this tool. Nothing was changed. Choose"
                " another --out."
            )
        return None

    def _claimed(self) -> dict[str, Any] | None:
        """Return the claim in the bucket; None if there is none."""
        try:
            data = self.bucket.read(CLAIM)
        except (Missing, Changed):  # Changed: it was deleted just now, and another conversion has claimed the place.
            return None
        try:
            claim: dict[str, Any] = json.loads(data)
            claim_began(claim), claim["identity"], claim["settings"], claim["id"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.url}/{CLAIM}: is damaged ({error!r}). Choose another --out, or delete all objects below"
                f" {self.url}."
            ) from error
        return claim

    def _claim(self, given: Mapping[str, Any]) -> bool:
        """Claim the place in the bucket for this conversion, or join the conversion that has claimed it.

        Args:
            given: As in `start_writing`.

        Returns:
            Whether the claim is new. False: a conversion of the same dataset began earlier, or writes now.

        Raises:
            UserError: Another conversion has claimed the place, or the place is refused as in `check_free`.
        """
        store = self.bucket.store
        claim = {
            **given,
            "host": platform.node(),
            "process": os.getpid(),
            "began": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "id": uuid.uuid4().hex,
        }
        data = json.dumps(claim, indent=2).encode()
        found = self._put_claim(data)
        is_new = found is None or found["id"] == claim["id"]  # It has this id if the first answer was lost.
        if found is not None and not _is_same(found, claim):
            raise UserError(self._taken(found, claim))
        self._check_claim(store, data, is_new)
        if found is not None and not is_new:
            self.log(f"{self.url}: continuing the conversion that began {claim_began(found)}")
        return is_new

    def _put_claim(self, data: bytes) -> dict[str, Any] | None:
        """Create the claim. Return the claim that exists already; None if there was none."""
        attempts = Attempts(bucket_objects.PATIENCE)
        while True:
            try:
                self.bucket.store.put(CLAIM, data, create=True)
                return None
            except Exists:
                if (found := self._claimed()) is not None:
                    return found
                if attempts.are_over:
                    raise UserError(
                        f"{self.url}/{CLAIM}: the store reports that this object exists, and that it cannot be read"
                        " because it does not exist. Choose another --out, or check that no other program creates and"
                        " deletes objects there."
                    ) from None
            attempts.wait()  # It was deleted just now, after a commit.

    def _check_claim(self, store: Store, data: bytes, is_new: bool) -> None:
        """Raise UserError if the claim does not help: there is a dataset, or the store replaces objects."""
        problem = self._problem(store)
        with contextlib.suppress(Exists):
            if problem is None and is_new:
                store.put(CLAIM, data, create=True)
                problem = (
                    f"--out={self.url}: the store replaces objects although it is asked not to (If-None-Match: *), so"
                    f" two conversions could mix their objects. {_BY_TRANSFER} {self.url}"
                )
        if problem and is_new:
            with contextlib.suppress(Denied):  # The problem itself is more important.
                store.delete(CLAIM)
        if problem:
            raise UserError(problem)

    def _taken(self, claim: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
        """Return the message about the claim of another conversion, with what differs from the claim `ours`."""
        what = " of other files, or with other decisions or versions,"
        for key in ("versions", "settings"):
            if key in claim and (changes := changed_settings(claim[key], ours.get(key, {}))):
                what = f" with other {key} ({changes})"
        return (
            f"--out={self.url}: another conversion{what} writes or wrote there. It began {claim_began(claim)}. Nothing"
            " there was changed. Choose another --out. If the other conversion does not run any more, finish it with"
            f" its own command, or delete all objects below {self.url}."
        )

    def _uploaded(self) -> Iterator[Object]:
        for path in sorted(self.index.glob("*.json")):
            yield Object(**json.loads(path.read_text()))

    def _check_all(self, expected: list[Object]) -> None:
        """Raise UserError if a listing has an object that this conversion does not know, or lacks one.

        Objects in directories below the dataset do not belong to it.
        """
        wanted = {written.path: written for written in expected}
        for _ in range(_LISTINGS):
            listed = {found.path: found for found in self.bucket.store.list(below=False)}
            unknown = sorted(listed.keys() - wanted - {CLAIM, CONVERT_JSON})
            wrong = [path for path, written in wanted.items() if listed.get(path) != written]
            if not unknown and not wrong:
                return
        if wrong:
            state = "was changed" if wrong[0] in listed else "is missing"
            raise UserError(
                f"{self.url}/{wrong[0]}: {state} after it was uploaded. Check that no other program writes or deletes"
                f" objects there. Then delete {self.root}, and run the same command again: objects that are right are"
                " kept."
            )
        raise UserError(
            f"{self.url}/{unknown[0]}: does not belong to this dataset. Another program has written it since the"
            " conversion began. Move or delete it, and run the same command again."
        )


def _is_same(claim: Mapping[str, Any], ours: Mapping[str, Any] | None) -> bool:
    return ours is None or bool(claim["identity"] == ours["identity"])


def _is_there(store: Store, name: str) -> bool:
    try:
        store.head(name)
    except Missing:
        return False
    return True
