"""The code in docs/ runs as the text describes, and the tables are complete."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from foreign_records import example, write
from image_sources import REPOSITORY, converted, image, run, tree, with_splits

from tfrecord_tools import order
from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.layout import index, schema
from tfrecord_tools.records import open_dataset
from trainers import backbones, recipes

DOCS = sorted((REPOSITORY / "docs").rglob("*.md"))
READMES = [REPOSITORY / "README.md", REPOSITORY / "README.ko.md"]


def code(name: str) -> dict[str, Any]:
    """Run all Python of a document and return its names."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / name).read_text(), re.DOTALL):
        exec(block, names)
    return names


# Other tests run the code of these pages and look at its results; the tutorial's is in the slow set.
RUN_ELSEWHERE = {
    "format.md",
    "from_image_data_generator.md",
    "interop.md",
    "own_network.md",
    "pipeline.md",
    "scaling.md",
    "trainers.md",
    "tutorial.md",
}


@pytest.mark.parametrize(
    "page",
    [
        path.relative_to(REPOSITORY / "docs").as_posix()
        for path in DOCS
        if "```python" in path.read_text() and path.name not in RUN_ELSEWHERE
    ],
)
def test_the_code_of_a_page_runs(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = code(page)
    for name in ("train", "mine"):
        if name in names:
            images, labels = next(iter(names[name]))
            assert (images.shape[1:], len(images)) == ((160, 160, 3), len(labels))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with `out`, 10 train and 6 validation records, and `made`, an automatic split."""
    workspace = tmp_path_factory.mktemp("docs")
    converted(with_splits(workspace / "cat_dog_img"), workspace / "out", shards=4)
    converted(tree(workspace / "src", {"a": 40, "b": 40}), workspace / "made", seed=3, test_fraction=0.1)
    return workspace


def test_the_documented_reader_reads_every_record(workspace: Path) -> None:
    for split in ("train", "validation"):
        records = open_dataset(workspace / "out").records(split)
        count, read = code("format.md")["open_split"](str(workspace / "out"), split)
        assert count == len(records)
        for number in range(count):
            assert read(number) == (records.serialized(number), records[number]["label"])


def test_the_documented_frame_is_the_frame(workspace: Path) -> None:
    shard = sorted((workspace / "out").glob("*-train.tfrecord-*"))[0].read_bytes()
    length = int.from_bytes(shard[:8], "little")
    data = shard[12 : 12 + length]
    for crc, of in ((shard[8:12], shard[:8]), (shard[12 + length : 16 + length], data)):
        value = crc32c(of)
        assert int.from_bytes(crc, "little") == (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32
    assert schema.decode_example(data)["label"] in (0, 1)


def crc32c(data: bytes) -> int:
    """Compute CRC-32C bit by bit from its definition; the reversed polynomial is 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_index_has_the_documented_columns(workspace: Path) -> None:
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+) \| [a-z0-9 ]+ \|", section("format.md", "## The index"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(pq.read_schema(workspace / "out" / index.FILE_NAME).names)


def section(document: str, title: str) -> str:
    text = (REPOSITORY / "docs" / document).read_text()
    return text.split(f"{title}\n")[1].split("\n## ")[0]


def test_splits_and_order_follow_from_the_documented_rule(workspace: Path) -> None:
    names = code("format.md")
    assert names["hash64"](3, 1, 2**63 + 5) == int(order.hash64(3, 1, np.uint64(2**63 + 5)))
    table = pq.read_table(workspace / "made" / index.FILE_NAME).to_pylist()
    hashes = [int.from_bytes(row["source_sha256"][:8], "little") for row in table]
    splits = names["splits_of"](hashes, [row["label"] for row in table], 3, 0.2, 0.1)
    assert splits == [row["split"] for row in table]
    for split in ("train", "validation", "test"):
        ranks = [(names["rank"](h, 3), row["path"]) for h, row in zip(hashes, table) if row["split"] == split]
        assert ranks == sorted(ranks)
        assert ranks


def test_the_index_for_dali_tells_where_each_frame_is(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    code("interop.md")
    records = open_dataset(workspace / "out").records("train")
    expected = {records.serialized(number) for number in range(len(records))}
    shards = sorted((workspace / "out").glob("*-train.tfrecord-*"))
    frames = set()
    for shard, path in zip(shards, sorted(workspace.glob("train-*.idx")), strict=True):
        for line in path.read_text().splitlines():
            offset, size = map(int, line.split())
            data = schema.unframe(shard.read_bytes()[offset : offset + size])
            assert data is not None
            frames.add(data)
    assert frames == expected


def commands(document: str, title: str) -> list[list[str]]:
    """Return the arguments of each command in the indented blocks below a heading."""
    lines = re.findall(r"^    python -m (.*)$", section(document, title), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_documented_adoptions(tmp_path: Path) -> None:
    """Run each command on files of the layout that it is for."""
    for split, count in (("train", 6), ("validation", 4)):
        values = [{"image/encoded": image(n), "image/class/label": 1 + n % 2} for n in range(count)]
        write(tmp_path / f"imagenet/{split}-00000-of-00001", map(example, values))
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        label: list[dict[str, Any]] = [{"class": n % 2} if split != "test" else {} for n in range(count)]
        values = [{"image": image(n), "id": b"%06x" % n, **label[n]} for n in range(count)]
        write(tmp_path / f"flowers/tfrecords-jpeg-224x224/{split}/00-224x224-{count}.tfrec", map(example, values))
    (tmp_path / "classes.txt").write_text("pink primrose\nhard-leaved pocket orchid\n")
    for directory, count in (("a", 6), ("b", 4)):
        values = [{"image": image(n), "target": n % 2, "label": 7} for n in range(count)]
        write(tmp_path / directory / "0.tfrec", map(example, values))
    values = [{"image": image(n), "label": [b"cat", b"dog"][n % 2]} for n in range(6)]
    write(tmp_path / "homemade/records.tfrecord", map(example, values))
    both, flowers = {"train": 6, "validation": 4}, ("pink primrose", "hard-leaved pocket orchid")
    expected = [(("1", "2"), both), (flowers, both), (("0", "1"), both), (("cat", "dog"), {"train": 6})]
    for (module, *arguments), (names, splits) in zip(
        commands("interop.md", "## TFRecords that others wrote"), expected, strict=True
    ):
        done = run(module, *arguments, "--overwrite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        data = open_dataset(tmp_path / "out")
        assert (data.class_names, data.splits) == (names, splits)
        assert ("test is left out" in done.stdout) == (names == flowers)


def test_batches_that_replace_the_generator(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = code("from_image_data_generator.md")
    images, labels = next(iter(names["train"]))
    assert (images.shape, images.dtype, labels.dtype) == ((20, 150, 150, 3), tf.uint8, tf.int64)
    assert sum(len(labels) for _, labels in names["validation"]) == 6


GENERATOR = tf.keras.preprocessing.image.ImageDataGenerator


@pytest.mark.parametrize(
    ("function", "title"),
    [
        (GENERATOR.__init__, "## ImageDataGenerator(…)"),
        (GENERATOR.flow_from_directory, "## flow_from_directory(…)"),
    ],
)
def test_no_argument_of_the_generator_is_left_out(function: Callable[..., Any], title: str) -> None:
    arguments = set(inspect.signature(function).parameters) - {"self"}
    first_cells = re.findall(r"^\| (`.*?`) \|", section("from_image_data_generator.md", title), re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == arguments


@pytest.mark.parametrize("path", [*READMES, *DOCS], ids=lambda path: path.name)
def test_named_files_and_sections_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\((?!https://)(\S+?)\)", text):
        name, _, anchor = target.partition("#")
        assert (path.parent / name).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (path.parent / name).read_text() if name else text, re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target
    for target in re.findall(r"\b(?:examples|tests|tfrecord_tools|trainers)/[\w/]+\.py\b", text):
        assert (REPOSITORY / target).exists(), target
    for package, module in re.findall(r"python -m (tfrecord_tools|trainers)\.(\w+)", text):
        assert (REPOSITORY / package / f"{module}.py").exists(), module


def rows(document: str, title: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    lines = section(document, title).split("\n\n")
    table = next(block for block in lines if block.lstrip().startswith("|")).strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Each recipe with the command that uses it.
CALLED_FOR = {
    "scratch": recipes.scratch(),
    "scratch --backbone=MobileNetV2": recipes.scratch(backbone="MobileNetV2"),
    "scratch --recipe=reference": recipes.scratch_reference(),
    "scratch --recipe=reference --augment=reference": recipes.scratch_reference(augmented=True),
    "features": recipes.features(),
    "features --head=linear": recipes.features(head="linear"),
    "features --recipe=reference": recipes.features_reference(),
    "features --recipe=reference --head=linear": recipes.features_reference(head="linear"),
    "frozen": recipes.frozen(),
    "frozen --recipe=reference": recipes.frozen_reference(),
    "finetune": recipes.finetune(),
    "finetune --recipe=reference": recipes.finetune_reference(),
}


def test_no_recipe_is_left_out() -> None:
    expected = {
        trainer if name == "default" else f"{trainer} --recipe={name}"
        for trainer, made in recipes.RECIPES.items()
        for name in made
    }
    assert expected <= set(CALLED_FOR)


def models_of_recipes() -> list[list[str]]:
    table = []
    for call, recipe in CALLED_FOR.items():
        model = recipe.model
        scaling = model.scaling or backbones.find(model.backbone).scaling
        numbers = (model.size, scaling, model.pooling, model.hidden, model.dropout, recipe.batch_size, recipe.crop)
        table.append(
            [f"`{call}`", model.backbone, *map(shown, numbers), f"`{recipe.augment}`", shown(recipe.label_smoothing)]
        )
    return table


def phases_of_recipes() -> list[list[str]]:
    table = []
    for call, recipe in CALLED_FOR.items():
        for phase in recipe.phases:
            optimizer = ", ".join([phase.optimizer, *(f"{k}={v}" for k, v in phase.optimizer_kwargs.items())])
            numbers = (phase.learning_rate, phase.schedule, phase.epochs, phase.steps_per_epoch or "all images")
            table.append([f"`{call}`", phase.name, f"`{phase.trainable}`", optimizer, *map(shown, numbers)])
    return table


def test_the_documented_recipes_are_the_recipes() -> None:
    assert rows("trainers.md", "### Models and images") == models_of_recipes()
    assert rows("trainers.md", "### Phases") == phases_of_recipes()
    for recipe in CALLED_FOR.values():  # The tables have no columns for these.
        assert (recipe.mixup, recipe.cutmix, recipe.class_weights, recipe.early_stopping) == (0, 0, "none", 0)
        assert all(phase.warmup_steps == 0 for phase in recipe.phases)


TRAINERS = ("scratch", "features", "frozen", "finetune")


def test_the_documented_flags_are_those_of_the_trainers() -> None:
    documented = dict(re.findall(r"^\| `--(\w+)` \| (.*?) \|", section("trainers.md", "## Flags"), re.MULTILINE))
    defaults: dict[str, str] = {}
    for trainer in reversed(TRAINERS):  # The last one counts: `scratch` has other weights.
        text = run(f"trainers.{trainer}", "--help").stdout
        for flag, rest in re.findall(r"^  --(?:\[no\])?(\w+):(.*?)(?=^  --|^\S|\Z)", text, re.MULTILINE | re.DOTALL):
            match = re.search(r"\(default: '(.*?)'\)", rest)
            if (trainer, flag) != ("scratch", "weights"):
                defaults[flag] = match.group(1) if match else ""
    assert set(documented) == set(defaults)
    for flag, default in defaults.items():
        assert documented[flag] == f"`{default}`" if default else "`-" not in documented[flag], flag


def names_in(text: str) -> list[str]:
    return re.findall(r"`([\w./-]+)`", text)


def first_cells(document: str, title: str) -> list[str]:
    return [name for row in rows(document, title) for name in names_in(row[0])]


def test_a_training_as_documented_leaves_what_is_documented(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = code("trainers.md")
    assert [(row["phase"], row["step"]) for row in names["history"]] == [("head", 2), ("all", 4)]
    directory = Path("runs/mine")
    documented = {name.rstrip("/") for row in rows("trainers.md", "## The run directory") for name in names_in(row[0])}
    not_now = {"checkpoint.npz", "tensorboard", "wandb", "trackers.json", "evaluation-NAME-SPLIT-DIGEST", "export"}
    assert not_now | {path.name for path in directory.iterdir()} == documented
    for name, title in (("history.csv", "### history.csv"), ("suspects.csv", "### suspects.csv")):
        header = (directory / name).read_text().splitlines()[0].split(",")
        assert sorted(header) == sorted(first_cells("trainers.md", title))
    header = (directory / "predictions.csv").read_text().splitlines()[0].split(",")
    assert [name.replace("cats", "NAME") for name in header[:-1]] == first_cells("trainers.md", "### predictions.csv")
    metrics = json.loads((directory / "metrics.json").read_text())
    assert sorted(metrics) == sorted(first_cells("trainers.md", "### metrics.json")) == sorted(names["run"].metrics)
    settings = json.loads((directory / "settings.json").read_text())
    text = section("trainers.md", "### settings.json").split("\n###")[0]
    assert list(settings) == re.findall(r"`(\w+)` \(", text)


def test_the_documented_augmentation_is_the_augmentation() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows("pipeline.md", "## Augmentation")}
    fields = dataclasses.fields(AugmentConfig)
    assert documented == {field.name: repr(field.default) for field in fields}
    assert list(documented) == [field.name for field in fields]
    presets = dict(re.findall(r"^\| `(\w+)` \| `(.*)` \|$", section("pipeline.md", "## Augmentation"), re.MULTILINE))
    made = {name: eval(f"AugmentConfig({text})") for name, text in presets.items()}
    assert {"none": AugmentConfig()} | made == PRESETS


def test_the_pipeline_as_documented(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = code("pipeline.md")  # The page asserts itself that the slices of workers are the global batch.
    assert names["images"].shape == (32, 160, 160, 3)
    assert names["numbers"].shape == (32,)
    assert names["cache"].pixels.shape == (10, 160, 160, 3)
    forwards = next(iter(names["forwards"]))[1].numpy()
    assert forwards.tolist() == names["records"].labels[:4].tolist()
    assert next(iter(names["wide"]))[0].shape == (32, 96, 256, 3)
    assert names["changed"].element_spec[0].shape == (32, 160, 160, 3)
    assert next(iter(names["own"]))[0].numpy().mean() < next(iter(names["train"]))[0].numpy().mean()
    for stream in ("augmented", "cached", "tail", "blended"):
        assert next(iter(names[stream]))[0].dtype == tf.uint8, stream


def test_documented_names_of_the_api_exist() -> None:
    table = re.findall(r"^\| `([\w.]+)` \| .+? \| (.+) \|$", (REPOSITORY / "docs/reference/api.md").read_text(), re.M)
    assert len(table) > 8
    for module, names in table:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_one_shards_rows_alone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = code("scaling.md")
    alone = names["rows"].to_pylist()
    assert names["file"].num_row_groups == index.groups(workspace / "out" / index.FILE_NAME) > 3
    assert {(row["split"], row["shard"]) for row in alone} == {("train", 1)}
    everything = index.read(workspace / "out" / index.FILE_NAME, ["split", "shard", "offset", "length", "label"])
    assert alone == [row for row in everything.to_pylist() if (row["split"], row["shard"]) == ("train", 1)]
