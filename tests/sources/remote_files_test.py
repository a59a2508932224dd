"""Tests of Parquet and tar files in an object store, and on Hugging Face's Hub."""

from __future__ import annotations

import http.server
import json
import ntpath
import re
import sys
import threading
import types
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import converted, draw, run, scanned, with_splits
from s3_bucket import Bucket

from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.sources import imagefolder as tables_of_folders

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote") / "pets"
    converted(with_splits(root, train=10, validation=4), root.parent / "out", shards=3)
    return root.parent / "out"


@pytest.fixture(scope="module")
def exported(out: Path) -> Path:
    """Return a directory with the dataset as Parquet and as tar files."""
    for to in ("parquet", "webdataset"):
        config = ExportConfig(tfrecords=str(out), out=str(out.parent / f"made/{to}/pets"), to=to, shard_bytes=20_000)
        export(config, lambda line: None)
    return out.parent / "made"


@pytest.fixture
def memory(exported: Path) -> Iterator[str]:
    """Return the URL of a store in memory that has these files."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    for path in exported.rglob("*"):
        if path.is_file():
            system.pipe(f"/made/{path.relative_to(exported).as_posix()}", path.read_bytes())
    yield "memory://made"
    system.rm("/made", recursive=True)


def same(src: str, out: Path, target: Path) -> bool:
    """Whether a source converts to the dataset `out`."""
    facts = converted(src, target, shards=3)  # type: ignore[arg-type]
    return bool(facts["digest"] == json.loads((out / "convert.json").read_text())["digest"])


@pytest.mark.parametrize("src", ["parquet/pets", "parquet/pets/", "webdataset/pets"])
def test_directory(memory: str, out: Path, tmp_path: Path, src: str) -> None:
    assert same(f"{memory}/{src}", out, tmp_path / "out")


@pytest.mark.parametrize(
    "src",
    [
        "parquet/pets/data/train-*.parquet",
        "parquet/pets/data/train-{00000..00001}-of-00002.parquet",
        "webdataset/pets/{train,extra}-*.tar",
        "webdataset/pets/train-{000000..000001}.tar",
        "parquet/pets/data/train-00000-of-00002.parquet",
        "webdataset/pets/train-000000.tar",
    ],
)
def test_files_and_patterns(memory: str, exported: Path, src: str) -> None:
    if "extra" in src:
        message = rf"--src={re.escape(f'{memory}/{src}')}: no file matches \(.* is missing\)"
        with pytest.raises(UserError, match=message):
            scanned(f"{memory}/{src}")  # type: ignore[arg-type]
        return
    there, here = scanned(f"{memory}/{src}"), scanned(exported / src)  # type: ignore[arg-type]
    assert list(there.paths) == list(here.paths)
    assert there.labels.tolist() == here.labels.tolist()
    assert there.class_names == here.class_names
    for number in range(len(here)):
        span, other = there.spans[number], here.spans[number]
        assert there.store.read(there.paths[number], span).data == here.store.read(here.paths[number], other).data


def test_other_directories_are_read_as_before(memory: str, exported: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for path in (exported.parent / "pets").rglob("*.jpg"):
        system.pipe(f"/made/folder/{path.relative_to(exported.parent / 'pets').as_posix()}", path.read_bytes())
    sources = scanned(f"{memory}/folder")  # type: ignore[arg-type]
    assert (sources.class_names, sources.has_splits) == (("cats", "dogs"), True)


def imagefolder(root: Path, kind: str) -> Path:
    """Write an imagefolder of Hugging Face with two splits. A table in each has the labels of its images."""
    for split, count in (("train", 8), ("test", 4)):
        rows = [{"file_name": f"{number}.jpg", "label": ("cat", "größe")[number % 2]} for number in range(count)]
        for row in rows:
            draw(root / split / row["file_name"])
        rows.append({"file_name": "lost.jpg", "label": "cat"})
        path = root / split / f"metadata.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text("file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows))
    return root


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_imagefolder(tmp_path: Path, kind: str) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    local = imagefolder(tmp_path / "pets", kind)
    system.put(str(local), f"/folder-{kind}/pets", recursive=True)
    there, here = scanned(f"memory://folder-{kind}/pets/"), scanned(local)  # type: ignore[arg-type]
    assert list(there.paths) == list(here.paths)
    assert there.labels.tolist() == here.labels.tolist()
    assert there.class_names == here.class_names == ("cat", "größe")
    assert there.has_splits
    assert there.splits.tolist() == here.splits.tolist()
    assert there.notes == here.notes
    assert [(r.path, r.reason) for r in there.rejected] == [
        (f"{split}/lost.jpg", "listed in the manifest, but not in the bucket") for split in ("test", "train")
    ]
    system.rm(f"/folder-{kind}", recursive=True)


def test_a_manifest_on_this_machine_for_images_in_a_bucket(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    for number in range(4):
        draw(tmp_path / f"{number}.jpg")
        system.pipe(f"/listed/{number}.jpg", (tmp_path / f"{number}.jpg").read_bytes())
    rows = "".join(f"{number}.jpg,{'ab'[number % 2]}\n" for number in range(5))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    sources = scanned("memory://listed", manifest=str(tmp_path / "list.csv"))  # type: ignore[arg-type]
    assert list(sources.paths) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [(r.path, r.reason) for r in sources.rejected] == [
        ("4.jpg", "listed in the manifest, but not in the bucket")
    ]
    system.rm("/listed", recursive=True)


def test_tables_among_objects_have_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, too, where `os.path.join` writes backslashes."""
    monkeypatch.setattr(tables_of_folders, "os", types.SimpleNamespace(path=ntpath))
    objects = {"train/metadata.csv", "train/1.jpg", "test/1.jpg"}
    with pytest.raises(UserError, match=r"^memory://none/train/metadata\.csv: "):
        tables_of_folders.check_readable("memory://none", None, objects)


def test_damaged_table_of_an_imagefolder(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    draw(tmp_path / "1.jpg")
    system.pipe("/damaged/1.jpg", (tmp_path / "1.jpg").read_bytes())
    system.pipe("/damaged/metadata.jsonl", b'{"file_name": 1.jpg}')
    with pytest.raises(UserError, match=r"^memory://damaged/metadata\.jsonl: line 1 is not valid JSON: "):
        scanned("memory://damaged")  # type: ignore[arg-type]
    system.rm("/damaged", recursive=True)


def test_missing_file(memory: str) -> None:
    for name in ("x.parquet", "x.tar"):
        with pytest.raises(UserError, match=rf"{memory}/{name}: .*"):
            scanned(f"{memory}/{name}")  # type: ignore[arg-type]


def test_missing_package_for_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(fsspec.registry.target if hasattr(fsspec.registry, "target") else {}, "hf", raising=False)
    with pytest.raises(UserError, match=r"hf://datasets/x/pets: a package is missing .*: pip install huggingface_hub$"):
        scanned("hf://datasets/x/pets")  # type: ignore[arg-type]


@pytest.mark.interop
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_bucket(bucket: Bucket, out: Path, exported: Path, tmp_path: Path, to: str, workers: int) -> None:
    bucket.upload(exported / to / "pets", "any/pets")
    flags = [f"--src={bucket.url}/any/pets", "--shards=3", f"--workers={workers}"]
    done = run("tfrecord_tools.convert", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out/records.parquet").read_bytes() == (out / "records.parquet").read_bytes()


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_imagefolder_in_a_bucket(bucket: Bucket, tmp_path: Path, kind: str) -> None:
    local = imagefolder(tmp_path / "pets", kind)
    for split in ("train", "test"):
        draw(local / split / "lost.jpg")
    bucket.upload(local, "any/pets")
    done = run("tfrecord_tools.convert", f"--src={bucket.url}/any/pets", "--shards=3", "--workers=2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert same(str(local), tmp_path / "out", tmp_path / "local")


@pytest.mark.interop
@pytest.mark.parametrize("files", ["parquet/pets/data/train-*.parquet", "webdataset/pets/train-{000000..000001}.tar"])
def test_patterns_in_a_bucket(bucket: Bucket, exported: Path, tmp_path: Path, files: str) -> None:
    for to in ("parquet", "webdataset"):
        bucket.upload(exported / to / "pets", f"{to}/pets")
    there, here = scanned(f"{bucket.url}/{files}"), scanned(exported / files)  # type: ignore[arg-type]
    assert list(there.paths) == list(here.paths)
    assert len(there) >= 10
    assert there.labels.tolist() == here.labels.tolist()


# --- Hub --------------------------------------------------------------------------------------------------------------


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub about one dataset, as the Hub does."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if match := re.fullmatch(r"/api/datasets/me/pets/tree/[^/]+/?(.*)", path):
            self._send(json.dumps(self._tree(match[1])).encode(), "application/json")
        elif path.startswith("/api/datasets/me/pets"):
            self._send(json.dumps({"id": "me/pets", "sha": "0" * 40, "siblings": []}).encode(), "application/json")
        elif match := re.fullmatch(r"/datasets/me/pets/resolve/[^/]+/(.*)", path):
            self._send((self.root / match[1]).read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())
        found = [self._entry(self.root / path) for path in fields["paths"] if (self.root / path).exists()]
        self._send(json.dumps(found).encode(), "application/json")

    def _tree(self, directory: str) -> list[dict[str, Any]]:
        recursive = "recursive=True" in self.path or "recursive=true" in self.path
        paths = (self.root / directory).rglob("*") if recursive else (self.root / directory).iterdir()
        return [self._entry(path) for path in sorted(paths)]

    def _entry(self, path: Path) -> dict[str, Any]:
        entry = {"path": path.relative_to(self.root).as_posix(), "oid": "1" * 40, "size": 0, "type": "directory"}
        return entry | {"type": "file", "size": path.stat().st_size} if path.is_file() else entry

    def _send(self, data: bytes, kind: str) -> None:
        total, start = len(data), 0
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or total - 1)
            data = data[start : end + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.mark.interop
@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_hub(out: Path, exported: Path, tmp_path: Path, to: str) -> None:
    """The package huggingface_hub reads from a server on this machine."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"root": exported / to / "pets"}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        flags = ["--src=hf://datasets/me/pets", "--shards=3", "--workers=1"]
        done = run("tfrecord_tools.convert", *flags, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "out/records.parquet").read_bytes() == (out / "records.parquet").read_bytes()
    finally:
        server.shutdown()
        server.server_close()
