"""Images in an object store become what the same files become in a directory; a store that fails is no bad image."""

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
from tfrecord_tools.convert import ConvertConfig
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import object_store, stores

MODULE = "tfrecord_tools.convert"
needs_s3 = pytest.mark.interop

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """split/class/image with all that is passed over or rejected, and names that are hard to quote."""
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


# --- What is refused -----------------------------------------------------------------------------------------------


def test_out_is_local_and_the_way_is_told() -> None:
    message = r"--out=s3://b/out: a dataset grows in a local directory.*tfrecord_tools\.transfer DIRECTORY s3://b/out$"
    with pytest.raises(UserError, match=message):
        ConvertConfig(src="pets", out="s3://b/out")


def test_datasets_are_opened_here_and_the_way_is_told() -> None:
    message = r"s3://b/out: datasets are read from local directories.*tfrecord_tools\.transfer s3://b/out DIRECTORY$"
    with pytest.raises(UserError, match=message):
        open_dataset("s3://b/out")


def test_without_a_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ids=["S3", "Google", "files", "not told"],
)
def test_time_of_change_of_each_kind_of_store(info: dict[str, Any], expected: int) -> None:
    assert object_store.mtime_ns(info) == expected


@needs_s3
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/pets", r"bucket does not exist\. Is the name of the bucket right\?"),
        ("{bucket}/nothing", r"no objects there\. A bucket and the prefix above the classes is expected\."),
        ("{bucket}/one.zip", r"an object, no directory\. .* are read from this machine: copy it here first\."),
        ("{bucket}/labels.csv", r"labels\.csv: an object, no directory\. .*, manifests .*: copy it here first\."),
        ("gs://bucket/pets", r"a package is missing \(.*gcsfs.*\): pip install gcsfs$"),
        ("other://bucket/pets", r"Protocol not known: other\. s3://bucket/prefix, gs://bucket/prefix or the like"),
    ],
)
def test_what_is_not_there(bucket: Bucket, url: str, message: str) -> None:
    bucket.put("one.zip", b"PK")
    bucket.put("labels.csv", b"path,label\n")
    with pytest.raises(UserError, match=message):
        scanned(url.format(bucket=bucket.url))  # type: ignore[arg-type]


@needs_s3
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Is the store reached from here"),
    ],
    ids=["credentials", "endpoint"],
)
def test_a_store_that_does_not_answer(
    bucket: Bucket, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    done = run(MODULE, f"--src={bucket.url}/pets", cwd=tmp_path, env={**environment, "HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bucket.url}/pets: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


# --- The same as files ---------------------------------------------------------------------------------------------


@needs_s3
def test_a_listing_is_that_of_a_directory(bucket: Bucket, pets: Path) -> None:
    bucket.upload(pets, "pets")
    bucket.put("pets/train/birds/", b"")  # As consoles make a directory.
    there, here = object_store.list_objects(f"{bucket.url}/pets/"), stores.list_store(str(pets))
    assert there.paths == here.paths
    assert there.sizes.tolist() == here.sizes.tolist()
    assert (abs(there.mtimes_ns - here.mtimes_ns) < 600e9).all()
    for number, path in enumerate(there.paths):
        assert there.store.read(path, there.spans[number]).data == (pets / path).read_bytes()


@needs_s3
@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_are_those_of_a_directory(bucket: Bucket, pets: Path, tmp_path: Path, workers: int) -> None:
    bucket.upload(pets, "any/pets")
    converted(pets, tmp_path / "local", max_bad=0.2)
    flags = [f"--src={bucket.url}/any/pets", "--max_bad=0.2", f"--workers={workers}"]
    done = run(MODULE, *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    again = run(MODULE, *flags, "--update", cwd=tmp_path)
    assert "up to date" in again.stdout


@needs_s3
def test_beam_reads_objects_too(bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    bucket.upload(pets, "pets")
    converted(pets, tmp_path / "local", max_bad=0.2)
    options = "--beam_options=--direct_running_mode=multi_processing --direct_num_workers=2"
    done = run(MODULE, f"--src={bucket.url}/pets", "--max_bad=0.2", "--engine=beam", options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@needs_s3
def test_a_manifest_of_this_machine_names_objects(bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    bucket.upload(pets, "pets")
    rows = [f"{path},{path.split('/')[1]}" for path in contents(pets) if path.endswith(("0.jpg", "1.jpg", "2.png"))]
    rows = [f"{row},{row.split('/')[0]}" for row in rows if "/." not in row]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    for source, out in ((str(pets), "local"), (f"{bucket.url}/pets", "remote")):
        converted(source, tmp_path / out, manifest=str(tmp_path / "labels.csv"))  # type: ignore[arg-type]
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


@needs_s3
def test_a_key_that_is_no_file_name_is_rejected(bucket: Bucket, pets: Path) -> None:
    bucket.upload(pets, "pets")
    bucket.put("pets/train/cats//1.jpg", image("x"))
    rejected = {r.path: r.reason for r in object_store.list_objects(f"{bucket.url}/pets").rejected}
    assert rejected == {"train/cats//1.jpg": "two slashes in a row in its name, as in no file's: rename it"}


# --- What changes, and what fails ----------------------------------------------------------------------------------


@needs_s3
def test_what_was_surveyed_and_is_unchanged_is_not_read_again(
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
def test_an_object_that_changes_between_survey_and_write_is_found(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_splits(tmp_path / "pets", train=2, validation=1)
    bucket.upload(source, "pets")
    from tfrecord_tools import convert as convert_module

    original = convert_module.survey

    def then_change(*args: Any, **options: Any) -> Any:
        facts = original(*args, **options)
        bucket.put("pets/train/cats/001.jpg", image("changed", size=(20, 20)))
        return facts

    monkeypatch.setattr(convert_module, "survey", then_change)
    with pytest.raises(UserError, match=r"train/cats/001\.jpg: the file has changed since it was inspected\."):
        converted(f"{bucket.url}/pets", tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@needs_s3
def test_an_object_that_is_gone_is_bad_but_a_store_that_is_gone_stops_it(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_splits(tmp_path / "pets", train=2, validation=1)
    bucket.upload(source, "pets")
    url: Any = f"{bucket.url}/pets"
    sources = scanned(url)
    bucket.remove("pets/train/cats/001.jpg")
    here = workers.Pool(None, 1)
    assert survey(sources, here).reasons == {1: "cannot be read: it is not there any more"}

    def unreachable(*args: Any, **options: Any) -> bytes:
        raise ConnectionResetError("reset by peer")

    system, _ = object_store._opened(url, os.getpid())
    monkeypatch.setattr(system, "cat_file", unreachable)
    with pytest.raises(UserError, match=r"ConnectionResetError: reset by peer\. Is the store reached from here"):
        survey(sources, here)


@needs_s3
def test_a_forbidden_object_is_bad_but_an_expired_token_stops_it(
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
    assert survey(sources, here).reasons == {1: "cannot be read: forbidden"}
    for code in ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "403"):
        with pytest.raises(
            UserError, match=rf"access is denied \(it is {code}\)\. Give credentials .* still valid, for S3"
        ):
            survey(sources, here)


def test_processes_are_not_forked_from_threads_to_come() -> None:
    assert workers._context(threads=True).get_start_method() == "spawn"


@needs_s3
def test_to_csv_reads_objects(bucket: Bucket, tmp_path: Path) -> None:
    source = Path(shutil.copytree(with_splits(tmp_path / "made"), tmp_path / "pets"))
    bucket.upload(source, "pets")
    for src, out in ((str(source), "local"), (f"{bucket.url}/pets", "remote")):
        done = run("tfrecord_tools.to_csv", f"--src={src}", "--image_size=8", f"--out={tmp_path / out}", "--workers=2")
        assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
