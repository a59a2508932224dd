"""Tests of export, show and compare on a dataset in a bucket: the same output as from files."""

from __future__ import annotations

import csv
import errno
import http.server
import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_network import BadNetwork, at_random
from foreign_records import example, write
from image_sources import contents, flip, image
from judged_runs import SIZE, color_model
from s3_bucket import Bucket

import trainers
from tfrecord_tools import export as export_command
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.exporting import folder, pictures
from tfrecord_tools.foreign import bucket_files
from tfrecord_tools.records import Dataset, Records, open_dataset
from tfrecord_tools.remote import opening
from tfrecord_tools.remote.interface import Denied, Object
from tfrecord_tools.show import ShowConfig, show
from trainers.comparing import dry_run
from trainers.comparing.conduct import CompareConfig
from trainers.models import model_file
from trainers.results import comparison

pytestmark = pytest.mark.usefixtures("no_fsync")

# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["folder", "webdataset", "parquet", "array_record"])
def test_an_export_gives_the_same_files(url: str, pets: Path, tmp_path: Path, to: str) -> None:
    settings: dict[str, Any] = {"to": to, "shard_bytes": None if to == "folder" else 300_000}
    cache: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "cache_bytes": 200_000}
    lines: list[str] = []
    expected = export(ExportConfig(tfrecords=str(pets), out=str(tmp_path / "a"), **settings), lambda line: None)
    counts = export(ExportConfig(tfrecords=url, out=str(tmp_path / "b"), **settings, **cache), lines.append)
    assert counts == expected == {"train": 240, "validation": 40}
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert lines[0] == f"{tmp_path / 'b'}/: 240 images of train, read again and counted"


@pytest.mark.parametrize("budget", [60_000, 10_000_000])
def test_an_export_fetches_each_record_once(
    url: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    opened: list[Records] = []
    original = Dataset.records

    def records(self: Dataset, *splits: str) -> Records:
        opened.append(original(self, *splits))
        return opened[-1]

    monkeypatch.setattr(Dataset, "records", records)
    data = open_dataset(url, cache_dir=tmp_path / "cache", cache_bytes=budget)
    numbers = [(picture.split, picture.number) for picture in pictures.pictures(data)]
    assert numbers == [("train", i) for i in range(240)] + [("validation", i) for i in range(40)]
    assert len(opened) == 2
    for one in opened:
        assert one.remote is not None
        assert one.remote.traffic.bytes == one.remote.size
        assert one.remote._run().space.filled() <= budget
    # Neighbors come together. A small split alone may need more requests if the reader is ahead of the planner.
    assert sum(one.remote.traffic.requests for one in opened if one.remote) < sum(map(len, opened)) / 4


def test_an_export_over_a_bad_network(url: str, pets: Path, tmp_path: Path, network: BadNetwork) -> None:
    network.fault = at_random(4)
    for name, source in (("a", str(pets)), ("b", url)):
        config = ExportConfig(tfrecords=source, out=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        export(config, lambda line: None)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert network.faults.total() > network.faults[""]


def test_a_full_disk_names_the_cache(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(picture: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.jpg")

    monkeypatch.setattr(folder, "relative", full)
    config = ExportConfig(tfrecords=url, out=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    message = (
        "a.jpg: No space left on device. Nothing was written. Fix the cause and run the same command again."
        f" The cache in {tmp_path}/cache is on the same disk: pass a smaller --cache_bytes, or a --cache_dir on another"
        " disk."
    )
    with pytest.raises(UserError) as caught:
        export(config, lambda line: None)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(export_command, "_disk", lambda path: "cache" in path.name)  # Two disks.
    with pytest.raises(UserError) as caught:
        export(config, lambda line: None)
    assert str(caught.value) == message.partition(" The cache")[0]


def test_a_place_that_is_not_free_is_noticed_before_the_dataset_is_fetched(
    url: str, pets: Path, tmp_path: Path, network: BadNetwork
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    for directory in (run, out):
        directory.mkdir()
        (directory / "notes.txt").touch()
    model_file.save(color_model(("greens", "reds")), _info(pets), run / "model.keras")
    network.requests.clear()
    with pytest.raises(UserError, match=rf"^--out={out}: exists and is not an empty directory\. Choose a new or"):
        export(ExportConfig(tfrecords=url, out=str(out)))
    commands: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (trainers.export, {"run": run}),
        (trainers.evaluate, {"run": run}),
        (trainers.audit, {}),
    ]
    for command, given in commands:
        with pytest.raises(UserError, match=rf"^--out={out}: "):
            command(tfrecords=url, out=out, **given)
    assert network.requests == []


def _info(pets: Path) -> Any:
    return model_file.describe(open_dataset(pets), image_size=SIZE, crop=1.0, trainer="finetune")


def test_an_exported_model_is_checked_on_the_same_images(url: str, pets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model_file.save(color_model(("greens", "reds")), _info(pets), run / "model.keras")
    sources: list[dict[str, Any]] = [{"tfrecords": pets}, {"tfrecords": url, "cache_dir": tmp_path / "cache"}]
    checks = [
        trainers.export(run=run, samples=20, out=tmp_path / str(number), **source).check
        for number, source in enumerate(sources)
    ]
    assert checks[0] == checks[1]
    assert (checks[1].images, checks[1].count) == ("records of validation", 20)
    assert (tmp_path / "cache").is_dir()
    message = "^--cache_bytes=9: only --tfrecords uses it. Add --tfrecords, or remove --cache_bytes.$"
    with pytest.raises(UserError, match=message):
        trainers.export(run=run, cache_bytes=9, out=tmp_path / "none")


# --- compare ---------------------------------------------------------------------------------------------------------


def test_the_trainings_of_a_comparison_use_the_cache(url: str, tmp_path: Path) -> None:
    variants = comparison.variants(["features", "mine=frozen --cache_bytes=7"], [])
    config = CompareConfig(
        tfrecords=url, out=tmp_path, variants=variants, cache_dir=str(tmp_path / "cache"), cache_bytes=500_000
    )
    first, second = dry_run.lines(config)
    cache = f" --tfrecords={url} --cache_dir={tmp_path / 'cache'} --cache_bytes=500000 --run="
    assert cache in first
    assert cache in second
    assert second.endswith(" --cache_bytes=7")  # The last value holds.


@pytest.mark.slow
def test_a_comparison_gives_the_same_results(url: str, pets: Path, tmp_path: Path) -> None:
    flags = "scratch --backbone=CNN --backbone_kwargs=filters=(4,8) --image_size=16 --epochs=1 --cache=off"
    cache: dict[str, Any] = {"cache_dir": tmp_path / "cache", "cache_bytes": 500_000}
    trainers.compare(tfrecords=pets, out=tmp_path / "a", variant=f"x={flags}", folds=2)
    trainers.compare(tfrecords=url, out=tmp_path / "b", variant=f"x={flags}", folds=2, **cache)
    tables = [list(csv.DictReader((tmp_path / name / "comparison.csv").open())) for name in ("a", "b")]
    for column in ("variant", "accuracy", "auc", "loss", "folds", "accuracy_low"):
        assert tables[0][0][column] == tables[1][0][column]
    assert (tmp_path / "a/folds2.csv").read_bytes() == (tmp_path / "b/folds2.csv").read_bytes()
    assert len(list((tmp_path / "cache").glob("*/records.parquet"))) == 1
    logs = [path.read_text() for path in (tmp_path / "b").glob("*.log")]
    assert len(logs) == 2
    assert all(f"at most 0.5 MB in {tmp_path / 'cache'}" in log for log in logs)


# --- show ------------------------------------------------------------------------------------------------------------


def shown(path: str, **settings: Any) -> tuple[list[str], str]:
    """Return the printed lines, and the error or ""."""
    lines: list[str] = []
    try:
        show(ShowConfig(path=path, **settings), lines.append)
    except UserError as error:
        return lines, str(error)
    return lines, ""


def until_code(lines: list[str]) -> list[str]:
    return lines[: lines.index("To read them:")]


def test_show_reports_the_same(
    url: str, pets: Path, tmp_path: Path, network: BadNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = network.ranges
    lines, error = shown(url, grid=str(tmp_path / "b.png"))
    shards = len(list(pets.glob("*.tfrecord-*")))
    files = len(list(pets.iterdir()))
    assert network.ranges - before <= files + 4 * shards  # The start of each file, and the parts of the shards.
    expected, _ = shown(str(pets), grid=str(tmp_path / "a.png"))
    assert error == ""
    assert until_code(lines) == [line.replace(str(pets), url) for line in until_code(expected)]
    assert "2 classes of label: 0 cats, 1 dogs" in lines
    assert not (tmp_path / "cache").exists()
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_the_code_for_a_bucket_reads_a_copy(url: str, pets: Path, tmp_path: Path, monkeypatch) -> None:
    lines, _ = shown(f"{url}/")
    code = lines[lines.index("To read them:") + 1 :]
    comment = code.index("# TensorFlow reads files on this machine. Copy the dataset first:")
    assert code[comment + 1] == f"# python -m tfrecord_tools.transfer {url} pets"
    (tmp_path / "pets").symlink_to(pets)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(code), names)
    assert sum(1 for _ in names["data"]) == 240


@pytest.mark.parametrize("kind", ["", "GZIP"])
def test_show_of_one_file_in_a_bucket(
    bucket: Bucket, tmp_path: Path, network: BadNetwork, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bucket_files, "_FIRST", 5000)
    monkeypatch.setattr(bucket_files, "_MOST", 20_000)
    (tmp_path / "files").mkdir()
    records = (example({"image": image(number, size=(50, 40)), "label": number % 2}) for number in range(60))
    write(tmp_path / "files/some.tfrecord", records, kind)
    (tmp_path / "files/label.labels.txt").write_text("cats\ndogs\n")
    bucket.upload(tmp_path / "files", "some where")
    lines, error = shown(f"{bucket.url}/some where/some.tfrecord")
    expected, _ = shown(str(tmp_path / "files/some.tfrecord"))
    here = str(tmp_path / "files/some.tfrecord")
    assert error == ""
    assert until_code(lines) == [
        line.replace(here, f"{bucket.url}/some where/some.tfrecord") for line in until_code(expected)
    ]
    assert "2 classes of label: 0 cats, 1 dogs" in lines
    here = f"Copy {bucket.url}/some where/some.tfrecord to the working directory first."
    assert f"# TensorFlow reads files on this machine. {here}" in lines
    assert 'files = ["some.tfrecord"]' in lines


def test_show_finds_damage_in_a_bucket(bucket: Bucket, tmp_path: Path, network: BadNetwork) -> None:
    write(tmp_path / "a.tfrecord", [example({"k": number}) for number in range(9)])
    flip(tmp_path / "a.tfrecord", 30 + 14)  # In the data of the second record.
    bucket.put("d/a.tfrecord", (tmp_path / "a.tfrecord").read_bytes())
    lines, error = shown(f"{bucket.url}/d")
    assert lines[0].startswith(f"{bucket.url}/d: 8 records in 1 file")
    comment = f"# TensorFlow reads files on this machine. Copy the files of {bucket.url}/d to the directory d/ first."
    assert comment in lines
    assert 'files = ["d/a.tfrecord"]' in lines
    assert error.startswith(f"{bucket.url}/d is damaged:\n  {bucket.url}/d/a.tfrecord: record 1 (counted from 0) at")


def test_messages_of_show_in_a_bucket(bucket: Bucket, network: BadNetwork) -> None:
    bucket.put("d/deep/a.tfrecord", b"")
    bucket.put("d/text.txt", b"words")
    for path, message in (
        ("none", "/none: does not exist. Pass the URL of a TFRecord file, or of a directory with such files."),
        ("d", "/d: no TFRecord file directly in this directory. Pass a directory that contains TFRecord files:"),
        ("d/text.txt", "/d/text.txt: is not a TFRecord file: the file starts with b'words'. Expected a TFRecord file"),
    ):
        assert shown(f"{bucket.url}/{path}")[1].startswith(f"{bucket.url}{message}")


def test_a_stream_of_a_bucket_gives_all_bytes(bucket: Bucket, network: BadNetwork) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    bucket.put("one/file", data)
    (file,), is_directory = bucket_files.listed(f"{bucket.url}/one")
    assert (is_directory, file.name, file.parent, file.size) == (True, "file", f"{bucket.url}/one", len(data))
    assert io.BufferedReader(file.open()).read() == data
    assert io.BufferedReader(bucket_files.listed(f"{bucket.url}/one/file")[0][0].open()).read(10) == data[:10]


class _Web(http.server.BaseHTTPRequestHandler):
    """Sends files and parts of files, and cannot list."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        total = len(data)
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(404 if not path.is_file() else 206 if part else 200)
        if part:
            first, last = int(part[1]), min(int(part[2]), total - 1)
            data = data[first : last + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def test_show_of_a_web_server(pets: Path) -> None:
    """The names of the files come from convert.json, or the URL is that of a file."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Web", (_Web,), {"root": pets.parent}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    web = f"http://127.0.0.1:{server.server_address[1]}/pets"
    try:
        lines, error = shown(web)
        expected, _ = shown(str(pets))
        assert error == ""
        assert lines[0] == expected[0].replace(str(pets), web)
        name = next(pets.glob("*-validation.tfrecord-*")).name
        assert shown(f"{web}/{name}")[0][0].startswith(f"{web}/{name}: 40 records in 1 file, ")
        missing = f"{web}/none: does not exist. Pass the URL of a TFRecord file, or of a directory with such files."
        assert shown(f"{web}/none") == ([], missing)
    finally:
        server.shutdown()
        server.server_close()


def test_show_without_the_right_to_list(url: str, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(store: object, below: bool = True) -> list[Object]:
        raise Denied("access is denied")

    monkeypatch.setattr(opening, "list_objects", denied)
    name = next(pets.glob("*-validation.tfrecord-*")).name
    assert shown(f"{url}/{name}")[0][0].startswith(f"{url}/{name}: 40 records in 1 file, ")


def _may_not_list(method: str, path: str) -> str:
    return "denied" if "list-type" in path else ""


def _denied(method: str, path: str) -> str:
    return "denied"


@pytest.mark.parametrize(
    ("path", "rule", "message"),
    [
        ("", None, r": no file was found\. Pass the URL of a TFRecord file, or of a directory with such files\.$"),
        ("", _may_not_list, r": access is denied \(AccessDenied: Access Denied\)\. Set AWS_ACCESS_KEY_ID and"),
        (
            "/none",
            _may_not_list,
            r"/none: access is denied \(AccessDenied: Access Denied\)\. Set AWS_ACCESS_KEY_ID and",
        ),
        ("/none", _denied, r"/none: access is denied \("),
    ],
)
def test_a_refusal_of_the_store_is_shown(
    bucket: Bucket, network: BadNetwork, path: str, rule: Callable[[str, str], str] | None, message: str
) -> None:
    network.rule = rule or network.rule
    lines, error = shown(f"{bucket.url}{path}")
    assert lines == []
    assert re.match(f"{bucket.url}{message}", error), error


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"convert.claim.json": b"{}"}, r": is not a dataset yet\. A conversion is writing it\. Wait until it ends\."),
        ({"convert.json": b"[]"}, r"/convert\.json: is damaged \(.*\)\. Copy the dataset to the bucket again\.$"),
    ],
)
def test_a_dataset_that_cannot_be_shown_without_a_listing(
    bucket: Bucket, network: BadNetwork, files: dict[str, bytes], message: str
) -> None:
    network.rule = _may_not_list
    for name, content in files.items():
        bucket.put(f"pets/{name}", content)
    lines, error = shown(f"{bucket.url}/pets")
    assert lines == []
    assert re.match(f"{bucket.url}/pets{message}", error), error


def test_one_file_lists_its_directory_only(bucket: Bucket, tmp_path: Path, network: BadNetwork) -> None:
    write(tmp_path / "a.tfrecord", [example({"k": 1})])
    for name in ("a.tfrecord", "b.tfrecord", "deep/c.tfrecord"):
        bucket.put(f"d/{name}", (tmp_path / "a.tfrecord").read_bytes())
    network.requests.clear()
    files, is_directory = bucket_files.listed(f"{bucket.url}/d/a.tfrecord")
    assert ([file.name for file in files], is_directory) == (["a.tfrecord", "b.tfrecord"], False)
    listings = [path for _, path, _ in network.requests if "list-type" in path]
    assert [("delimiter" in path, "a.tfrecord" in path) for path in listings] == [(False, True), (True, False)]


def test_a_dataset_is_read_without_the_right_to_list(url: str, pets: Path, tmp_path: Path, network: BadNetwork) -> None:
    network.rule = _may_not_list
    data = open_dataset(url, cache_dir=tmp_path / "cache")
    assert data.records("validation").labels.tolist() == open_dataset(pets).records("validation").labels.tolist()
    assert shown(url)[0][0].startswith(f"{url}: 280 records in ")
