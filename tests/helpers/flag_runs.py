"""Runs that pass every flag of every command once, and checks that each flag has an effect.

A new flag needs an entry in a run of its command, or a new run. `flags_test.py` lists the flags without one.
All runs start in a copy of the same small directory, which `stock` creates.
"""

from __future__ import annotations

import atexit
import csv
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_sources import contents, converted, image, tree, with_splits
from local_dask import Cluster
from PIL import Image

import trainers
from tfrecord_tools import convert as convert_module
from tfrecord_tools.records import open_dataset
from trainers.auditing import issues
from trainers.auditing.issues import ListedIssue

SMALL = (4, 8)  # Filters of a network that trains in less than a second.
# Code of a user: a network, a whole model, and a line that shows that it has run.
OWN_CODE = """
import sys
import keras
print("mine.py runs", file=sys.stderr)

def network(input_shape):
    images = keras.Input(input_shape)
    return keras.Model(images, keras.layers.Conv2D(4, 3, strides=2)(images))

def whole(input_shape, classes):
    images = keras.Input(input_shape)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Dense(1, activation="sigmoid")(x))
"""


@dataclasses.dataclass(frozen=True)
class Ended:
    """A finished command: its directory, exit code and output."""

    place: Path
    code: int
    out: str
    err: str

    def has(self, path: str) -> bool:
        return (self.place / path).exists()

    def count(self, pattern: str) -> int:
        return len(list(self.place.glob(pattern)))

    def text(self, path: str) -> str:
        return (self.place / path).read_text()

    def prose(self, path: str) -> str:
        """Return the text of a page with single spaces, so that line breaks do not matter."""
        return " ".join(self.text(path).split())

    def json(self, path: str, *keys: str) -> Any:
        """Return a value of a JSON file by its path of keys."""
        value = json.loads(self.text(path))
        for key in keys:
            value = value[int(key) if isinstance(value, list) else key]
        return value

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of a CSV or a Parquet file."""
        if path.endswith(".parquet"):
            return pq.read_table(self.place / path).to_pylist()
        return list(csv.DictReader(io.StringIO(self.text(path))))

    def images(self, out: str, split: str = "train") -> list[Image.Image]:
        """Return the images of a split of a dataset."""
        records = open_dataset(self.place / out).records(split)
        return [Image.open(io.BytesIO(records[i]["image"])) for i in range(len(records))]

    def panels(self, path: str, side: int) -> np.ndarray:
        """Return the panels of a picture by `preview`, u8[n side side 3], without the white frames of 4 px."""
        pixels = np.asarray(Image.open(self.place / path))
        corners = [range(4, length - side, side + 4) for length in pixels.shape[:2]]
        return np.stack([pixels[y : y + side, x : x + side] for y in corners[0] for x in corners[1]])


Check = Callable[[Ended], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a command.

    Attributes:
        name: The purpose of the run.
        flags: Flag with value -> check that must be true after the run because of the flag. PLACE stands for the
            directory of the run.
        arguments: Other arguments, also with PLACE.
        before: Prepares the directory.
        code: The exit code.
        marks: Marks for pytest: `slow` if a faster run covers the command, or `interop`.
    """

    name: str
    flags: Mapping[str, Check] = dataclasses.field(default_factory=dict)
    arguments: Sequence[str] = ()
    before: Callable[[Path], object] = lambda place: None
    code: int = 0
    marks: Sequence[pytest.MarkDecorator] = ()


SLOW = (pytest.mark.slow,)
OPENVINO = (pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"),)
INTEROP = (pytest.mark.interop,)  # The packages need a separate environment.

# --- The directory -------------------------------------------------------------------------------------------------


def stock(place: Path) -> Path:
    """Create the files of all runs: images with and without splits, and a dataset."""
    with_splits(place / "pets", train=6, validation=4)
    tree(place / "animals", {"cats": 20, "dogs": 20, "birds": 2})
    converted(place / "pets", place / "out")
    write_audit(place)
    (place / "numbers.txt").write_text("".join(f"{number}\n" for number in range(8)))
    (place / "mine.py").write_text(OWN_CODE)
    return place


def write_audit(place: Path) -> None:
    """Write an audit of the dataset `out` that doubts the label of the first training record."""
    data = open_dataset(place / "out")
    records = data.records("train")
    (place / "audited").mkdir(exist_ok=True)
    (place / "audited/audit.json").write_text(json.dumps({"digest": data.digest}))
    doubt = ListedIssue(
        kind="label", rank=1, score=0.9, split="train", record=0, path=records.paths[0],
        sha256=records.source_sha256[0].tobytes().hex(), given_label="", proposed_label="", twin="", twin_sha256="",
        reason="",
    )  # fmt: skip
    issues.write(place / "audited", [doubt])


def folds_of(place: Path) -> None:
    """Write a table that assigns the records of the dataset `out` to two folds."""
    lines = [
        f"{split},{number},{number % 2 + 1}"
        for split, count in (("train", 12), ("validation", 8))
        for number in range(count)
    ]
    (place / "folds.csv").write_text("\n".join(["split,record,fold", *lines]) + "\n")


def manifest(place: Path) -> None:
    """Create a manifest with unusual column names. An owner has images in both splits."""
    (place / "pool").mkdir()
    lines = ["file,kind,part,owner"]
    for number in range(8):
        (place / f"pool/{number}.jpg").write_bytes(image(number))
        lines.append(f"{number}.jpg,{'cd'[number % 2]},{'train' if number < 4 else 'val'},{number % 3}")
    (place / "table.csv").write_text("\n".join(lines) + "\n")


def one_hot(place: Path) -> None:
    """Create a manifest with a column per class, in cp1252."""
    (place / "pool").mkdir()
    lines = ["path,café,thé"]
    for number in range(8):
        (place / f"pool/{number}.jpg").write_bytes(image(number))
        lines.append(f"{number}.jpg,{number % 2},{1 - number % 2}")
    (place / "table.csv").write_text("\n".join(lines) + "\n", encoding="cp1252")


def flat(place: Path) -> None:
    """Create twelve files with the class in their names; two are not images."""
    (place / "flat").mkdir()
    for number in range(10):
        (place / f"flat/a{number}-{'cat' if number % 2 else 'dog'}.jpg").write_bytes(image(number))
    for number in range(2):
        (place / f"flat/b{number}-cat.jpg").write_text("no image")


def pictures(place: Path) -> None:
    """Create images of three sizes in two classes, and a large image."""
    for name in ("cats", "dogs"):
        (place / "pictures/train" / name).mkdir(parents=True)
        for number, size in enumerate([(12, 9), (40, 30), (64, 20)]):
            (place / f"pictures/train/{name}/{number}.jpg").write_bytes(image(f"{name}{number}", size=size))
    (place / "pictures/train/dogs/large.jpg").write_bytes(image("large", size=(200, 160)))


def odd(place: Path) -> None:
    """Create images; one has other bytes before its start, and one exists twice."""
    tree(place / "odd", {"cats": 8, "dogs": 8})
    (place / "odd/cats/junk.jpg").write_bytes(b"junk" * 4 + image("junk", size=(40, 30)))
    shutil.copy(place / "odd/cats/000.jpg", place / "odd/cats/copy.jpg")


def alike(place: Path) -> None:
    """Create images of 64 x 64 smooth pixels; three of them exist again at half of the size."""
    tree(place / "alike", {"train/cats": 4, "train/dogs": 4})
    for number in range(3):
        noise = Image.open(io.BytesIO(image(number, "PNG", size=(8, 8))))
        folder = place / "alike/train/cats"
        noise.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"picture{number}.png")
        noise.resize((64, 64), Image.Resampling.BICUBIC).resize((32, 32)).save(folder / f"picture{number}_half.png")


def damaged(place: Path) -> None:
    """Create images; one is damaged between its valid header and its valid end."""
    tree(place / "damaged", {"train/cats": 4, "train/dogs": 4})
    data = image("damaged", size=(64, 64))
    (place / "damaged/train/cats/damaged.jpg").write_bytes(data[:1000] + b"\xff\xff\x00\xff" + data[1004:])


def scans(place: Path) -> None:
    """Create 16-bit images that use 12 bits, and photographs with the artist's name."""
    levels = np.linspace(0, 4095, 12 * 9).reshape(9, 12).astype(np.uint16)
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    for name in ("cats", "dogs"):
        (place / f"scans/train/{name}").mkdir(parents=True)
        Image.fromarray(levels).save(place / f"scans/train/{name}/scan.png")
        (place / f"scans/train/{name}/photograph.jpg").write_bytes(image(name, exif=exif.tobytes()))


def begun(place: Path) -> None:
    """Create an interrupted conversion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module.index, "join_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            converted(place / "pets", place / "made")
    assert (place / "made.partial").exists()


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def grown(place: Path) -> None:
    """Add an image to the source of the dataset."""
    (place / "pets/train/cats/new.jpg").write_bytes(image("new"))


def parts(place: Path) -> None:
    """Create directories with names that are not splits; one of them must be left out."""
    for number, name in enumerate(("one", "two", "spare")):
        tree(place / "parts", {f"{name}/cats": 3 + number, f"{name}/dogs": 3 + number})


class OldInfo(zipfile.ZipInfo):
    """A member with a name in a local encoding that is not declared, as in older programs."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("cp949"), 0


def korean_zip(place: Path) -> None:
    with zipfile.ZipFile(place / "korean.zip", "w") as archive:
        for name in ("고양이", "개"):
            for number in range(6):
                archive.writestr(OldInfo(f"{name}/{number}.jpg"), image(f"{name}{number}"))


def deep(place: Path) -> None:
    """Create 16-bit images that use 12 bits, and an image with a GPS position."""
    for number, name in enumerate(("cats", "dogs")):
        (place / f"deep/train/{name}").mkdir(parents=True)
        for i in range(3):
            levels = np.random.default_rng(6 * number + i).integers(0, 4096, (9, 12)).astype(np.uint16)
            Image.fromarray(levels).save(place / f"deep/train/{name}/{i}.png")
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    (place / "deep/train/cats/gps.jpg").write_bytes(image("gps", exif=exif))


def dask_cluster(place: Path) -> None:
    """Start a cluster that ends with the tests."""
    atexit.register(Cluster(place / "dask", workers=1).close)


def planes(number: int) -> np.ndarray:
    """Return raw pixels, u8[3 6 8] (channels, height, width)."""
    return np.random.default_rng(number).integers(0, 256, (3, 6, 8)).astype(np.uint8)


def homemade(place: Path) -> None:
    """Create TFRecords with text labels in Latin-1 and raw pixels."""
    from foreign_records import example, write

    size = {"height": 6, "width": 8, "depth": 3}
    values = [
        {"image_raw": planes(n).tobytes(), "label": ["café", "dog"][n % 2].encode("latin-1"), **size} for n in range(6)
    ]
    write(place / "homemade/train-00000-of-00001", map(example, values))


def relabelled(place: Path) -> None:
    (place / "relabel.csv").write_text("path,label\ntrain/cats/000.jpg,dogs\n")
    decide(place / "decisions.csv", (place / "pets/train/dogs/001.jpg").read_bytes())


def decide(table: Path, data: bytes) -> None:
    """Write a decision that leaves out an image."""
    table.write_text(f"sha256,decision\n{hashlib.sha256(data).hexdigest()},drop\n")


def theirs(place: Path) -> None:
    """Create TFRecords with two images and two labels each; one second image is damaged."""
    (place / "theirs").mkdir()
    from foreign_records import example, write

    values = [
        {"photo": image(n), "scan": image(n + 50) if n else b"\xff\xd8\xff", "target": 3 + n % 2, "other": n}
        for n in range(8)
    ]
    write(place / "theirs/train-00000-of-00001", map(example, values))
    decide(place / "decisions.csv", image(51))


def adopted(place: Path) -> None:
    converted(place / "pets", place / "adopted")


def large(place: Path) -> None:
    """Create a dataset of large images, so that decoding takes most of the time."""
    for split in ("train", "validation"):
        for number, name in enumerate(("cats", "dogs")):
            (place / f"large/{split}/{name}").mkdir(parents=True)
            (place / f"large/{split}/{name}/0.jpg").write_bytes(image(f"{split}{number}", size=(900, 700)))
    converted(place / "large", place / "large_out")


def csvs(place: Path) -> None:
    (place / "table").mkdir()
    (place / "table/train.csv").write_text("label,0_0\ncats,1\n")


def judged(place: Path) -> None:
    """Create a dataset of colored images, and a run with a model that recognizes the colors."""
    from judged_runs import judged_pair  # Imported here, because it loads TensorFlow.

    shutil.rmtree(place / "out")
    judged_pair(place)
    write_audit(place)


def unlabeled(place: Path) -> None:
    """Create TFRecords with two images each, a green and a red one, and no label."""
    from foreign_records import example, write
    from judged_runs import photo

    write(place / "theirs.tfrec", [example({"first": photo("greens", n), "second": photo("reds", n)}) for n in (1, 2)])


def exported(place: Path) -> None:
    judged(place)
    (place / "served").mkdir()
    (place / "served/export.json").write_text("{}")
    (place / "served/old").write_text("")


def pretrained(place: Path) -> None:
    """Save the weights of a small network."""
    import keras  # Imported here, because it takes seconds.

    from trainers.models import networks

    keras.utils.set_random_seed(0)
    networks.cnn((32, 32, 3), filters=SMALL).save_weights(place / "small.weights.h5")


def csvs_of_pixels(place: Path) -> None:
    from tfrecord_tools.to_csv import CsvConfig, to_csv

    to_csv(CsvConfig(src=str(place / "pets"), out=str(place / "csv"), image_size=16, workers=1), log=lambda line: None)


# --- Checks ----------------------------------------------------------------------------------------------------------


def config(name: str, value: Any, out: str = "made") -> Check:
    """Return a check of a setting of a dataset."""
    return lambda e: e.json(f"{out}/convert.json", "config", name) == value


def setting(path: str, value: Any) -> Check:
    """Return a check of a setting of a training."""
    return lambda e: e.json("run/settings.json", *path.split(".")) == value


def says(text: str) -> Check:
    return lambda e: text in e.out + e.err


def is_there(*paths: str) -> Check:
    return lambda e: all(map(e.has, paths))


def records(e: Ended, out: str = "made") -> list[dict[str, Any]]:
    return e.rows(f"{out}/records.parquet")


def sizes(e: Ended) -> set[tuple[int, int]]:
    return {(row["width"], row["height"]) for row in records(e)}


def splits(e: Ended, out: str = "made") -> dict[str, int]:
    return {name: split["records"] for name, split in e.json(f"{out}/convert.json", "splits").items()}


def has_planes(e: Ended, order: str) -> bool:
    """Return whether the raw pixels were read in this order."""
    pixels = [planes(n).transpose(1, 2, 0) if order == "chw" else planes(n).reshape(6, 8, 3) for n in range(6)]
    return {np.asarray(one).tobytes() for one in e.images("made")} == {one.tobytes() for one in pixels}


def groups_stay_together(e: Ended) -> bool:
    of_group: dict[str, set[str]] = {}
    for row in records(e):
        of_group.setdefault(row["path"][-5], set()).add(row["split"])
    return len(of_group) == 10 and all(len(splits) == 1 for splits in of_group.values())


def lines_of_csv(e: Ended, **settings: Any) -> dict[str, bytes]:
    """Return the files that `to_csv` writes in Python with the run's settings, except those given here."""
    from tfrecord_tools.to_csv import CsvConfig, to_csv

    given: dict[str, Any] = {"src": str(e.place / "animals"), "out": str(e.place / "again"), "image_size": 8}
    given |= {"classes": ["cats", "dogs"], "color": "gray", "resize_mode": "center_crop", "seed": 5, "workers": 1}
    given |= {"validation_fraction": 0.5, "test_fraction": 0.25, "group_regex": GROUP, "overwrite": True}
    to_csv(CsvConfig(**given | settings), log=lambda line: None)
    return contents(e.place / "again")


def decides_csv(**instead: Any) -> Check:
    """Return a check that the CSVs equal those from Python, and would differ with another setting."""
    return lambda e: contents(e.place / "csv") == lines_of_csv(e) != lines_of_csv(e, **instead)


def draws_panels(e: Ended) -> bool:
    """Return whether the picture equals that of the same settings in Python."""
    from tfrecord_tools import preview
    from tfrecord_tools.augment_config import PRESETS
    from tfrecord_tools.images import preparation

    settings: dict[str, Any] = {"image": "pets/train/cats/000.jpg", "grid": "2x3", "image_size": 24, "fit": "pad"}
    chosen = preview.PreviewConfig(**settings, seed=3, augment="strong")
    encoded = preparation.prepare((e.place / settings["image"]).read_bytes()).data
    expected = preview.panels(encoded, chosen, PRESETS["strong"])
    return bool((e.panels("shown.png", 24) == expected).all())


def shows_record(e: Ended) -> bool:
    from tfrecord_tools.decoding import decoder

    record = open_dataset(e.place / "out").records("validation")[5]
    return bool((e.panels("preview.png", 20) == decoder.decode(record["image"], 20, 0.5)).all())


def drawings(e: Ended) -> bool:
    from tfrecord_tools import sample

    for seed in (4, 0):
        sample.draw_sample(str(e.place / f"seed{seed}"), images=8, seed=seed)
    return contents(e.place / "drawn") == contents(e.place / "seed4") != contents(e.place / "seed0")


def unchanged(e: Ended) -> bool:
    """Return whether the command succeeded, for flags that never change the output."""
    return e.code == 0


GROUP = r"(\d)\.\w+$"

# --- The runs of tfrecord_tools --------------------------------------------------------------------------------------

CONVERT = [
    Run(
        name="splits",
        flags={
            "--src=animals": lambda e: {row["path"].split("/")[0] for row in records(e)} == {"cats", "dogs"},
            "--out=made": is_there("made/card.html"),
            "--classes=cats,dogs": says("left out, not in --classes: birds (2 files)"),
            "--validation_fraction=0.5": lambda e: splits(e)["validation"] > 10,  # The default gives 8.
            "--test_fraction=0.25": lambda e: splits(e)["test"] > 0,  # By default there is no test split.
            f"--group_regex={GROUP}": groups_stay_together,
            "--seed=7": config("seed", 7),
            "--shards=6": lambda e: e.count("made/*.tfrecord-*") == 6,  # The default is one shard per split.
            "--workers=2": unchanged,
        },
    ),
    Run(
        name="squares",
        before=pictures,
        flags={
            "--src=pictures": lambda e: e.json("made/convert.json", "name") == "pictures",
            "--out=made": is_there("made/convert.json"),
            "--resize=32": lambda e: sizes(e) == {(32, 32)},
            "--resize_mode=exact": lambda e: sizes(e) == {(32, 32)},
            "--upscale": lambda e: len(records(e)) == 6 and sizes(e) == {(32, 32)},  # Without the flag, (12, 9) stays.
            "--store=png": lambda e: {row["type"] for row in records(e)} == {"PNG"},
            "--max_pixels=20000": lambda e: "--max_pixels=20,000" in e.rows("made/rejected.csv")[0]["reason"],
            "--max_bad=0.5": lambda e: len(e.rows("made/rejected.csv")) == 1,  # The default refuses 1 of 7 files.
            "--shard_bytes=2048": lambda e: e.count("made/*.tfrecord-*") > 2,
        },
    ),
    Run(
        name="longer side",
        before=pictures,
        flags={
            "--src=pictures": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--resize=16": lambda e: (16, 12) in sizes(e),
            "--resize_mode=longer": lambda e: (16, 5) in sizes(e),  # The original is 64 x 20.
            "--store=jpeg": lambda e: {row["type"] for row in records(e)} == {"JPEG"},
            "--quality=10": lambda e: e.images("made")[0].quantization[0][0] > 50,
        },
    ),
    Run(
        name="levels and metadata",
        before=scans,
        flags={
            "--src=scans": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--depth_range=0,4095": lambda e: {i.getextrema() for i in e.images("made") if i.mode == "L"} == {(0, 255)},
            "--strip_metadata": lambda e: all(not i.getexif() for i in e.images("made") if i.mode == "RGB"),
        },
    ),
    Run(
        name="raw pixels",
        before=pictures,
        flags={
            "--src=pictures": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--resize=8": lambda e: sizes(e) == {(8, 8)},
            "--resize_mode=center_crop": config("resize_mode", "center_crop"),
            "--store=raw": lambda e: len(open_dataset(e.place / "made").records("train")[0]["image"]) == 8 * 8 * 3,
        },
    ),
    Run(
        name="headers only",
        before=damaged,
        flags={
            "--src=damaged": lambda e: len(records(e)) == 9,
            "--out=made": is_there("made/convert.json"),
            "--verify=header": lambda e: "train/cats/damaged.jpg" in {row["path"] for row in records(e)},
        },
    ),
    Run(
        name="bad files end it",
        before=damaged,
        code=1,
        flags={
            "--src=damaged": says("damaged/train/cats/damaged.jpg: "),
            "--out=made": lambda e: not e.has("made"),
            "--on_bad_image=fail": says("or pass --on_bad_image=skip."),
        },
    ),
    Run(
        name="repair",
        before=odd,
        flags={
            "--src=odd": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--on_bad_image=repair": lambda e: "cats/junk.jpg" in {row["path"] for row in records(e)},
            "--duplicates=drop": lambda e: len(records(e)) == 17,  # One of 18 images is a duplicate.
            "--validation_fraction=0": lambda e: splits(e) == {"train": 17},
        },
    ),
    Run(
        name="no near-duplicates",
        before=alike,
        flags={
            "--src=alike": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--near_duplicates=drop": lambda e: len(records(e)) == 11,  # Three of 14 images are smaller copies.
            "--near_distance=4": lambda e: e.json("made/convert.json", "near_duplicates", "distance") == 4,
        },
    ),
    Run(
        name="near-duplicates together",
        before=alike,
        flags={
            "--src=alike": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--near_duplicates=group": lambda e: sum(row["group"] != 0 for row in records(e)) == 6,  # Three pairs.
            "--validation_fraction=0.5": lambda e: splits(e).keys() == {"train", "validation"},
        },
    ),
    Run(
        name="no duplicates",
        before=odd,
        code=1,
        flags={
            "--src=odd": says("cats/copy.jpg"),
            "--out=made": lambda e: not e.has("made"),
            "--duplicates=fail": says("error: --duplicates=fail: "),
            "--max_bad=0.5": says("error: --duplicates=fail: "),  # Without the flag, junk.jpg is the error.
        },
    ),
    Run(
        name="names of files",
        before=flat,
        flags={
            "--src=flat": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            r"--label_regex=-(\w+)\.": lambda e: e.text("made/label.labels.txt") == "cat\ndog\n",
            "--max_bad=0.2": lambda e: len(e.rows("made/rejected.csv")) == 2,
        },
    ),
    Run(
        name="manifest",
        before=manifest,
        flags={
            "--src=pool": lambda e: len(records(e)) == 8,
            "--out=made": is_there("made/convert.json"),
            "--manifest=table.csv": lambda e: len(records(e)) == 8,
            "--path_column=file": lambda e: {row["path"] for row in records(e)} == {f"{n}.jpg" for n in range(8)},
            "--label_column=kind": lambda e: e.text("made/label.labels.txt") == "c\nd\n",
            "--split_column=part": lambda e: splits(e) == {"train": 4, "validation": 4},
            "--group_column=owner": says("3 groups have images in several of the source's own splits"),
        },
    ),
    Run(
        name="columns of classes",
        before=one_hot,
        flags={
            "--src=pool": lambda e: len(records(e)) == 8,
            "--out=made": is_there("made/convert.json"),
            "--manifest=table.csv": lambda e: len(records(e)) == 8,
            "--label_columns=café,thé": lambda e: sorted(row["label"] for row in records(e)) == [0] * 4 + [1] * 4,
            "--manifest_encoding=cp1252": lambda e: e.text("made/label.labels.txt") == "café\nthé\n",
        },
    ),
    Run(
        name="labels",
        before=relabelled,
        flags={
            "--src=pets": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--relabel=relabel.csv": lambda e: e.json("made/convert.json", "decided", "relabeled") == 1,
            "--decisions=decisions.csv": lambda e: e.json("made/convert.json", "decided", "dropped") == 1,
        },
    ),
    Run(
        name="dry",
        flags={"--src=pets": says("cats"), "--dry_run": lambda e: "shards" in e.out and not e.has("made")},
    ),
    Run(
        name="replace",
        flags={
            "--src=animals": lambda e: e.json("out/convert.json", "name") == "animals",
            "--out=out": lambda e: len(records(e, "out")) == 42,
            "--overwrite": lambda e: len(records(e, "out")) == 42,
            "--validation_fraction=0.5": config("validation_fraction", 0.5, "out"),
        },
    ),
    Run(
        name="grow",
        before=grown,
        flags={
            "--src=pets": lambda e: len(records(e, "out")) == 21,
            "--out=out": lambda e: len(records(e, "out")) == 21,
            "--update": says(" unchanged)"),
        },
    ),
    Run(
        name="anew",
        before=begun,
        flags={
            "--src=pets": is_there("made/convert.json"),
            "--out=made": lambda e: not e.has("made.partial"),
            "--restart": config("shards", 3),  # Without the flag, a different plan is refused.
            "--shards=3": config("shards", 3),
        },
    ),
    Run(
        name="parts",
        before=parts,
        flags={
            "--src=parts": is_there("made/convert.json"),
            "--out=made": is_there("made/convert.json"),
            "--split=train=one": lambda e: splits(e)["train"] == 6,
            "--split=validation=two": lambda e: splits(e)["validation"] == 8,
            "--exclude=spare": lambda e: "spare" not in e.out,
        },
    ),
    Run(
        name="archive",
        before=korean_zip,
        flags={
            "--src=korean.zip": lambda e: len(records(e)) == 12,
            "--out=made": is_there("made/convert.json"),
            "--zip_encoding=cp949": lambda e: e.text("made/label.labels.txt") == "개\n고양이\n",
        },
    ),
    Run(
        name="levels",
        before=deep,
        flags={
            "--src=deep": lambda e: len(records(e)) == 7,
            "--out=made": is_there("made/convert.json"),
            "--depth_range=0,4095": lambda e: all(np.asarray(one).max() > 200 for one in e.images("made")),  # Not 15.
            "--strip_metadata": lambda e: not any(0x8825 in one.getexif() for one in e.images("made")),
        },
    ),
    Run(
        name="Beam",
        marks=INTEROP,
        flags={
            "--src=pets": lambda e: len(records(e)) == 20,
            "--out=made": is_there("made/convert.json"),
            "--engine=beam": is_there("made/convert.json"),
            "--beam_options=--direct_num_workers=1": is_there("made/convert.json"),
        },
    ),
    Run(
        name="Dask",
        before=dask_cluster,
        marks=INTEROP,
        flags={
            "--src=pets": lambda e: len(records(e)) == 20,
            "--out=made": is_there("made/convert.json"),
            "--dask=dask/cluster.json": says(": 1 worker\n"),
        },
    ),
]

ADOPT = [
    Run(
        name="keys",
        before=theirs,
        flags={
            "--records=theirs": lambda e: len(records(e)) == 8,
            "--out=made": is_there("made/convert.json"),
            "--image_key=scan": lambda e: e.json("made/convert.json", "keys", "image") == "scan",
            "--label_key=target": lambda e: e.json("made/convert.json", "keys", "label") == "target",
            "--label_offset=3": lambda e: e.json("made/convert.json", "keys", "label_offset") == 3,
            "--classes=cats,dogs": lambda e: (
                [c["name"] for c in e.json("made/convert.json", "classes")] == ["cats", "dogs"]
            ),
            "--decisions=decisions.csv": lambda e: e.json("made/convert.json", "decided", "dropped") == 1,
            "--max_bad=0.2": lambda e: len(e.rows("made/rejected.csv")) == 2,  # One of 8 records is bad, one dropped.
            "--workers=1": unchanged,
        },
    ),
    Run(
        name="splits",
        before=adopted,
        flags={
            "--split=train=out/*-validation.*": lambda e: splits(e, "adopted")["train"] == 8,
            "--split=test=out/*-train.*": lambda e: splits(e, "adopted")["test"] == 12,
            "--out=adopted": config("adopted", True, "adopted"),
            "--overwrite": config("adopted", True, "adopted"),
            "--verify=header": lambda e: e.json("adopted/convert.json", "images", "verified") == "header",
        },
    ),
]

ADOPT += [
    Run(
        name=f"pixels {order}",
        before=homemade,
        flags={
            "--records=homemade": lambda e: len(records(e)) == 6,
            "--out=made": is_there("made/convert.json"),
            "--rewrite": lambda e: {row["type"] for row in records(e)} == {"PNG"},
            "--label_encoding=latin-1": lambda e: e.text("made/label.labels.txt") == "café\ndog\n",
            f"--pixel_order={order}": functools.partial(has_planes, order=order),
        },
    )
    for order in ("chw", "hwc")
]

EXPORT = [
    Run(
        name="a bucket",
        flags={
            "--tfrecords=file://PLACE/out": lambda e: e.count("copies/*/url") == 1,
            "--out=images": lambda e: contents(e.place / "images") == contents(e.place / "pets"),
            "--cache_dir=copies": lambda e: e.count("copies/*/records.parquet") == 1,
            "--cache_bytes=1": lambda e: not e.count("copies/*/*/*.tfrecord*"),
        },
    ),
    Run(
        name="webdataset",
        flags={
            "--to=webdataset": is_there("tars"),
            "--tfrecords=out": says("12 images of train"),
            "--out=tars": lambda e: e.count("tars/*.tar") > 0,
            "--shard_bytes=4096": lambda e: e.count("tars/train-*.tar") > 2,  # The default is one.
        },
    ),
    Run(
        name="parquet",
        flags={
            "--to=parquet": lambda e: "dataset_info:" in e.text("made/README.md") and e.has("made/croissant.json"),
            "--tfrecords=out": says("12 images of train"),
            "--out=made": lambda e: e.count("made/data/validation-*.parquet") > 0,
            "--shard_bytes=4096": lambda e: e.count("made/data/train-*.parquet") > 1,  # The default is one.
        },
    ),
    Run(
        name="array_record",
        flags={
            "--to=array_record": lambda e: e.json("made/dataset_info.json", "fileFormat") == "array_record",
            "--tfrecords=out": says("12 images of train"),
            "--out=made": lambda e: e.count("made/*-validation.array_record-00000-of-*") == 1,
            "--shard_bytes=4096": lambda e: e.count("made/*-train.array_record-*") > 1,  # The default is one.
        },
    ),
    Run(
        name="folder",
        flags={
            "--to=folder": lambda e: contents(e.place / "images") == contents(e.place / "pets"),
            "--tfrecords=out": is_there("images/train/cats"),
            "--out=images": is_there("images/validation"),
        },
    ),
]

TRANSFER = [Run(name="copy", arguments=["out", "copy"])]

COPIED: dict[str, Check] = {
    "--cache_dir=copies": lambda e: e.count("copies/*/records.parquet") == 1,
    "--cache_bytes=1": lambda e: e.count("copies/*/*/state") and not e.count("copies/*/*/*.tfrecord*"),
}
IN_A_BUCKET = {"--tfrecords=file://PLACE/out": lambda e: e.count("copies/*/url") == 1} | COPIED
TRAINED_FROM_A_BUCKET = Run(
    name="a bucket",
    marks=SLOW,
    flags=IN_A_BUCKET
    | {
        "--run=run": lambda e: set(e.rows("run/history.csv")[0]) > {"fetched_mb", "fetch_requests", "cache_hits"},
        "--backbone=CNN": says("model: CNN"),
        "--image_size=32": says(", 32 px, "),
        "--weights=none": setting("recipe.model.weights", "none"),
        "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
    },
)
VERIFY = [
    Run(
        name="a bucket",
        arguments=["file://PLACE/out"],
        flags={"--cache_dir=copies": COPIED["--cache_dir=copies"], "--nodecode": says("images were not decoded")},
    ),
    Run(name="images", arguments=["out"], flags={"--workers=1": says("every image decodes in TensorFlow")}, marks=SLOW),
    Run(
        name="bytes", arguments=["out"], flags={"--nodecode": says("images were not decoded"), "--workers=2": unchanged}
    ),
]

SHOW = [
    Run(name="a bucket", arguments=["file://PLACE/out"]),
    Run(
        name="grid",
        arguments=["out"],
        flags={"--records=3": says("3"), "--grid=grid.png": is_there("grid.png")},
    ),
]

BENCH = [
    Run(
        name="a bucket",
        marks=SLOW,
        arguments=["file://PLACE/out"],
        flags=COPIED | {"--seconds=0.1": says("bottleneck:"), "--image_size=16": says("16 px")},
    ),
    Run(
        name="decoding",
        marks=SLOW,
        before=large,
        arguments=["large_out"],
        flags={
            "--split=validation": says("2 records of validation"),
            "--image_size=16": says("16 px"),
            "--batch_size=4": says("batches of 4"),
            "--augment=none": lambda e: "augmenting" not in e.out,
            "--crop=0.5": says("--resize=32 --resize_mode=center_crop"),
            "--fit=crop": says("--resize=32 --resize_mode=center_crop"),
            "--seconds=0.2": says("bottleneck: decoding"),
        },
    ),
    Run(
        name="cached",
        marks=SLOW,
        arguments=["out"],
        flags={
            "--cached": says("reading from memory"),
            "--augment=reference_transfer,rotation_range=5": says("augmenting"),
            "--seconds=0.2": says("bottleneck: "),
            "--image_size=16": says("16 px"),
        },
    ),
]

PREVIEW = [
    Run(
        name="a bucket",
        flags=IN_A_BUCKET | {"--record=5": is_there("preview.png")},
    ),
    Run(
        name="record",
        flags={
            "--tfrecords=out": is_there("preview.png"),
            "--split=validation": shows_record,
            "--record=5": shows_record,
            "--augment=none": shows_record,
            "--image_size=20": shows_record,
            "--crop=0.5": shows_record,
        },
    ),
    Run(
        name="file",
        marks=SLOW,
        flags={
            "--image=pets/train/cats/000.jpg": draws_panels,
            "--augment=strong": draws_panels,
            "--grid=2x3": lambda e: Image.open(e.place / "shown.png").size == (3 * 28 + 4, 2 * 28 + 4),
            "--image_size=24": draws_panels,
            "--fit=pad": draws_panels,
            "--seed=3": draws_panels,
            "--out=shown.png": is_there("shown.png"),
        },
    ),
]

TO_CSV = [
    Run(
        name="images",
        flags={
            "--src=animals": is_there("csv/train.csv"),
            "--out=csv": is_there("csv/train.csv"),
            "--image_size=8": lambda e: len(e.rows("csv/train.csv")[0]) == 1 + 64,
            "--color=gray": lambda e: len(e.rows("csv/train.csv")[0]) == 1 + 64,
            "--resize_mode=center_crop": decides_csv(resize_mode="exact"),
            "--seed=5": decides_csv(seed=0),
            "--classes=cats,dogs": lambda e: {row["label"] for row in e.rows("csv/train.csv")} == {"cats", "dogs"},
            "--validation_fraction=0.5": decides_csv(validation_fraction=None),
            "--test_fraction=0.25": is_there("csv/test.csv"),
            f"--group_regex={GROUP}": decides_csv(group_regex=None),
            "--workers=2": unchanged,
        },
    ),
    Run(
        name="names of files",
        before=lambda place: (flat(place), csvs(place)),
        flags={
            "--src=flat": lambda e: len(e.rows("table/train.csv")) + len(e.rows("table/validation.csv")) == 10,
            "--out=table": is_there("table/train.csv"),
            "--image_size=4": lambda e: len(e.rows("table/train.csv")[0]) == 1 + 4 * 4 * 3,
            r"--label_regex=-(\w+)\.": lambda e: {row["label"] for row in e.rows("table/train.csv")} == {"cat", "dog"},
            "--max_bad=0.2": says("skipped: b1-cat.jpg"),
            "--overwrite": lambda e: len(e.rows("table/train.csv")) > 1,
        },
    ),
    Run(
        name="parts",
        before=parts,
        flags={
            "--src=parts": is_there("csv/train.csv"),
            "--image_size=4": is_there("csv/train.csv"),
            "--split=train=one": lambda e: len(e.rows("csv/train.csv")) == 6,
            "--split=test=two": lambda e: len(e.rows("csv/test.csv")) == 8,
            "--exclude=spare": lambda e: "spare" not in e.out,
        },
    ),
    Run(
        name="archive",
        before=korean_zip,
        flags={
            "--src=korean.zip": is_there("csv/train.csv"),
            "--image_size=4": is_there("csv/train.csv"),
            "--zip_encoding=cp949": lambda e: {row["label"] for row in e.rows("csv/train.csv")} == {"개", "고양이"},
        },
    ),
    Run(
        name="columns of classes",
        before=one_hot,
        flags={
            "--src=pool": is_there("csv/train.csv"),
            "--image_size=4": is_there("csv/train.csv"),
            "--manifest=table.csv": is_there("csv/train.csv"),
            "--label_columns=café,thé": lambda e: {row["label"] for row in e.rows("csv/train.csv")} == {"café", "thé"},
            "--manifest_encoding=cp1252": lambda e: (
                {row["label"] for row in e.rows("csv/train.csv")} == {"café", "thé"}
            ),
        },
    ),
    Run(
        name="manifest",
        before=manifest,
        flags={
            "--src=pool": is_there("csv/train.csv"),
            "--image_size=4": is_there("csv/train.csv"),
            "--manifest=table.csv": lambda e: len(e.rows("csv/train.csv")) == 4,
            "--path_column=file": lambda e: len(e.rows("csv/train.csv")) == 4,
            "--label_column=kind": lambda e: {row["label"] for row in e.rows("csv/train.csv")} == {"c", "d"},
            "--split_column=part": lambda e: len(e.rows("csv/validation.csv")) == 4,
            "--group_column=owner": unchanged,  # It affects automatic splits only, and the table has splits.
        },
    ),
]

SAMPLE = [
    Run(
        name="drawings",
        flags={
            "--out=drawn": is_there("drawn/train"),
            "--images=8": lambda e: e.count("drawn/*/*/*.jpg") == 8,
            "--seed=4": drawings,
        },
    )
]

# --- The runs of trainers --------------------------------------------------------------------------------------------

# A short training with as many flags as can be combined. Flags of single trainers are added below.
TRAINING: dict[str, Check] = {
    "--tfrecords=out": setting("dataset.name", "pets"),
    "--run=run": is_there("run/metrics.json", "run/model.keras"),
    "--records=numbers.txt": says("--records=numbers.txt: 8 of 12 training records"),
    "--crop=0.5": setting("recipe.crop", 0.5),
    "--fit=crop": setting("recipe.crop", 0.5),
    "--seed=3": setting("flags.seed", 3),
    "--deterministic": setting("flags.deterministic", True),
    "--audit=audited": lambda e: len(e.json("run/settings.json", "flags", "issues_sha256")) == 64,
    "--drop_issues=label": says("--drop_issues=label: leaves out 1 of 8 training records"),
    "--checkpoint_every=1": setting("other.checkpoint_every", 1),
    "--precision=float32": setting("flags.precision", "float32"),
    "--strategy=none": says("device: "),  # The same as auto on CPUs.
    "--log=tensorboard": lambda e: e.count("run/tensorboard/*/train/*") > 0,
    "--tensorboard": lambda e: e.count("run/tensorboard/*/train/*") > 0,  # The same as --log=tensorboard.
    "--log_group=tries": lambda e: len(e.json("run/trackers.json", "id")) == 16,  # TensorBoard has no groups.
    "--batch_size=4": says("2 steps of 4 images"),
    "--optimizer=sgd": setting("recipe.phases.0.optimizer", "sgd"),
    "--optimizer_kwargs=momentum=0.5": setting("recipe.phases.0.optimizer_kwargs", {"momentum": 0.5}),
    "--schedule=cosine": setting("recipe.phases.0.schedule", "cosine"),
    "--warmup_steps=1": setting("recipe.phases.0.warmup_steps", 1),
    "--early_stopping=2": setting("recipe.early_stopping", 2),
    "--label_smoothing=0.1": setting("recipe.label_smoothing", 0.1),
    "--class_weights=balanced": setting("recipe.class_weights", "balanced"),
    "--backbone=CNN": says("model: CNN("),
    "--backbone_kwargs=filters=(4,8)": setting("recipe.model.backbone_kwargs.filters", list(SMALL)),
    "--image_size=32": says(", 32 px, "),
    "--scaling=tf": setting("recipe.model.scaling", "tf"),
    "--custom_objects=mine.py": lambda e: len(e.json("run/settings.json", "weights", "sha256 of mine.py")) == 64,
}
ONE_PHASE: dict[str, Check] = {
    "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
    "--learning_rate=2e-3": setting("recipe.phases.0.learning_rate", 2e-3),
}
TWO_PHASES: dict[str, Check] = {
    "--epochs=1,1": lambda e: [row["phase"] for row in e.rows("run/history.csv")] == ["head", "finetune"],
    "--learning_rate=2e-3,1e-3": setting("recipe.phases.1.learning_rate", 1e-3),
}
OF_IMAGES: dict[str, Check] = {
    "--mixup=0.3": setting("recipe.mixup", 0.3),
    "--cutmix=0.2": setting("recipe.cutmix", 0.2),
    "--cache=memory": says("cache: 7 decoded images"),
    "--order=blocks": setting("flags.order", "blocks"),
    "--block=4": setting("flags.block", 4),
}
# The reference recipe, and flags that exclude those of `TRAINING`. An epoch always has 100 steps.
REFERENCE: dict[str, Check] = {
    "--recipe=reference": setting("flags.recipe", "reference"),
    "--tfrecords=out": setting("dataset.name", "pets"),
    "--run=run": is_there("run/metrics.json"),
    "--schedule=plateau": setting("recipe.phases.0.schedule", "plateau"),
    "--patience=1": setting("recipe.phases.0.patience", 1),
    "--batch_size=2": setting("recipe.batch_size", 2),
    "--backbone=CNN": says("model: CNN("),
    "--backbone_kwargs=filters=(4,8)": setting("recipe.model.backbone_kwargs.filters", list(SMALL)),
    "--scaling=caffe": setting("recipe.model.scaling", "caffe"),
    "--image_size=24x32": says(", 24x32 px, "),
    "--fit=pad": setting("flags.fit", "pad"),
}
REFERENCE_OF_IMAGES: dict[str, Check] = {
    "--order=balanced": setting("flags.order", "balanced"),
    "--class_weights=cats:1,dogs:2": setting("flags.class_weights", {"cats": 1.0, "dogs": 2.0}),
    "--probe": says("probe: "),
}


def trained_before(trainer: str, epochs: Any) -> Callable[[Path], object]:
    """Return a function that makes a finished run `old` of a trainer."""

    def train(place: Path) -> None:
        pretrained(place)
        options = {"tfrecords": place / "out", "run": place / "old", "batch_size": 4, "epochs": epochs}
        model = {"backbone": "CNN", "backbone_kwargs": {"filters": SMALL}, "image_size": 32}
        weights = {} if trainer == "scratch" else {"weights": place / "small.weights.h5"}
        features = {"features": place / "kept"} if trainer == "features" else {}
        getattr(trainers, trainer)(**options, **model, **weights, **features, log=lambda line: None)

    return train


def of_another_run(trainer: str, epochs: Any = 1) -> list[Run]:
    """Return the runs of a trainer that start from a finished run."""
    return [
        Run(
            name="the weights of another run",
            marks=SLOW,
            before=trained_before(trainer, epochs),
            flags={
                "--tfrecords=out": setting("dataset.name", "pets"),
                "--run=run": is_there("run/metrics.json"),
                "--init_from=old": lambda e: len(e.json("run/settings.json", "parent", "weights_sha256")) == 64,
                "--epochs=1,1" if trainer == "finetune" else "--epochs=1": is_there("run/history.csv"),
            },
        ),
        Run(
            name="more epochs",
            marks=SLOW,
            before=trained_before(trainer, epochs),
            flags={
                "--run=old": is_there("old-more2/metrics.json"),
                "--more_epochs=2": lambda e: len(e.rows("old-more2/history.csv")) == len(e.rows("old/history.csv")) + 2,
            },
        ),
    ]


def no_cache(e: Ended) -> bool:
    return "cache: " not in e.out and len(e.rows("run/history.csv")) == 2  # Two epochs would otherwise cache images.


# A training on a fold. It excludes the numbers of `TRAINING`.
FOLD = Run(
    name="fold",
    marks=SLOW,
    before=folds_of,
    flags={
        "--tfrecords=out": setting("dataset.name", "pets"),
        "--run=run": is_there("run/metrics.json"),
        "--records=folds.csv": lambda e: (
            {row["split"] for row in e.rows("run/predictions.csv")} == {"train", "validation"}
        ),
        "--fold=2": setting("flags.fold", 2),
        "--backbone=CNN": says("model: CNN("),
        "--backbone_kwargs=filters=(4,8)": setting("recipe.model.backbone_kwargs.filters", list(SMALL)),
        "--image_size=32": says(", 32 px, "),
        "--weights=none": setting("recipe.model.weights", "none"),
        "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
    },
)


SCRATCH = [
    TRAINED_FROM_A_BUCKET,
    Run(
        name="flags",
        marks=SLOW,
        flags=TRAINING | ONE_PHASE | OF_IMAGES | {"--augment=document": setting("flags.augment", "reference")},
    ),
    Run(
        name="the reference recipe",
        marks=SLOW,
        before=pretrained,
        flags=REFERENCE
        | REFERENCE_OF_IMAGES
        | {
            "--epochs=2": lambda e: len(e.rows("run/history.csv")) == 2,
            "--cache_mb=0": no_cache,
            "--weights=small.weights.h5": lambda e: len(e.json("run/settings.json", "weights", "sha256")) == 64,
            "--augment=standard,horizontal_flip=False": setting("recipe.augment.horizontal_flip", False),
            "--precision=mixed_bfloat16": setting("flags.precision", "mixed_bfloat16"),
        },
    ),
    FOLD,
    Run(
        name="a whole model",
        marks=SLOW,
        flags={
            "--tfrecords=out": setting("dataset.name", "pets"),
            "--run=run": is_there("run/metrics.json"),
            "--model=mine.py:whole": says("model: mine.py:whole, 16 px, weights own, 769 parameters"),
            "--scaling=own": setting("recipe.model.scaling", "own"),
            "--image_size=16": says(", 16 px, "),
            "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
        },
    ),
    Run(
        name="pixels",
        marks=SLOW,
        before=csvs_of_pixels,
        flags={
            "--csv=csv": says("data: csv-tfrecords (csv)"),
            "--run=run": is_there("run/metrics.json"),
            "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
            "--schedule=constant": setting("recipe.phases.0.schedule", "constant"),
            "--class_weights=none": setting("flags.class_weights", "none"),
            "--cache=off": lambda e: "cache: " not in e.out,
            "--strategy=mirrored": is_there("run/metrics.json"),
            "--scaling=torch": setting("recipe.model.scaling", "torch"),
            "--batch_size=8": says("steps of 8 images"),
        },
    ),
    *of_another_run("scratch"),
]

FEATURES = [
    TRAINED_FROM_A_BUCKET,
    Run(
        name="flags",
        before=pretrained,
        flags=TRAINING
        | ONE_PHASE
        | {
            "--weights=small.weights.h5": lambda e: len(e.json("run/settings.json", "weights", "sha256")) == 64,
            "--head=linear": setting("recipe.model.hidden", 0),
            "--features=kept": lambda e: e.count("kept/*/features.npy") == 2,  # For train and validation.
            "--engine=tensorflow": lambda e: "engine" not in e.json("run/settings.json", "flags"),
        },
    ),
    Run(
        name="engine",
        marks=OPENVINO,
        before=pretrained,
        flags={
            "--tfrecords=out": setting("dataset.name", "pets"),
            "--run=run": is_there("run/metrics.json"),
            "--backbone=CNN": says("model: CNN("),
            "--backbone_kwargs=filters=(4,8)": setting("recipe.model.backbone_kwargs.filters", list(SMALL)),
            "--image_size=32": says(", 32 px, "),
            "--weights=small.weights.h5": lambda e: len(e.json("run/settings.json", "weights", "sha256")) == 64,
            "--epochs=1": lambda e: len(e.rows("run/history.csv")) == 1,
            "--engine=openvino": setting("flags.engine", "openvino"),
        },
    ),
    FOLD,
    Run(
        name="the reference recipe, by its old name",
        marks=SLOW,
        flags={flag: check for flag, check in REFERENCE.items() if flag != "--recipe=reference"}
        | {
            "--recipe=document": setting("flags.recipe", "reference"),
            "--epochs=2": lambda e: len(e.rows("run/history.csv")) == 2,
            "--weights=none": says("--weights=none: the backbone has random weights and is not pretrained"),
        },
    ),
    *of_another_run("features"),
]

FROZEN = [
    TRAINED_FROM_A_BUCKET,
    Run(
        name="flags",
        before=pretrained,
        flags=TRAINING
        | ONE_PHASE
        | OF_IMAGES
        | {
            "--weights=small.weights.h5": lambda e: len(e.json("run/settings.json", "weights", "sha256")) == 64,
            "--augment=none": setting("flags.augment", "none"),
        },
    ),
    FOLD,
    Run(
        name="the reference recipe",
        marks=SLOW,
        flags=REFERENCE
        | REFERENCE_OF_IMAGES
        | {
            "--epochs=2": lambda e: len(e.rows("run/history.csv")) == 2,
            "--cache_mb=0": no_cache,
            "--weights=none": says("--weights=none: the backbone has random weights and is not pretrained"),
            "--precision=mixed_float16": setting("flags.precision", "mixed_float16"),
            "--augment=document_transfer": setting("flags.augment", "reference_transfer"),
        },
    ),
    *of_another_run("frozen"),
]

FINETUNE = [
    TRAINED_FROM_A_BUCKET,
    Run(
        name="flags",
        marks=SLOW,
        before=pretrained,
        flags=TRAINING
        | TWO_PHASES
        | OF_IMAGES
        | {
            "--weights=small.weights.h5": lambda e: len(e.json("run/settings.json", "weights", "sha256")) == 64,
            "--augment=strong": setting("flags.augment", "strong"),
            "--unfreeze=1": setting("recipe.phases.1.trainable", "1"),
        },
    ),
    FOLD,
    Run(
        name="the reference recipe",
        marks=SLOW,
        flags=REFERENCE
        | REFERENCE_OF_IMAGES
        | {
            "--epochs=1,1": lambda e: len(e.rows("run/history.csv")) == 2,
            "--cache_mb=0": no_cache,
            "--weights=none": says("--weights=none: the backbone has random weights and is not pretrained"),
        },
    ),
    *of_another_run("finetune", epochs=[1, 1]),
]

COMPARE = [
    Run(
        name="a bucket",
        flags={
            "--tfrecords=file://PLACE/out": says("--tfrecords=file:///"),
            "--dry_run": lambda e: e.out.count("-m trainers.") == 1,
            "--variant=features": says("-m trainers.features"),
            "--cache_dir=copies": says("--cache_dir=copies "),
            "--cache_bytes=4096": says("--cache_bytes=4096 "),
        },
    ),
    Run(
        name="two",
        marks=SLOW,
        flags={
            "--tfrecords=out": is_there("both/comparison.csv"),
            "--out=both": is_there("both/comparison.png"),
            "--variant=quick=features --epochs=1 --weights=none": is_there("both/quick_small-seed4/metrics.json"),
            "--backbone=small=CNN --backbone_kwargs=filters=(4,8) --image_size=32": lambda e: (
                e.json("both/quick_small-seed4/settings.json", "recipe", "model", "backbone") == "CNN"
            ),
            "--seeds=4": lambda e: e.json("both/quick_small-seed4/settings.json", "flags", "seed") == 4,
        },
    ),
    Run(
        name="folds",
        marks=SLOW,
        flags={
            "--tfrecords=out": is_there("folded/comparison.json"),
            "--out=folded": is_there("folded/comparison.html"),
            "--variant=features --backbone=CNN --weights=none --image_size=24 --epochs=1": says(
                "fold 2 of 2: accuracy"
            ),
            "--folds=2": lambda e: {row["fold"] for row in e.rows("folded/predictions_oof.csv")} == {"1", "2"},
            "--fold_seed=3": is_there("folded/folds2-foldseed3.csv"),
        },
    ),
    Run(
        name="search",
        marks=SLOW,
        flags={
            "--tfrecords=out": is_there("comparison/search.csv"),
            "--variant=features --backbone=CNN --weights=none --image_size=24 --epochs=1": says("best of 2 settings: "),
            "--search=trials=2": lambda e: len(e.rows("comparison/search.csv")) == 2,
        },
    ),
    Run(
        name="dry",
        flags={
            "--tfrecords=out": says("--tfrecords=out"),
            "--dry_run": lambda e: e.out.count("-m trainers.") == 2 and not e.has("comparison"),
            "--seeds=0,1": says("--seed=1"),
            "--log=mlflow": says("--log=mlflow --log_group=comparison"),
            "--variant=scratch --backbone_kwargs=filters=(4,8)": says(
                "'--backbone_kwargs=filters=(4,8)'"
            ),  # Quoted for a shell.
        },
    ),
]

EVALUATE = [
    Run(
        name="a bucket",
        marks=SLOW,
        before=judged,
        flags=IN_A_BUCKET | {"--run=run": is_there("made/report.html"), "--out=made": is_there("made/predictions.csv")},
    ),
    Run(
        name="train split",
        marks=SLOW,
        before=judged,
        flags={
            "--run=run": is_there("made/report.html"),
            "--tfrecords=out": lambda e: e.json("made/metrics.json", "count") == 4,
            "--split=train": lambda e: e.json("made/metrics.json", "split") == "the train split of src",
            "--out=made": is_there("made/predictions.csv"),
            "--audit=audited": lambda e: e.json("made/metrics.json", "without_issues", "left_out") == 1,
            "--threshold=0.75": lambda e: (
                "is predicted if its probability is at least 0.75." in e.prose("made/report.html")
            ),
            "--custom_objects=mine.py": says("mine.py runs"),
        },
    ),
    Run(
        name="folder",
        marks=SLOW,
        before=judged,
        flags={
            "--run=run": is_there("made/report.html"),
            "--images=src": lambda e: e.json("made/metrics.json", "dataset") == "src",
            "--split=test": lambda e: e.json("made/metrics.json", "split") == "the test split of src",
            "--out=made": is_there("made/predictions.csv"),
            "--class_map=greens=": lambda e: e.json("made/metrics.json", "left_out") == {"greens": 20},
            "--tta=mirror": says("tta: 2 views (mirror): the model computes each image twice"),
        },
    ),
]


def features_of(e: Ended) -> str:
    """Return the path of the description of some features."""
    return next(e.place.glob("kept/*/about.json")).relative_to(e.place).as_posix()


AUDITED: dict[str, Check] = {
    "--tfrecords=out": lambda e: e.json("made/audit.json", "records") == 20,
    "--features_from=CNN": lambda e: e.json("made/audit.json", "features_from") == "CNN",
    "--weights=small.weights.h5": says("weights small.weights.h5"),
    "--out=made": is_there("made/review.html"),
    "--features=kept": lambda e: e.count("kept/*/features.npy") == 2,
}
AUDIT = [
    Run(
        name="a bucket",
        marks=SLOW,
        before=pretrained,
        flags={name: check for name, check in AUDITED.items() if name != "--tfrecords=out"}
        | IN_A_BUCKET
        | {
            "--backbone_kwargs=filters=(4,8)": says("features: computed by CNN(filters=(4, 8)), 24 px"),
            "--image_size=24": says(" 24 px, weights "),
        },
    ),
    Run(
        name="backbone",
        before=pretrained,
        flags={
            **AUDITED,
            "--backbone_kwargs=filters=(4,8)": says("features: computed by CNN(filters=(4, 8)), 24 px"),
            "--image_size=24": says(" 24 px, weights "),
            "--scaling=unit": lambda e: e.text(features_of(e)).count('"scaling": "unit"') == 1,
            "--custom_objects=mine.py": lambda e: e.text(features_of(e)).count("sha256 of mine.py") == 1,
            "--fit=stretch": lambda e: all(
                json.loads(path.read_text())["key"]["crop"] == 0 for path in e.place.glob("kept/*/about.json")
            ),
            "--folds=3": lambda e: e.json("made/audit.json", "folds") == 3,
            "--seed=4": lambda e: e.json("made/audit.json", "seed") == 4,
            "--engine=tensorflow": lambda e: '"engine"' not in e.text(features_of(e)),
            "--pictures=6": lambda e: 1 <= e.text("made/review.html").count('type="text/plain"') <= 6,
        },
    ),
    Run(
        name="engine",
        marks=OPENVINO,
        before=pretrained,
        flags={
            **AUDITED,
            "--backbone_kwargs=filters=(4,8)": says("features: computed by CNN(filters=(4, 8)), 32 px"),
            "--image_size=32": says(" 32 px, weights "),
            "--engine=openvino": lambda e: e.text(features_of(e)).count('"engine": "openvino ') == 1,
        },
    ),
]

PREDICT = [
    Run(
        name="a bucket",
        marks=SLOW,
        before=judged,
        flags=IN_A_BUCKET | {"--run=run": is_there("all.csv"), "--csv=all.csv": is_there("all.csv")},
    ),
    Run(
        name="files",
        marks=SLOW,
        before=judged,
        arguments=["src/test/reds"],
        flags={
            "--run=run": lambda e: len(json.loads(e.out)["predictions"]) == 20,
            "--csv=all.csv": lambda e: len(e.rows("all.csv")) == 20,
            "--threshold=0.999999": lambda e: {p["prediction"] for p in json.loads(e.out)["predictions"]} == {"greens"},
            "--json": lambda e: json.loads(e.out)["unreadable"] == {},
            "--custom_objects=mine.py": says("mine.py runs"),
            "--engine=tensorflow": lambda e: len(json.loads(e.out)["predictions"]) == 20,
        },
    ),
    Run(
        name="engine",
        marks=OPENVINO + SLOW,
        before=judged,
        arguments=["src/test/reds"],
        flags={
            "--run=run": is_there("all.csv"),
            "--csv=all.csv": lambda e: len(e.rows("all.csv")) == 20,
            "--engine=openvino": lambda e: {row["prediction"] for row in e.rows("all.csv")} <= {"greens", "reds"},
        },
    ),
    Run(
        name="records",
        marks=SLOW,
        before=judged,
        flags={
            "--run=run": lambda e: len(e.rows("all.csv")) == 4,
            "--tfrecords=out": lambda e: e.rows("all.csv")[0]["record"] == "0",
            "--split=train": lambda e: {row["label"] for row in e.rows("all.csv")} == {"greens", "reds"},
            "--csv=all.csv": is_there("all.csv"),
            "--tta=crops": says("tta: 5 views (crops): the model computes each image 5 times"),
        },
    ),
    Run(
        name="records of another tool",
        marks=SLOW,
        before=lambda place: (judged(place), unlabeled(place)),
        flags={
            "--run=run": lambda e: len(e.rows("all.csv")) == 2,
            "--tfrecords=theirs.tfrec": lambda e: e.rows("all.csv")[0]["path"] == "theirs.tfrec:0",
            "--image_key=second": lambda e: {row["prediction"] for row in e.rows("all.csv")} == {"reds"},
            "--csv=all.csv": is_there("all.csv"),
        },
    ),
]

DOCTOR = [Run(name="machine", marks=SLOW)]

MODEL_EXPORT = [
    Run(
        name="a bucket",
        marks=SLOW,
        before=judged,
        flags=IN_A_BUCKET
        | {
            "--run=run": is_there("served/saved_model.pb"),
            "--out=served": is_there("served/labels.txt"),
        },
    ),
    Run(
        name="SavedModel",
        marks=SLOW,
        before=exported,
        flags={
            "--run=run": is_there("served/saved_model.pb"),
            "--tfrecords=out": says("records of test"),
            "--samples=3": lambda e: e.json("served/export.json", "check", "count") == 3,
            "--tolerance=0.01": lambda e: e.json("served/export.json", "check", "tolerance") == 0.01,
            "--out=served": is_there("served/labels.txt"),
            "--threshold=0.75": lambda e: e.json("served/export.json", "threshold") == 0.75,
            "--custom_objects=mine.py": says("mine.py runs"),
            "--overwrite": lambda e: not e.has("served/old"),
        },
    ),
    Run(
        name="half precision",
        marks=SLOW,
        before=judged,
        code=1,
        flags={
            "--run=run": says("larger --tolerance"),
            "--format=litert": says("larger --tolerance"),
            "--quantize=float16": says("larger --tolerance"),
            "--tolerance=0": lambda e: not e.has("run/export/litert-float16"),
        },
    ),
    Run(
        name="bytes",
        marks=SLOW,
        before=judged,
        flags={
            "--run=run": is_there("run/export/litert-int8"),
            "--format=litert": is_there("run/export/litert-int8/model.tflite"),
            "--quantize=int8": lambda e: e.json("run/export/litert-int8/export.json", "quantize") == "int8",
            "--tfrecords=out": says("records of test"),
        },
    ),
    Run(
        name="ONNX",
        marks=SLOW,
        before=judged,
        flags={"--run=run": is_there("run/export/onnx"), "--format=onnx": is_there("run/export/onnx/model.onnx")},
    ),
]

RUNS: dict[str, list[Run]] = {
    "tfrecord_tools.convert": CONVERT,
    "tfrecord_tools.adopt": ADOPT,
    "tfrecord_tools.export": EXPORT,
    "tfrecord_tools.transfer": TRANSFER,
    "tfrecord_tools.verify": VERIFY,
    "tfrecord_tools.show": SHOW,
    "tfrecord_tools.bench": BENCH,
    "tfrecord_tools.preview": PREVIEW,
    "tfrecord_tools.to_csv": TO_CSV,
    "tfrecord_tools.sample": SAMPLE,
    "trainers.scratch": SCRATCH,
    "trainers.features": FEATURES,
    "trainers.frozen": FROZEN,
    "trainers.finetune": FINETUNE,
    "trainers.compare": COMPARE,
    "trainers.evaluate": EVALUATE,
    "trainers.audit": AUDIT,
    "trainers.predict": PREDICT,
    "trainers.doctor": DOCTOR,
    "trainers.export": MODEL_EXPORT,
}
