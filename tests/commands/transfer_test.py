"""A dataset that is copied is whole or no dataset; what is there is not copied again; nothing else is touched."""

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of eleven files. Tests that change it copy it."""
    place = tmp_path_factory.mktemp("transfer")
    converted(with_splits(place / "pets"), place / "made", shards=3)
    assert len(os.listdir(place / "made")) == 11
    return place / "made"


@pytest.fixture(params=["local", pytest.param("s3", marks=needs_s3)])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Elsewhere:
    """Where copies go: a directory, or a prefix of a bucket."""
    if request.param == "local":
        return Elsewhere(tmp_path / "there", None)
    return Elsewhere(tmp_path, request.getfixturevalue("bucket"))


class Elsewhere:
    """The destination of a copy, looked at and changed by other means than those tested."""

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


def test_a_copy_is_the_same_and_a_second_one_has_nothing_to_do(made: Path, elsewhere: Elsewhere) -> None:
    lines: list[str] = []
    assert copy(made, elsewhere.name) == Transferred(copied=11, verified=0, by_size=0)
    assert elsewhere.contents() == contents(made)
    done = transfer(TransferConfig(source=f"{made}/", destination=f"{elsewhere.name}/"), log=lines.append)
    assert done == Transferred(copied=0, verified=11, by_size=0)
    assert len(lines) == 1
    assert lines[0].startswith(elsewhere.name)
    assert lines[0].endswith(": complete; 0 files copied, 11 were there")


@needs_s3
def test_there_and_back_and_between_stores(made: Path, bucket: Bucket, tmp_path: Path) -> None:
    copy(made, f"{bucket.url}/one")
    copy(f"{bucket.url}/one", f"{bucket.url}/two")
    copy(f"{bucket.url}/two", tmp_path / "back")
    assert bucket.contents("two") == contents(made)
    assert contents(tmp_path / "back") == contents(made)
    records = open_dataset(tmp_path / "back").records("train")
    assert len([records[number] for number in range(len(records))]) == 10
    assert copy(f"{bucket.url}/one", tmp_path / "back") == Transferred(copied=0, verified=11, by_size=0)
    assert copy(f"{bucket.url}/one", f"{bucket.url}/two") == Transferred(copied=0, verified=11, by_size=0)


@needs_s3
def test_what_was_uploaded_in_parts_is_compared(made: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of s3fs's size it is verified; of another one, only the sizes can be compared, and that is said."""
    monkeypatch.setattr(transfer_module, "_PART_BYTES", 5 * 2**20)
    source = Path(shutil.copytree(made, made.parent / "large"))
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
    assert lines[0].endswith("12 were there (1 of these compared by size only)")


class Stop(BaseException):
    """Ends a copy as a signal would."""


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_interrupted_it_is_no_dataset_and_continues(
    made: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    kind: Any = type(transfer_module._place(elsewhere.name))
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
            copy(made, elsewhere.name)
    assert sorted(elsewhere.contents()) == sorted(stored)
    assert "convert.json" not in stored
    assert copy(made, elsewhere.name) == Transferred(copied=11 - after, verified=after, by_size=0)
    assert elsewhere.contents() == contents(made)


def test_a_file_of_the_same_size_that_differs_is_copied_again(made: Path, elsewhere: Elsewhere) -> None:
    copy(made, elsewhere.name)
    shard = next(name for name in sorted(elsewhere.contents()) if ".tfrecord-" in name)
    damaged = bytearray(elsewhere.contents()[shard])
    damaged[100] ^= 1
    elsewhere.put(shard, bytes(damaged))
    assert copy(made, elsewhere.name) == Transferred(copied=1, verified=10, by_size=0)
    assert elsewhere.contents() == contents(made)


@pytest.fixture
def plain() -> Iterator[Any]:
    """A store that tells sizes only, which is at memory://."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield MemoryFileSystem
    MemoryFileSystem.store.clear()


def cut_off(source: Path, destination: str) -> None:
    """Copies all but the last file."""
    copy(source, destination)
    object_store.opened(destination)[0].rm_file(f"{destination}/convert.json")


@needs_s3
def test_sizes_alone_say_nothing_of_an_unfinished_copy(made: Path, plain: Any, tmp_path: Path) -> None:
    """Else there would be shards of one dataset under the index of another, of the same sizes."""
    other = Path(shutil.copytree(made, tmp_path / "other"))
    shard = next(path for path in sorted(other.iterdir()) if ".tfrecord-" in path.name)
    flip(shard, 100)
    cut_off(other, "memory://there")
    assert copy(made, "memory://there") == Transferred(copied=11, verified=0, by_size=0)
    copy("memory://there", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made)
    assert copy(made, "memory://there") == Transferred(copied=0, verified=1, by_size=10)


@needs_s3
def test_googles_md5_is_compared(made: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = plain.find

    def find(self: Any, path: str, **options: Any) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = original(self, path, **options)
        md5 = {key: hashlib.md5(self.cat_file(key)).digest() for key in found}
        return {key: info | {"md5Hash": base64.b64encode(md5[key]).decode()} for key, info in found.items()}

    monkeypatch.setattr(plain, "find", find)
    other = Path(shutil.copytree(made, tmp_path / "other"))
    shard = next(path for path in sorted(other.iterdir()) if ".tfrecord-" in path.name)
    flip(shard, 100)
    cut_off(other, "memory://there")
    assert copy(made, "memory://there") == Transferred(copied=2, verified=9, by_size=0)


def test_what_is_there_is_compared_under_the_bar(
    made: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since it takes as long as reading the files."""
    copy(made, elsewhere.name)
    steps: list[str] = []
    compare, enter, count = transfer_module._etag, Progress.__enter__, Progress.__call__
    monkeypatch.setattr(transfer_module, "_etag", lambda *given: steps.append("compare") or compare(*given))
    monkeypatch.setattr(Progress, "__enter__", lambda self: steps.append("bar") or enter(self))
    monkeypatch.setattr(Progress, "__call__", lambda self, done: steps.append("count") or count(self, done))
    copy(made, elsewhere.name)
    assert (steps[0], steps.count("count")) == ("bar", 10)


def test_a_damaged_copy_is_mended(made: Path, elsewhere: Elsewhere) -> None:
    copy(made, elsewhere.name)
    elsewhere.put("records.parquet", b"cut")
    elsewhere.remove("card.html")
    assert copy(made, elsewhere.name).copied == 2
    assert elsewhere.contents() == contents(made)


def test_what_is_there_and_no_copy_is_not_touched(made: Path, elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere.put("thesis.txt", b"x")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which is not in .*made/\. It is not touched"):
        copy(made, elsewhere.name)
    elsewhere.remove("thesis.txt")
    elsewhere.put("records.parquet", b"of something else")
    with pytest.raises(UserError, match=r"records\.parquet has 17 bytes there and .* of another dataset\?"):
        copy(made, elsewhere.name)
    elsewhere.put("records.parquet", (made / "records.parquet").read_bytes())
    copy(made, elsewhere.name)
    before = elsewhere.contents()
    converted(made.parent / "pets", tmp_path / "made", shards=3, seed=1)
    with pytest.raises(UserError, match=r"holds another dataset\. It is not touched: pass another destination\."):
        copy(tmp_path / "made", elsewhere.name)
    assert elsewhere.contents() == before


def test_directories_are_no_part_of_a_dataset(made: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(made, tmp_path / "made"))
    (source / "notes").mkdir()
    assert copy(source, tmp_path / "there").copied == 11
    assert contents(tmp_path / "there") == contents(made)
    with pytest.raises(UserError, match=r"holds notes/, which is not in "):
        copy(made, source)


def test_what_changes_meanwhile_is_found(made: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = type(transfer_module._place(elsewhere.name))
    original = kind.store

    def spoiled(self: Any, name: str, source: Any) -> None:
        original(self, name, source)
        elsewhere.put("card.html", b"")

    monkeypatch.setattr(kind, "store", spoiled)
    with pytest.raises(UserError, match=r"card\.html has 0 bytes after it was copied, and should have"):
        copy(made, elsewhere.name)
    assert "convert.json" not in elsewhere.contents()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", r"none/: no dataset \(it has no convert\.json\)\. Pass what a conversion wrote\."),
        ("file", "a file, not"),
    ],
)
def test_a_source_that_is_no_dataset(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        copy(tmp_path / source, tmp_path / "there")
    assert os.listdir(tmp_path) == ["file"]


def test_as_a_command(made: Path, tmp_path: Path) -> None:
    done = run(MODULE, str(made), "copy", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "copy/: complete; 11 files copied, 0 were there\n", "")
    for flags in ([], ["a"], ["a", "b", "c"]):
        done = run(MODULE, *flags, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(
            "given: a SOURCE and a DESTINATION, directories or s3://bucket/pets, are expected.\n"
        )


@needs_s3
def test_killed_it_continues(made: Path, bucket: Bucket, tmp_path: Path) -> None:
    large = Path(shutil.copytree(made, tmp_path / "made"))
    (large / "a-large-one").write_bytes(os.urandom(30 * 2**20))
    with start(MODULE, str(large), f"{bucket.url}/there", cwd=tmp_path) as process:
        while not bucket.contents("there"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert "convert.json" not in bucket.contents("there")
    with pytest.raises(UserError, match="no dataset"):
        copy(f"{bucket.url}/there", tmp_path / "back")
    copy(large, f"{bucket.url}/there")
    assert bucket.contents("there") == contents(large)
