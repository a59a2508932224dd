"""Tests of transfer: no incomplete copy can be opened, no file is copied twice, other files stay."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents, converted, flip, run, start, with_splits
from s3_bucket import Bucket

from tfrecord_tools import transfer as transfer_module
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import object_store
from tfrecord_tools.transfer import TransferConfig, Transferred, transfer

MODULE = "tfrecord_tools.transfer"
needs_s3 = pytest.mark.interop

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of eleven files. Tests that change it use a copy."""
    directory = tmp_path_factory.mktemp("transfer")
    converted(with_splits(directory / "pets"), directory / "dataset", shards=3)
    assert len(os.listdir(directory / "dataset")) == 11
    return directory / "dataset"


@pytest.fixture(params=["local", pytest.param("s3", marks=needs_s3)])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    """Return the destination of copies: a directory, or a prefix of a bucket."""
    if request.param == "local":
        return Destination(tmp_path / "there", None)
    return Destination(tmp_path, request.getfixturevalue("bucket"))


class Destination:
    """The destination of a copy, with methods that do not use the tested code."""

    def __init__(self, directory: Path, bucket: Bucket | None):
        self._directory = directory
        self._bucket = bucket
        self.name = str(directory) if bucket is None else f"{bucket.url}/there"

    def contents(self) -> dict[str, bytes]:
        return contents(self._directory) if self._bucket is None else self._bucket.contents("there")

    def put(self, name: str, data: bytes) -> None:
        if self._bucket is not None:
            return self._bucket.put(f"there/{name}", data)
        self._directory.mkdir(exist_ok=True)
        (self._directory / name).write_bytes(data)
        return None

    def remove(self, name: str) -> None:
        if self._bucket is None:
            return (self._directory / name).unlink()
        return self._bucket.remove(f"there/{name}")


def copy(source: object, destination: object) -> Transferred:
    return transfer(TransferConfig(source=str(source), destination=str(destination)), log=lambda line: None)


def test_a_second_copy_has_nothing_to_do(dataset: Path, destination: Destination) -> None:
    lines: list[str] = []
    assert copy(dataset, destination.name) == Transferred(copied=11, verified=0, by_size=0)
    assert destination.contents() == contents(dataset)
    done = transfer(TransferConfig(source=f"{dataset}/", destination=f"{destination.name}/"), log=lines.append)
    assert done == Transferred(copied=0, verified=11, by_size=0)
    assert len(lines) == 1
    assert lines[0].startswith(destination.name)
    assert lines[0].endswith(": complete; 0 files copied, 11 were already there")


@needs_s3
def test_there_and_back_and_between_stores(dataset: Path, bucket: Bucket, tmp_path: Path) -> None:
    copy(dataset, f"{bucket.url}/one")
    copy(f"{bucket.url}/one", f"{bucket.url}/two")
    copy(f"{bucket.url}/two", tmp_path / "back")
    assert bucket.contents("two") == contents(dataset)
    assert contents(tmp_path / "back") == contents(dataset)
    records = open_dataset(tmp_path / "back").records("train")
    assert len([records[number] for number in range(len(records))]) == 10
    assert copy(f"{bucket.url}/one", tmp_path / "back") == Transferred(copied=0, verified=11, by_size=0)
    assert copy(f"{bucket.url}/one", f"{bucket.url}/two") == Transferred(copied=0, verified=11, by_size=0)


@needs_s3
def test_uploads_in_parts_are_compared(dataset: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the size of s3fs are verified. For other parts, the report says "by size only"."""
    monkeypatch.setattr(transfer_module, "_PART_BYTES", 5 * 2**20)
    source = Path(shutil.copytree(dataset, dataset.parent / "large"))
    (source / "extra").write_bytes(os.urandom(11 * 2**20))
    copy(source, f"{bucket.url}/there")
    for part_bytes, expected in ((5, Transferred(copied=0, verified=12, by_size=0)), (6, None)):
        key = "there/extra"
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
        data, size = (source / "extra").read_bytes(), part_bytes * 2**20
        parts = []
        for number, begin in enumerate(range(0, len(data), size), 1):
            named: dict[str, Any] = {"Bucket": bucket.name, "Key": key, "UploadId": upload, "PartNumber": number}
            etag = bucket.client.upload_part(**named, Body=data[begin : begin + size])["ETag"]
            parts.append({"PartNumber": number, "ETag": etag})
        bucket.client.complete_multipart_upload(
            Bucket=bucket.name, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
        lines: list[str] = []
        done = transfer(TransferConfig(source=str(source), destination=f"{bucket.url}/there"), log=lines.append)
        assert done == (expected or Transferred(copied=0, verified=11, by_size=1))
    assert lines[0].endswith("12 were already there (1 of them compared by size only)")


class Stop(BaseException):
    """Ends a copy as a signal does."""


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_interrupted_copy_cannot_be_opened_and_continues(
    dataset: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    kind: Any = type(transfer_module._directory(destination.name))
    stored: list[str] = []
    original = kind.store

    def counted(self: Any, name: str, source: Any) -> None:
        if len(stored) == after:
            raise Stop
        original(self, name, source)
        stored.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "store", counted)
        with pytest.raises(Stop):
            copy(dataset, destination.name)
    assert sorted(destination.contents()) == sorted(stored)
    assert "convert.json" not in stored
    assert copy(dataset, destination.name) == Transferred(copied=11 - after, verified=after, by_size=0)
    assert destination.contents() == contents(dataset)


def test_a_file_of_the_same_size_that_differs_is_copied_again(dataset: Path, destination: Destination) -> None:
    copy(dataset, destination.name)
    shard = next(name for name in sorted(destination.contents()) if ".tfrecord-" in name)
    damaged = bytearray(destination.contents()[shard])
    damaged[100] ^= 1
    destination.put(shard, bytes(damaged))
    assert copy(dataset, destination.name) == Transferred(copied=1, verified=10, by_size=0)
    assert destination.contents() == contents(dataset)


@pytest.fixture
def plain() -> Iterator[Any]:
    """Return a store at memory://, which reports sizes only."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield MemoryFileSystem
    MemoryFileSystem.store.clear()


def cut_off(source: Path, destination: str) -> None:
    """Copy all files but the last one."""
    copy(source, destination)
    object_store.opened(destination)[0].rm_file(f"{destination}/convert.json")


@needs_s3
def test_unfinished_copy_is_not_trusted_by_size(dataset: Path, plain: Any, tmp_path: Path) -> None:
    """Otherwise, shards of another dataset with equal sizes could stay under the new index."""
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    shard = next(path for path in sorted(other.iterdir()) if ".tfrecord-" in path.name)
    flip(shard, 100)
    cut_off(other, "memory://there")
    assert copy(dataset, "memory://there") == Transferred(copied=11, verified=0, by_size=0)
    copy("memory://there", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(dataset)
    assert copy(dataset, "memory://there") == Transferred(copied=0, verified=1, by_size=10)


@needs_s3
def test_googles_md5_is_compared(dataset: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = plain.find

    def find(self: Any, path: str, **options: Any) -> dict[str, dict[str, Any]]:
        infos: dict[str, dict[str, Any]] = original(self, path, **options)
        md5 = {key: hashlib.md5(self.cat_file(key)).digest() for key in infos}
        return {key: info | {"md5Hash": base64.b64encode(md5[key]).decode()} for key, info in infos.items()}

    monkeypatch.setattr(plain, "find", find)
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    shard = next(path for path in sorted(other.iterdir()) if ".tfrecord-" in path.name)
    flip(shard, 100)
    cut_off(other, "memory://there")
    assert copy(dataset, "memory://there") == Transferred(copied=2, verified=9, by_size=0)


def test_comparison_shows_progress(dataset: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison takes as long as reading the files, so it shows its progress."""
    copy(dataset, destination.name)
    steps: list[str] = []
    compare, enter, count = transfer_module._etag, Progress.__enter__, Progress.__call__
    monkeypatch.setattr(transfer_module, "_etag", lambda *given: steps.append("compare") or compare(*given))
    monkeypatch.setattr(Progress, "__enter__", lambda self: steps.append("bar") or enter(self))
    monkeypatch.setattr(Progress, "__call__", lambda self, done: steps.append("count") or count(self, done))
    copy(dataset, destination.name)
    assert (steps[0], steps.count("count")) == ("bar", 10)


def test_a_damaged_copy_is_repaired(dataset: Path, destination: Destination) -> None:
    copy(dataset, destination.name)
    destination.put("records.parquet", b"cut")
    destination.remove("card.html")
    assert copy(dataset, destination.name).copied == 2
    assert destination.contents() == contents(dataset)


def test_other_files_are_not_changed(dataset: Path, destination: Destination, tmp_path: Path) -> None:
    destination.put("thesis.txt", b"x")
    with pytest.raises(UserError, match=r"contains thesis\.txt, which is not in .*dataset/\. Nothing was changed"):
        copy(dataset, destination.name)
    destination.remove("thesis.txt")
    destination.put("records.parquet", b"of something else")
    with pytest.raises(
        UserError,
        match=r"records\.parquet has 17 bytes there and .* Perhaps the file in .* belongs to another dataset\.",
    ):
        copy(dataset, destination.name)
    destination.put("records.parquet", (dataset / "records.parquet").read_bytes())
    copy(dataset, destination.name)
    before = destination.contents()
    converted(dataset.parent / "pets", tmp_path / "dataset", shards=3, seed=1)
    with pytest.raises(
        UserError, match=r"contains another dataset\. Nothing was changed\. Choose another destination\."
    ):
        copy(tmp_path / "dataset", destination.name)
    assert destination.contents() == before


def test_directories_are_not_copied(dataset: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (source / "notes").mkdir()
    assert copy(source, tmp_path / "there").copied == 11
    assert contents(tmp_path / "there") == contents(dataset)
    with pytest.raises(UserError, match=r"contains notes/, which is not in "):
        copy(dataset, source)


def test_changes_during_the_copy_are_found(
    dataset: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = type(transfer_module._directory(destination.name))
    original = kind.store

    def spoiled(self: Any, name: str, source: Any) -> None:
        original(self, name, source)
        destination.put("card.html", b"")

    monkeypatch.setattr(kind, "store", spoiled)
    with pytest.raises(UserError, match=r"card\.html has 0 bytes after it was copied, but should have"):
        copy(dataset, destination.name)
    assert "convert.json" not in destination.contents()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "none",
            r"none/: is not a dataset \(it has no convert\.json\)\. Pass a directory that convert or adopt has"
            r" written\.",
        ),
        ("file", "is a file, not"),
    ],
)
def test_source_must_be_a_dataset(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        copy(tmp_path / source, tmp_path / "there")
    assert os.listdir(tmp_path) == ["file"]


def test_command(dataset: Path, tmp_path: Path) -> None:
    done = run(MODULE, str(dataset), "copy", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "copy/: complete; 11 files copied, 0 were already there\n",
        "",
    )
    for flags in ([], ["a"], ["a", "b", "c"]):
        done = run(MODULE, *flags, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(
            "given. Pass a SOURCE and a DESTINATION: directories or addresses such as s3://bucket/pets.\n"
        )


@needs_s3
def test_killed_command_continues(dataset: Path, bucket: Bucket, tmp_path: Path) -> None:
    large = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (large / "a-large-one").write_bytes(os.urandom(30 * 2**20))
    with start(MODULE, str(large), f"{bucket.url}/there", cwd=tmp_path) as process:
        while not bucket.contents("there"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert "convert.json" not in bucket.contents("there")
    with pytest.raises(UserError, match="is not a dataset"):
        copy(f"{bucket.url}/there", tmp_path / "back")
    copy(large, f"{bucket.url}/there")
    assert bucket.contents("there") == contents(large)
