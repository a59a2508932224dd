"""Drawn images of colors, a run with a model of colors that needs no training, and parsed pages."""

from __future__ import annotations

import csv
import html.parser
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from image_sources import converted
from PIL import Image

from tfrecord_tools import dataset
from trainers.models import model_file

COLORS = {"greens": (60, 200, 60), "reds": (200, 60, 60), "blues": (60, 60, 200)}
SIZE = 16
_ORIENTATION = 0x0112
EVIL = "<b>\"&'$x^2$"  # Ends an attribute, begins an element, is a formula for matplotlib.
HISTORY = [
    {"phase": "head", "epoch": 1, "step": 5, "accuracy": 0.6, "loss": 0.7, "val_accuracy": 0.7, "val_loss": 0.6},
    {"phase": "head", "epoch": 2, "step": 10, "accuracy": 0.7, "loss": 0.5, "val_accuracy": 0.8, "val_loss": 0.4},
    {"phase": "finetune", "epoch": 1, "step": 15, "accuracy": 0.9, "loss": 0.3, "val_accuracy": 0.9, "val_loss": 0.2},
]


def photo(color: str, seed: int, kind: str = "JPEG", size: tuple[int, int] = (30, 24), **save: Any) -> bytes:
    """Return a noisy image of a color. The upper half is darker than the lower half."""
    random = np.random.default_rng(seed)
    pixels = np.array(COLORS[color]) + random.normal(0, 60, (size[1], size[0], 3)) + random.normal(0, 60, 3)
    pixels[: size[1] // 2] *= 0.6
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, kind, **save)
    return stream.getvalue()


def photos(root: Path, counts: Mapping[str, int]) -> Path:
    """Write images to directories such as `test/reds`; the last part of the path is the color."""
    for directory, count in counts.items():
        (root / directory).mkdir(parents=True)
        for number in range(count):
            seed = sum(map(ord, directory)) * 1000 + number
            (root / directory / f"{number:03d}.jpg").write_bytes(photo(directory.rsplit("/")[-1], seed))
    return root


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def odd_photos(directory: Path) -> None:
    """Write images of all kinds that the converter changes."""
    directory.mkdir(parents=True)
    for orientation in range(2, 9):
        data = photo("reds", orientation, size=(60, 24), exif=_turned(orientation))
        (directory / f"turned{orientation}.jpg").write_bytes(data)
    for kind in ("PNG", "BMP", "GIF", "WEBP", "TIFF"):
        (directory / f"one.{kind.lower()}").write_bytes(photo("reds", 20, kind))
    Image.fromarray(np.full((20, 20, 4), (200, 0, 0, 90), np.uint8)).save(directory / "clear.png")


def color_model(classes: tuple[str, ...]) -> keras.Model:
    """Return a model u8[b SIZE SIZE 3] -> probabilities that recognizes the colors named by the classes."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(3, 4, strides=4, name="surplus")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    count = 1 if len(classes) == 2 else len(classes)
    activation = "sigmoid" if count == 1 else "softmax"
    model = keras.Model(pixels, keras.layers.Dense(count, activation=activation, name="head")(x))
    kernel = np.zeros((4, 4, 3, 3), np.float32)
    weights = np.zeros((3, len(classes)))
    for label, name in enumerate(classes):
        channel = int(np.argmax(COLORS[name]))
        kernel[..., channel] = (np.eye(3)[channel] - 0.5 * (1 - np.eye(3)[channel])) / 16
        weights[channel, label] = 8
    model.get_layer("surplus").set_weights([kernel, np.zeros(3)])
    weights = weights[:, 1:] - weights[:, :1] if count == 1 else weights
    model.get_layer("head").set_weights([weights, np.zeros(count)])
    return model


def run_of(directory: Path, out: Path, classes: tuple[str, ...] | None = None, crop: float = 0.875) -> Path:
    """Make a run directory like that of a training on the dataset `out`, with classes in any order."""
    data = dataset.open(out)
    info = model_file.describe(data, image_size=SIZE, crop=crop, trainer="finetune")
    if classes:
        info = model_file.dataclasses.replace(info, classes=classes)
    directory.mkdir()
    model_file.save(color_model(info.classes), info, directory / "model.keras")
    settings: dict[str, Any] = {
        "flags": {"seed": 0, "epochs": {"head": 2}},
        "environment": {"name": "CPU", "precision": "float32"},
    }
    settings["dataset"] = {"digest": info.dataset_digest}
    (directory / "settings.json").write_text(json.dumps(settings))
    with open(directory / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(HISTORY[0]))
        writer.writeheader()
        writer.writerows(HISTORY)
    return directory


def judged_pair(root: Path, colors: tuple[str, ...] = ("greens", "reds"), test: int = 20) -> tuple[Path, Path]:
    """Return a dataset with the splits train and test of these colors, and a run on it."""
    counts = {f"{split}/{color}": n for split, n in (("train", 2), ("test", test)) for color in colors}
    converted(photos(root / "src", counts), root / "out")
    return root / "out", run_of(root / "run", root / "out")


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """A parsed page. Parsing fails if elements are not closed in order."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._space = " "
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._space = "" if tag == "wbr" else " "
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += self._space + data if self.open[-1:] != ["style"] else ""

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]
