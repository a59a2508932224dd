"""Tests of object stores: the same records as from a directory, and errors of the store."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents, converted, image, noted_reads, run, scanned, with_splits
from s3_bucket import Bucket

from tfrecord_tools.base import workers
from tfrecord_tools.conversion.survey import survey
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import object_store, stores

MODULE = "tfrecord_tools.convert"
needs_s3 = pytest.mark.interop

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A split/class/image folder with ignored and rejected files, and names that are hard to quote."""
    source = with_splits(tmp_path / "pets", train=6, validation=3)
    (source / "train/cats/bad.jpg").write_bytes(b"<html>")
    (source / "train/cats/.hidden.jpg").write_bytes(b"x")
    (source / "train/.cache").mkdir()
    (source / "train/.cache/1.jpg").write_bytes(b"x")
    (source / "train/cats/Thumbs.db").write_bytes(b"x")
    (source / "train/cats/deep").mkdir()
    for name in ("ä ö%20+&?#.jpg", "deep/1.jpg", "deep.jpg", "deep-1.jpg"):
        (source / "train/cats" / name).write_bytes(image(name))
    (source / "loose.jpg").write_bytes(image("loose"))
    return source


# --- Errors -----------------------------------------------------------------------------------------------


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"s3://b/x: a package is missing .*: pip install 'tfrecord-tools\[s3\]'$"):
        scanned("s3://b/x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"LastModified": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)}, 1_767_312_000_000_000_000),
        ({"updated": "2026-01-02T00:00:00.250Z"}, 1_767_312_000_250_000_000),
        ({"mtime": 1_767_312_000.5}, 1_767_312_000_500_000_000),
        ({}, 0),
    ],
    ids=["S3", "Google", "files", "unknown"],
)
def test_time_of_change_of_each_kind_of_store(info: dict[str, Any], expected: int) -> None:
    assert object_store.mtime_ns(info) == expected


@needs_s3
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/pets", r"bucket does not exist\. Check the name of the bucket\."),
        (
            "{bucket}/nothing",
            r"there are no files below this URL\. Pass the URL of the directory that contains the class directories,"
            r" for example s3://bucket/images\.",
        ),
        (
            "{bucket}/one.zip",
            r"this is a single file, not a directory of images\. .*, download it first, and pass the downloaded file",
        ),
        (
            "{bucket}/labels.csv",
            r"labels\.csv: this is a single file, not a directory of images\. .* a manifest .*, download it first",
        ),
        ("gs://bucket/pets", r"a package is missing \(.*gcsfs.*\): pip install gcsfs$"),
        (
            "other://bucket/pets",
            r"Protocol not known: other\. Pass a URL such as s3://bucket/prefix or gs://bucket/prefix\.",
        ),
    ],
)
def test_missing_objects_are_refused(bucket: Bucket, url: str, message: str) -> None:
    bucket.put("one.zip", b"PK")
    bucket.put("labels.csv", b"path,label\n")
    with pytest.raises(UserError, match=message):
        scanned(url.format(bucket=bucket.url))  # type: ignore[arg-type]


@needs_s3
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Check the connection, and try again"),
    ],
    ids=["credentials", "endpoint"],
)
def test_store_that_does_not_answer(bucket: Bucket, tmp_path: Path, environment: dict[str, str], message: str) -> None:
    done = run(MODULE, f"--src={bucket.url}/pets", cwd=tmp_path, env={**environment, "HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bucket.url}/pets: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


# --- Same records as from files --------------------------------------------------------------------------------------


@needs_s3
def test_listing_equals_that_of_a_directory(bucket: Bucket, pets: Path) -> None:
    bucket.upload(pets, "pets")
    bucket.put("pets/train/birds/", b"")  # A directory made by a web console.
    there, here = object_store.list_objects(f"{bucket.url}/pets/"), stores.list_store(str(pets))
    assert there.paths == here.paths
    assert there.sizes.tolist() == here.sizes.tolist()
    assert (abs(there.mtimes_ns - here.mtimes_ns) < 600e9).all()
    for number, path in enumerate(there.paths):
        assert there.store.read(path, there.spans[number]).data == (pets / path).read_bytes()


@needs_s3
@pytest.mark.parametrize("workers", [1, 2])
def test_dataset_equals_that_of_a_directory(bucket: Bucket, pets: Path, tmp_path: Path, workers: int) -> None:
    bucket.upload(pets, "any/pets")
    converted(pets, tmp_path / "local", max_bad=0.2)
    flags = [f"--src={bucket.url}/any/pets", "--max_bad=0.2", f"--workers={workers}"]
    done = run(MODULE, *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    again = run(MODULE, *flags, "--update", cwd=tmp_path)
    assert "up to date" in again.stdout


@needs_s3
def test_beam_reads_objects(bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    bucket.upload(pets, "pets")
    converted(pets, tmp_path / "local", max_bad=0.2)
    options = "--beam_options=--direct_running_mode=multi_processing --direct_num_workers=2"
    done = run(MODULE, f"--src={bucket.url}/pets", "--max_bad=0.2", "--engine=beam", options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@needs_s3
def test_local_manifest_of_objects(bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    bucket.upload(pets, "pets")
    rows = [f"{path},{path.split('/')[1]}" for path in contents(pets) if path.endswith(("0.jpg", "1.jpg", "2.png"))]
    rows = [f"{row},{row.split('/')[0]}" for row in rows if "/." not in row]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    for source, out in ((str(pets), "local"), (f"{bucket.url}/pets", "remote")):
        converted(source, tmp_path / out, manifest=str(tmp_path / "labels.csv"))  # type: ignore[arg-type]
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


@needs_s3
def test_key_with_two_slashes_is_rejected(bucket: Bucket, pets: Path) -> None:
    bucket.upload(pets, "pets")
    bucket.put("pets/train/cats//1.jpg", image("x"))
    rejected = {r.path: r.reason for r in object_store.list_objects(f"{bucket.url}/pets").rejected}
    assert rejected == {"train/cats//1.jpg": "two slashes in a row in its name: rename it"}


# --- Changed objects and failing stores ------------------------------------------------------------------------------


@needs_s3
def test_unchanged_objects_are_not_inspected_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_splits(tmp_path / "pets", train=2, validation=1)
    bucket.upload(source, "pets")
    read = noted_reads(monkeypatch, object_store.Objects)
    here = workers.Pool(None, 1)
    url: Any = f"{bucket.url}/pets"
    survey(scanned(url), here, saved=tmp_path / "saved")
    assert len(read) == 6
    bucket.put("pets/train/cats/001.jpg", image("another", size=(20, 20)))
    read.clear()
    survey(scanned(url), here, saved=tmp_path / "saved")
    assert read == ["train/cats/001.jpg"]


@needs_s3
def test_object_that_changes_during_conversion_is_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_splits(tmp_path / "pets", train=2, validation=1)
    bucket.upload(source, "pets")
    from tfrecord_tools import convert as convert_module

    original = convert_module.survey

    def survey_and_change(*args: Any, **options: Any) -> Any:
        facts = original(*args, **options)
        bucket.put("pets/train/cats/001.jpg", image("changed", size=(20, 20)))
        return facts

    monkeypatch.setattr(convert_module, "survey", survey_and_change)
    with pytest.raises(UserError, match=r"train/cats/001\.jpg: the file has changed since it was inspected\."):
        converted(f"{bucket.url}/pets", tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@needs_s3
def test_missing_object_is_rejected_and_missing_store_is_an_error(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_splits(tmp_path / "pets", train=2, validation=1)
    bucket.upload(source, "pets")
    url: Any = f"{bucket.url}/pets"
    sources = scanned(url)
    bucket.remove("pets/train/cats/001.jpg")
    here = workers.Pool(None, 1)
    assert survey(sources, here).reasons == {1: "cannot be read: it no longer exists"}

    def unreachable(*args: Any, **options: Any) -> bytes:
        raise ConnectionResetError("reset by peer")

    system, _ = object_store._opened(url, os.getpid())
    monkeypatch.setattr(system, "cat_file", unreachable)
    with pytest.raises(UserError, match=r"ConnectionResetError: reset by peer\. Check the connection, and try again"):
        survey(sources, here)


@needs_s3
def test_forbidden_object_is_rejected_and_expired_token_is_an_error(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    bucket.upload(with_splits(tmp_path / "pets", train=2, validation=1), "pets")
    url: Any = f"{bucket.url}/pets"
    sources, here, code = scanned(url), workers.Pool(None, 1), ""
    system, _ = object_store._opened(url, os.getpid())
    original = system.cat_file

    def refused(path: str, **options: Any) -> bytes:
        if path.endswith("train/cats/001.jpg"):
            raise translate_boto_error(ClientError({"Error": {"Code": code, "Message": f"it is {code}"}}, "GetObject"))
        return bytes(original(path, **options))

    monkeypatch.setattr(system, "cat_file", refused)
    code = "AccessDenied"
    assert survey(sources, here).reasons == {1: "cannot be read: access is denied"}
    for code in ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "403"):
        with pytest.raises(
            UserError,
            match=rf"access is denied \(it is {code}\)\. Set credentials that may list and read this URL\. For S3, set",
        ):
            survey(sources, here)


def test_processes_are_spawned_when_threads_are_used() -> None:
    assert workers._context(threads=True).get_start_method() == "spawn"


@needs_s3
def test_to_csv_reads_objects(bucket: Bucket, tmp_path: Path) -> None:
    source = Path(shutil.copytree(with_splits(tmp_path / "made"), tmp_path / "pets"))
    bucket.upload(source, "pets")
    for src, out in ((str(source), "local"), (f"{bucket.url}/pets", "remote")):
        done = run("tfrecord_tools.to_csv", f"--src={src}", "--image_size=8", f"--out={tmp_path / out}", "--workers=2")
        assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
