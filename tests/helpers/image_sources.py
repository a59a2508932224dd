"""Tiny JPEGs and PNGs for the tests, all different, and the same in every run."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tfrecord_tools
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.layout import schema
from tfrecord_tools.layout.dataset_files import ConvertJson
from tfrecord_tools.records import Records, open_dataset
from tfrecord_tools.sources.base import Content, Store
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan

REPOSITORY = Path(tfrecord_tools.__file__).parents[1]


def image(key: str | int, kind: str = "JPEG", size: tuple[int, int] = (12, 9), mode: str = "RGB", **save: Any) -> bytes:
    """Encode noise that depends only on `key`; `size` is width and height in pixels."""
    seed = key if isinstance(key, int) else zlib.crc32(key.encode("utf-8", "surrogateescape"))
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(encoded, kind, **save)
    return encoded.getvalue()


def draw(path: Path, key: str | None = None) -> Path:
    """Write an image. The name decides the type, and the path's last three parts the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(image(key or "/".join(path.parts[-3:]), kind))
    return path


def tree(root: Path, counts: Mapping[str, int]) -> Path:
    """Write `counts[directory]` images to each directory below `root`; every third is a PNG."""
    for directory, count in counts.items():
        for number in range(count):
            name = f"{number:03d}.{'png' if number % 3 == 2 else 'jpg'}"
            draw(root / directory / name, key=f"{directory}/{name}")
    return root


def with_splits(root: Path, train: int = 5, validation: int = 3) -> Path:
    """Write a source directory with splits and two classes; counts are per class."""
    sides = {"train": train, "validation": validation}
    return tree(root, {f"{split}/{name}": count for split, count in sides.items() for name in ("cats", "dogs")})


def frame(records: Records, number: int) -> tuple[Path, int, int]:
    """Return (path of the shard, offset of the frame, length of the frame) of a record."""
    shard, size, offset = records._frame(number)
    return Path(records._shards.paths[shard]), offset, size


def rewrite(out: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    """Replace the example of a training record by one of the same length, with correct checksums."""
    records = open_dataset(out).records("train")
    example = records.serialized(number)
    changed = change(example)
    assert len(changed) == len(example)
    shard, offset, _ = frame(records, number)
    with open(shard, "r+b") as file:
        file.seek(offset)
        file.write(schema.frame(changed))


def break_image(out: Path, number: int) -> None:
    """Make the image of a training record undecodable."""
    image = open_dataset(out).records("train")[number]["image"]
    rewrite(out, number, lambda example: example.replace(image[:6], b"<html>"))


def contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a directory, by relative path."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def scanned(root: Path, **settings: Any) -> Sources:
    """Return the result of `scan` for `root`."""
    return scan(ScanConfig(src=str(root), **settings))


def converted(src: Path, out: Path, /, **settings: Any) -> ConvertJson:
    """Convert without output in this process; return the content of `convert.json`."""
    config: dict[str, Any] = {"workers": 1, "src": str(src), "out": str(out)} | settings
    return convert(ConvertConfig(**config), log=lambda line: None)


def noted_reads(monkeypatch: pytest.MonkeyPatch, store: type[Store]) -> list[str]:
    """Return a list that collects the names of all files that a kind of store reads."""
    read: list[str] = []
    original = store.read

    def noting(self: Store, path: str, span: np.void) -> Content:
        read.append(path)
        return original(self, path, span)

    monkeypatch.setattr(store, "read", noting)
    return read


def flip(path: Path, position: int, bits: int = 0x10) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= bits
    path.write_bytes(data)


def save_weights(path: Path) -> None:
    """Write random weights of MobileNet(alpha=0.25) at 32 px that give different features per image."""
    import keras  # Imported here, because most tests do not need it.

    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3))
    save_fitted(base, path, lowest=-1)


def save_fitted(base: Any, path: Path, lowest: float) -> None:
    """Write random weights of a network that give different features per image.

    The statistics of BatchNormalization are fitted to noise, because the features would fade to 0 without them.

    Args:
        base: The network, as Keras builds it.
        path: File to write.
        lowest: Lowest input of the network. The highest is 1.
    """
    import keras

    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    base(keras.random.uniform((8, *base.input_shape[1:]), lowest, 1, seed=0), training=True)
    base.save_weights(path)


def history(run_directory: Path) -> list[dict[str, str]]:
    """Read history.csv without the speed columns, which differ between trainings."""
    with open(run_directory / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if name not in ("images_per_second", "data_wait")} for row in rows
    ]


def start(module: str, *flags: str, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m module` with its output in pipes."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"} | options.pop("env", {})
    command = [sys.executable, "-m", module, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen(command, **(pipes | options))


def run(module: str, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` until it ends."""
    with start(module, *flags, **options) as process:
        out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
