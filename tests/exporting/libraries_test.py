"""`datasets` and `mlcroissant` read exported Parquet files, and `convert` reads those of `datasets`."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_sources import converted, draw, image, scanned, with_splits
from PIL import Image

from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.exporting.folder import _distinct
from tfrecord_tools.layout import schema
from tfrecord_tools.records import Dataset, open_dataset

pytestmark = [pytest.mark.usefixtures("no_fsync")]
CLASSES = ["cats: small", "dogs, größer"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = with_splits(tmp_path_factory.mktemp("libraries") / "pets", train=12, validation=5)
    for split in ("train", "validation"):
        for name, renamed in zip(("cats", "dogs"), CLASSES):
            (root / split / name).rename(root / split / renamed)
    draw(root / "train" / CLASSES[0] / "deeper/größe x.1.jpg")
    return root


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    converted(source, source.parent / "out", shards=3)
    return source.parent / "out"


@pytest.fixture(scope="module")
def pets(out: Path) -> Path:
    config = ExportConfig(tfrecords=str(out), out=str(out.parent / "made/pets"), to="parquet", shard_bytes=10_000)
    export(config, lambda line: None)
    return out.parent / "made/pets"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the library `datasets`, without a network and with its own cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()

    def load(directory: Path, **settings: Any) -> Any:
        return datasets.load_dataset(str(directory), cache_dir=str(tmp_path / "cache"), **settings)

    return load


def stored(data: Dataset, split: str) -> dict[str, tuple[int, bytes]]:
    """Return path -> (label, image)."""
    return {
        r["path"]: (r["label"], r["image"]) for r in map(data.records(split).__getitem__, range(data.splits[split]))
    }


# --- Without the libraries --------------------------------------------------------------------------------------------


def test_card_names_splits_columns_and_classes(out: Path, pets: Path) -> None:
    _, header, body = (pets / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*"},
                {"split": "validation", "path": "data/validation-*"},
            ],
        }
    ]
    info = card["dataset_info"]
    assert info["features"] == [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": {"0": CLASSES[0], "1": CLASSES[1]}}}},
        {"name": "path", "dtype": "string"},
        {"name": "source_sha256", "dtype": "string"},
    ]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {"train": 25, "validation": 10}
    assert info["download_size"] == sum(path.stat().st_size for path in (pets / "data").iterdir())
    assert (card["task_categories"], card["size_categories"]) == (["image-classification"], ["n<1K"])
    assert "2 classes, 25 images in train, 10 images in validation." in body
    assert open_dataset(out).digest in body


def test_croissant_has_the_checksum_of_every_file(pets: Path) -> None:
    described = json.loads((pets / "croissant.json").read_text())
    objects = [entry for entry in described["distribution"] if entry["@type"] == "cr:FileObject"]
    assert [entry["contentUrl"] for entry in objects] == [f"data/{p.name}" for p in sorted((pets / "data").iterdir())]
    for entry in objects:
        data = (pets / entry["contentUrl"]).read_bytes()
        assert (entry["sha256"], entry["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")


@pytest.fixture(scope="module")
def without_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adopted dataset with a test split that has no records, and a class that has none."""
    root = tmp_path_factory.mktemp("adopted")
    for split in ("train", "test"):
        examples = [schema.encode_example(image(f"{split}{n}"), "", 2 * (n % 2)) for n in range(4)]
        (root / f"{split}.tfrecord").write_bytes(b"".join(map(schema.frame, examples)))
    hashes = [hashlib.sha256(image(f"test{n}")).hexdigest() for n in range(4)]
    (root / "drop.csv").write_text("\n".join(["sha256,decision,label", *(f"{one},drop," for one in hashes)]))
    given: dict[str, Any] = {"classes": ["b", "a, c", "a"], "decisions": str(root / "drop.csv"), "workers": 1}
    adopt(AdoptConfig(records=str(root / "*.tfrecord"), out=str(root / "out"), **given), lambda line: None)
    return root / "out"


def test_splits_without_records_are_not_in_the_metadata(without_test: Path, tmp_path: Path) -> None:
    assert dict(open_dataset(without_test).splits) == {"train": 4, "test": 0}
    export(ExportConfig(tfrecords=str(without_test), out=str(tmp_path / "pets"), to="parquet"), lambda line: None)
    card = yaml.safe_load((tmp_path / "pets/README.md").read_text().split("---\n")[1])
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert [split["name"] for split in card["dataset_info"]["splits"]] == ["train"]
    tables = {table["@id"]: table for table in json.loads((tmp_path / "pets/croissant.json").read_text())["recordSet"]}
    assert tables["splits"]["data"] == [{"splits/name": "train", "splits/images": 4}]


def test_folder_prints_class_names_with_commas(without_test: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    export(ExportConfig(tfrecords=str(without_test), out=str(tmp_path / "pets")), lines.append)
    assert lines[-1].endswith(f"convert --src={tmp_path}/pets --classes='b,\"a, c\",a'")


def test_folders_of_classes_are_distinct() -> None:
    assert _distinct(["a_b", "a_b", "a_b-0", "c"]) == ["a_b-0-", "a_b-1", "a_b-0", "c"]


@pytest.mark.interop
def test_datasets_loads_a_dataset_with_an_empty_split(without_test: Path, tmp_path: Path, load: Any) -> None:
    export(ExportConfig(tfrecords=str(without_test), out=str(tmp_path / "pets"), to="parquet"), lambda line: None)
    assert {split: len(rows) for split, rows in load(tmp_path / "pets").items()} == {"train": 4}


# --- datasets ---------------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_datasets_loads_the_directory(out: Path, pets: Path, load: Any) -> None:
    loaded = load(pets)
    data = open_dataset(out)
    assert {split: len(rows) for split, rows in loaded.items()} == dict(data.splits) == {"train": 25, "validation": 10}
    for split, rows in loaded.items():
        assert rows.features["label"].names == CLASSES
        known, pictures = stored(data, split), rows.cast_column("image", _undecoded())
        for row, decoded in zip(pictures, rows):
            label, encoded = known.pop(row["path"])
            assert (row["label"], row["image"]["bytes"]) == (label, encoded)
            assert decoded["image"].size == (12, 9)
        assert known == {}


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


@pytest.mark.interop
def test_datasets_streams_the_directory(out: Path, pets: Path, load: Any) -> None:
    rows = list(load(pets, split="validation", streaming=True))
    assert [row["path"] for row in rows] == list(open_dataset(out).records("validation").paths)


@pytest.mark.interop
def test_files_that_datasets_wrote_again_convert_to_the_same_records(
    out: Path, pets: Path, load: Any, tmp_path: Path
) -> None:
    """`datasets` keeps the columns, so paths and splits survive."""
    (tmp_path / "pets/data").mkdir(parents=True)
    for split, rows in load(pets).items():
        for number in range(2):
            part = rows.shard(2, number, contiguous=True)
            part.to_parquet(str(tmp_path / f"pets/data/{split}-{number:05d}-of-00002.parquet"))
    again = converted(tmp_path / "pets", tmp_path / "again", shards=3)
    assert again["digest"] == open_dataset(out).digest


@pytest.mark.interop
@pytest.mark.parametrize("layout", ["data/{split}-00000-of-00001.parquet", "{split}/0000.parquet"])
def test_a_dataset_of_datasets_converts(load: Any, tmp_path: Path, layout: str) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    for split, count in (("train", 8), ("test", 4)):
        rows = [{"image": {"bytes": image(f"{split}{n}"), "path": None}, "label": n % 2} for n in range(count)]
        target = tmp_path / "pets" / layout.format(split=split)
        target.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(target))
    sources = scanned(tmp_path / "pets")
    assert sources.class_names == ("dog", "cat")
    assert sources.has_splits
    read = [sources.store.read(path, span).data for path, span in zip(sources.paths, sources.spans)]
    assert sorted(read) == sorted(image(f"{s}{n}") for s, count in (("train", 8), ("test", 4)) for n in range(count))


# --- mlcroissant ------------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_mlcroissant_reads_every_image(out: Path, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    with caplog.at_level(logging.WARNING):
        described = mlcroissant.Dataset(str(pets / "croissant.json"))
    issues = described.metadata.ctx.issues
    assert issues.errors == set()
    recommended = {"citeAs", "datePublished", "license"}  # Only the owner of the images knows these.
    assert all(any(f'{name}" is recommended' in text for name in recommended) for text in issues.warnings)
    data = open_dataset(out)
    assert [row["classes/name"] for row in described.records("classes")] == CLASSES
    assert {row["splits/name"]: row["splits/images"] for row in described.records("splits")} == data.splits
    known = {split: stored(data, split) for split in data.splits}
    for row in described.records("images"):
        label, encoded = known[row["images/split"].decode()].pop(row["images/path"].decode())
        assert row["images/label"] == label
        assert row["images/image"].tobytes() == Image.open(io.BytesIO(encoded)).tobytes()
    assert all(rest == {} for rest in known.values())
