"""Exported datasets convert to the same records, with the same digest."""

from __future__ import annotations

import csv
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from foreign_records import example, write
from image_sources import contents, converted, draw, image, scanned, tree, with_splits

from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.exporting import parquet, pictures, webdataset
from tfrecord_tools.layout import index
from tfrecord_tools.records import open_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")
WITH_WAY_BACK = ["folder", "webdataset", "parquet"]
SHARD_BYTES = 20_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with odd names, a deep path, and copies of an image."""
    root = with_splits(tmp_path_factory.mktemp("source") / "pets", train=20, validation=6)
    draw(root / "train/cats/deeper/größe x.1.jpg")
    draw(root / "train/cats/cat.0.jpg")
    for name in ("b", "a", "c"):
        draw(root / f"train/dogs/{name}.jpg", key="the same")
    return root


def exported(tfrecords: Path, out: Path, to: str, **settings: Any) -> Path:
    sizes = {} if to == "folder" else {"shard_bytes": SHARD_BYTES}
    config = ExportConfig(tfrecords=str(tfrecords), out=str(out), to=to, **sizes | settings)
    export(config, lambda line: None)
    return out


def rows(out: Path, *columns: str) -> list[dict[str, Any]]:
    """Return some columns of the index, in the order of the records."""
    names = list(columns or ("split", "label", "path", "group", "sha256", "source_sha256", "shard"))
    return index.read(out / index.FILE_NAME, names).to_pylist()


@pytest.mark.parametrize("to", WITH_WAY_BACK)
@pytest.mark.parametrize(
    "settings",
    [{}, {"classes": ["dogs", "cats"]}, {"group_regex": r"/(\d\d)"}, {"test_fraction": 0.25, "validation_fraction": 0}],
    ids=["plain", "order of classes", "groups", "automatic split"],
)
def test_same_digest(source: Path, tmp_path: Path, to: str, settings: dict[str, Any]) -> None:
    src = source
    if "test_fraction" in settings:
        src = Path(shutil.copytree(source / "train", tmp_path / "all/pets"))
    first = converted(src, tmp_path / "out", shards=4, **settings)
    back = exported(tmp_path / "out", tmp_path / "exported/pets", to)
    if "test_fraction" in settings:  # The exported files have the splits, so they are not made again.
        settings = {}
    again = converted(back, tmp_path / "again", shards=4, **settings)
    if src == source:
        assert again["digest"] == first["digest"]
    columns = ["split", "label", "sha256", "source_sha256"]
    columns += ["path", "group"] if to != "folder" else []  # A folder has the splits in its paths, and no groups.
    assert rows(tmp_path / "again", *columns) == rows(tmp_path / "out", *columns)
    assert [entry["name"] for entry in again["classes"]] == [entry["name"] for entry in first["classes"]]


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_groups_of_a_manifest(source: Path, tmp_path: Path, to: str) -> None:
    """The column group goes along, so that another split keeps the groups together."""
    paths = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg"))
    with open(source.parent / "pets.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "group"])
        for number, path in enumerate(paths):
            split, name = path.split("/")[:2]
            table.writerow([f"pets/{path}", name, split, f"animal {number % 7}" if number % 3 else ""])
    first = converted(source.parent / "pets.csv", tmp_path / "out", shards=4)
    back = exported(tmp_path / "out", tmp_path / "exported/pets", to)
    assert converted(back, tmp_path / "again", shards=4)["digest"] == first["digest"]
    assert len({row["group"] for row in rows(tmp_path / "again")}) == 8
    sources = scanned(back)
    assert {sources.groups[n] for n in range(len(sources))} == {row["group"] for row in rows(tmp_path / "out")}


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_update_finds_nothing_new(source: Path, tmp_path: Path, to: str) -> None:
    converted(source, tmp_path / "out", shards=4)
    back = exported(tmp_path / "out", tmp_path / "exported/pets", to)
    lines: list[str] = []
    convert(ConvertConfig(src=str(back), out=str(tmp_path / "out"), update=True, workers=1), lines.append)
    assert lines[-1] == f"{tmp_path}/out/: up to date. No image was added, changed or removed."


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_changed_images_come_back_as_stored(tmp_path: Path, to: str) -> None:
    root = tree(tmp_path / "pets", {"train/cats": 6, "train/dogs": 6, "test/cats": 3, "test/dogs": 3})
    (root / "train/dogs/turned into.webp").write_bytes(image(7, "WEBP", lossless=True))
    converted(root, tmp_path / "out", shards=2)
    back = exported(tmp_path / "out", tmp_path / "exported/pets", to)
    converted(back, tmp_path / "again", shards=2)
    columns = ("path", "split", "label", "sha256")
    assert sorted(map(str, rows(tmp_path / "again", *columns))) == sorted(map(str, rows(tmp_path / "out", *columns)))


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_records_with_equal_paths(tmp_path: Path, to: str) -> None:
    """The paths in the files are not used, since they do not name one image each."""
    values = [{"image": image(n), "label": n % 2, "image/filename": b"photo.jpg"} for n in range(6)]
    write(tmp_path / "d/train.tfrecord", map(example, values))
    config = AdoptConfig(records=str(tmp_path / "d"), out=str(tmp_path / "out"), classes=["cat", "dog"], workers=1)
    adopt(config, lambda line: None)
    back = exported(tmp_path / "out", tmp_path / "pets", to, shard_bytes=1_000_000)
    noun, first = {
        "parquet": ("row", "data/train-00000-of-00001.parquet:1"),
        "webdataset": ("sample", "train-000000.tar/000000000.jpg"),
    }[to]
    first = first.removeprefix("data/") if to == "webdataset" else first
    sources = scanned(back)
    assert sources.paths[0] == first
    assert sources.notes[-1] == (
        f"the column 'path' is not read, since 5 of 6 {noun}s have no path there, or the path of another {noun}. The"
        f" paths of the records are those of the files, such as {first}"
    )


# --- webdataset -------------------------------------------------------------------------------------------------------


def test_tar_files_of_many_images_need_little_memory(tmp_path: Path) -> None:
    """tarfile would keep 1 kB per member, three members per image."""
    converted(tree(tmp_path / "src", {"a": 2, "b": 2}), tmp_path / "out", validation_fraction=0)
    sink = webdataset.Webdataset(open_dataset(tmp_path / "out"), None)
    about: dict[str, Any] = {"split": "train", "label": 0, "class_name": "a", "image": b"x" * 600, "kind": "JPEG"}
    tracemalloc.start()
    with sink.writer(tmp_path / "tars") as write:
        for number in range(2000):
            write(pictures.Picture(number=number, path=f"a/{number}.jpg", **about))
    assert sink.count(tmp_path / "tars") == {("train", 0): 2000}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_files_and_their_columns(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "out", shards=4, group_regex=r"/(\d\d)")
    pets = exported(tmp_path / "out", tmp_path / "pets", "parquet")
    files = sorted(path.name for path in (pets / "data").iterdir())
    train = [name for name in files if name.startswith("train")]
    assert train == [f"train-{n:05d}-of-{len(train):05d}.parquet" for n in range(len(train))]
    assert len(train) > 1
    assert {*files} - {*train} == {f for f in files if f.startswith("validation-0000")}
    assert sorted(path.name for path in pets.iterdir()) == ["README.md", "croissant.json", "data"]
    data = open_dataset(tmp_path / "out").records("train")
    read = [row for name in train for row in pq.read_table(pets / "data" / name).to_pylist()]
    known = [row for row in rows(tmp_path / "out") if row["split"] == "train"]
    assert len(read) == len(data) == len(known)
    for number, row in enumerate(read):
        record = data[number]
        assert row["image"] == {"bytes": record["image"], "path": record["path"].rpartition("/")[2]}
        assert (row["label"], row["path"]) == (record["label"], record["path"])
        assert row["source_sha256"] == known[number]["source_sha256"].hex()
        assert (row["group"] is None) == (known[number]["group"] == 0)


def test_row_groups_are_limited(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(source, tmp_path / "out", shards=4)
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 5_000)
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 4)
    pets = exported(tmp_path / "out", tmp_path / "small/pets", "parquet", shard_bytes=10_000_000)
    (file,) = (pets / "data").glob("train-*")
    footer = pq.read_metadata(file)
    counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    assert sum(counts) == 45
    assert len(counts) > 10
    assert max(counts) <= 4


def test_one_image_per_file_at_least(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "out", shards=4)
    pets = exported(tmp_path / "out", tmp_path / "pets", "parquet", shard_bytes=1)
    assert len(list((pets / "data").iterdir())) == 57
    assert len(scanned(pets)) == 57


def test_exports_are_reproducible(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "out", shards=4)
    one, two = (contents(exported(tmp_path / "out", tmp_path / name / "pets", "parquet")) for name in ("one", "two"))
    assert one == two


def test_record_has_all_that_is_known(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "out", shards=4, group_regex=r"/(\d\d)")
    data = open_dataset(tmp_path / "out")
    known = {(row["split"], row["path"]): row for row in rows(tmp_path / "out")}
    for picture in pictures.pictures(data):
        row = known[picture.split, picture.path]
        assert picture.source_sha256 == row["source_sha256"].hex()
        assert picture.group == (f"hash64:{row['group']:016x}" if row["group"] else "")
    assert pictures.has_groups(data)
