"""Compute facts about images, such as their brightness, and keep them in a file on disk.

The facts are only needed for images without facts in their index. They are computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import tfrecord_tools
from tfrecord_tools.base import files, words, workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance, formats
from tfrecord_tools.layout import schema
from tfrecord_tools.records import Records
from trainers.fitting import features_cache

_VALUES = "facts.npy"
_BLOCK = 16  # Images that a thread reads at once.


def load_or_compute(records: Records, digest: str, directory: Path, log: Callable[[str], object] = print) -> np.ndarray:
    """Read the facts of records from disk, or compute them.

    Args:
        records: The records.
        digest: Digest of their dataset.
        directory: Directory for features. The facts have their own subdirectory, which is named by a key as in
            `features_cache`.
        log: Receives a line for the user.

    Returns:
        `appearance.FACTS`[n]; `appearance.UNKNOWN` where a record is corrupt or its image cannot be decoded.

    Raises:
        UserError: Another process computes the same facts, their file is damaged, or too many records are corrupt.
    """
    versions = f"tfrecord_tools {tfrecord_tools.__version__}, {formats.versions()}"
    key = {"facts": list(appearance.FACTS.names or ()), "dataset": digest, "versions": versions}
    folder = features_cache.folder_of(directory, features_cache.key_of(records, key))
    if not (folder / _VALUES).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder / "lock", f"{folder}: another process computes these facts. Wait until it ends."):
            if not (folder / _VALUES).exists():
                return _computed(records, folder, log)
    return _read(folder / _VALUES, len(records))


def _computed(records: Records, folder: Path, log: Callable[[str], object]) -> np.ndarray:
    """Compute facts, and save them if no record is corrupt. A corrupt record may be repaired later."""
    facts = _compute(records)
    if not records.corrupt:
        with files.atomic(folder / _VALUES) as file:
            np.save(file, facts)
        log(
            f"facts: computed from the pixels of {words.number(len(records), 'image')} of {records.split}, and kept"
            f" in {folder}"
        )
    return facts


def _read(path: Path, count: int) -> np.ndarray:
    try:
        facts: np.ndarray = np.load(path)
        if facts.dtype != appearance.FACTS or facts.shape != (count,):
            raise ValueError(f"it has {facts.shape} values of type {facts.dtype}")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: is damaged ({error}). Delete it, and the facts are computed again.") from error
    return facts


def _compute(records: Records) -> np.ndarray:
    numbers = np.arange(len(records))
    blocks = [numbers[start : start + _BLOCK] for start in range(0, len(records), _BLOCK)]
    parts = []
    with Progress("facts", len(records)) as progress, ThreadPoolExecutor(workers.default_workers()) as pool:
        for part in pool.map(functools.partial(_of_block, records), blocks):
            parts.append(part)
            progress(len(part))
    return np.concatenate(parts)


def _of_block(records: Records, numbers: np.ndarray) -> np.ndarray:
    images = [records.get_or_none(number, lambda data: _image(data, records.keys)) for number in numbers.tolist()]
    valid = [image for image in images if image is not None]
    size = records.raw_size
    facts = np.full(len(images), np.array(appearance.UNKNOWN, appearance.FACTS))
    facts[[image is not None for image in images]] = appearance.facts_of(
        valid, [(size, size)] * len(valid) if size else None
    )
    return facts


def _image(serialized: bytes, keys: schema.Keys) -> bytes:
    image: bytes = schema.decode_example(serialized, keys)["image"]
    return image
