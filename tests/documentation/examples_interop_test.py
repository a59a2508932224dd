"""The programs in examples/ return every record with its label and its pixels."""

from __future__ import annotations

import collections
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from image_sources import REPOSITORY, converted
from PIL import Image

from tfrecord_tools.records import open_dataset

EXAMPLES = REPOSITORY / "examples"
CLASSES = ("cats", "dogs")
SIZE = 16
COUNTS = {"train": 12, "validation": 6}  # Per class.


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of PNGs of exactly the size that is read. Cats are red, dogs are blue."""
    root = tmp_path_factory.mktemp("examples") / "pets"
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
                pixels[:, :, 2 * label] += 180
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    converted(source, source.parent / "out", shards=4)
    return source.parent / "out"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import an example by name, or skip the test if its library is not installed."""

    def load(name: str, library: str) -> ModuleType:
        pytest.importorskip(library, reason=f"{library} is not installed")
        monkeypatch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)

    return load


def expected(source: Path, split: str) -> list[tuple[int, bytes]]:
    """Label and pixels of every image, sorted."""
    return sorted(
        (label, np.asarray(Image.open(path)).tobytes())
        for label, name in enumerate(CLASSES)
        for path in (source / split / name).iterdir()
    )


def delivered(batches: Iterable[Any]) -> list[tuple[int, bytes]]:
    """Return the sorted labels and pixels of batches of (images [b h w 3], labels)."""
    pairs = [pair for images, labels in batches for pair in zip(np.asarray(images), np.asarray(labels))]
    return sorted((int(label), image.astype(np.uint8).tobytes()) for image, label in pairs)


def labels_in_order(batches: Iterable[Any]) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


def python(*arguments: str) -> str:
    """Runs Python in examples/; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports_tensorflow(example: str) -> bool:
    return python("-c", f"import sys, {example}; print('tensorflow' in sys.modules)") == "True\n"


def test_each_example_is_short_and_says_how_to_run_it() -> None:
    paths = [EXAMPLES / "fit_keras.py", *sorted(EXAMPLES.glob("read_*.py"))]
    assert [path.stem for path in paths] == ["fit_keras", "read_grain", "read_tf_data", "read_tfds", "read_torch"]
    for path in paths:
        text = path.read_text()
        assert f"python examples/{path.name} out/" in text.split('"""')[1]
        assert len([line for line in text.splitlines() if line.strip()]) <= 40


def test_tf_data(load: Any, source: Path, out: Path) -> None:
    batches = load("read_tf_data", "tensorflow").batches(str(out), "train", image_size=SIZE, batch_size=5)
    assert delivered(batches) == expected(source, "train")


@pytest.mark.parametrize(
    ("split", "count"),
    [("train", 24), ("validation", 12), ("train[:50%]", 12), ("train[5:7]+validation", 14)],
)
def test_tfds_gives_the_files_bytes(load: Any, source: Path, out: Path, split: str, count: int) -> None:
    stored = list(load("read_tfds", "tensorflow_datasets").stored_bytes(str(out), split))
    assert len({path for _, _, path in stored}) == count
    for image, name, path in stored:
        assert image == (source / path).read_bytes()
        assert path.split("/")[1] == name


def test_keras_learns_the_colors(load: Any, out: Path) -> None:
    history = load("fit_keras", "keras").fit(str(out), image_size=SIZE, batch_size=4, epochs=5).history
    assert len(history["val_accuracy"]) == 5
    assert history["val_accuracy"][-1] >= 0.9


def test_grain(load: Any, source: Path, out: Path) -> None:
    loader = load("read_grain", "grain").loader(open_dataset(out).records("train"), size=SIZE, batch_size=5, workers=0)
    assert delivered(loader) == expected(source, "train")


def test_grain_goes_on_where_another_process_stopped(load: Any, out: Path) -> None:
    """It compares the sources by their `repr`, in which there must be no address."""
    make = functools.partial(load("read_grain", "grain").loader, size=SIZE, batch_size=5, workers=0)
    iterator = iter(make(open_dataset(out).records("train")))
    next(iterator)
    state = iterator.get_state()
    rest = delivered(iterator)
    again = iter(make(open_dataset(out).records("train")))
    again.set_state(state)
    assert delivered(again) == rest
    assert len(rest) == 19
    others = open_dataset(out).records("train").select(np.arange(24)[::-1])
    with pytest.raises(ValueError, match="DataSource in checkpoint does not match"):
        iter(make(others)).set_state(state)


def test_grain_in_processes_without_tensorflow(out: Path) -> None:
    pytest.importorskip("grain", reason="grain is not installed")
    assert python("read_grain.py", str(out)) == "(12, 160, 160, 3) 24\n"  # A batch of each of two workers.
    assert not imports_tensorflow("read_grain")


@pytest.mark.interop
@pytest.mark.parametrize("workers", [0, 2])
def test_torch(load: Any, source: Path, out: Path, workers: int) -> None:
    loader = load("read_torch", "torch").loader(
        open_dataset(out).records("train"), size=SIZE, batch_size=5, workers=workers
    )
    for _ in range(2):  # An epoch each.
        assert delivered((images.permute(0, 2, 3, 1), labels) for images, labels in loader) == expected(source, "train")


@pytest.mark.interop
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_torch_however_its_workers_start(load: Any, source: Path, out: Path, method: str) -> None:
    import torch

    records = open_dataset(out).records("validation")
    assert records[0]["label"] in (0, 1)  # A file is open when the workers start.
    images = load("read_torch", "torch").Images(records, SIZE)
    loader = torch.utils.data.DataLoader(images, 5, num_workers=2, multiprocessing_context=method)
    assert delivered((x.permute(0, 2, 3, 1), y) for x, y in loader) == expected(source, "validation")


@pytest.mark.interop
def test_torch_samplers_take_the_labels(load: Any, out: Path) -> None:
    """`Records.labels` are there without a record being read, as samplers want them."""
    import torch

    records = open_dataset(out).records("train")
    weights = np.where(records.labels == 1, 1.0, 0.0)
    sampler = torch.utils.data.WeightedRandomSampler(weights.tolist(), 10)
    images = load("read_torch", "torch").Images(records, SIZE)
    loader = torch.utils.data.DataLoader(images, 5, sampler=sampler)
    assert collections.Counter(labels_in_order(loader)) == {1: 10}


@pytest.mark.interop
def test_torch_without_tensorflow(out: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert python("read_torch.py", str(out)) == "(24, 3, 160, 160) 24\n"
    assert not imports_tensorflow("read_torch")
