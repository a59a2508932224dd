"""What the files hold: one read of each, in parallel, saved as it goes, reused by the next run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL

import tfrecord_tools
from tfrecord_tools import files, images
from tfrecord_tools.progress import Progress
from tfrecord_tools.scan import Sources
from tfrecord_tools.workers import Pool

FILES_PER_JOB = 256  # About 0.1 s of work: what a killed run loses at most, per worker.
IMAGE_TYPES = ("", "JPEG", "PNG")
_SURVEYOR = f"tfrecord_tools {tfrecord_tools.__version__}, Pillow {PIL.__version__}"
FACT = np.dtype(
    [("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", 32), ("type", "u1"), ("height", "<i4"), ("width", "<i4")]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found in each file of a `Sources`, in its order.

    Attributes:
        table: FACT[n]: size in bytes and mtime in ns at the time of reading, sha256 of the content,
            type (index into `IMAGE_TYPES`, 0 if it is no sound image), height and width in pixels.
        reasons: File number -> why it is not a sound image.
    """

    table: np.ndarray
    reasons: dict[int, str]


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The facts of some files: the unit of work, and of what is saved."""

    paths: list[str]
    table: np.ndarray  # FACT[len(paths)]
    reasons: dict[int, str]


@dataclasses.dataclass(frozen=True)
class _Job:
    root: str
    numbers: np.ndarray  # i64[k], into `Sources`.
    paths: list[str]


def survey(
    sources: Sources,
    pool: Pool,
    *,
    saved: Path | None = None,
    progress: Progress | None = None,
    check: Callable[[Mapping[int, str]], None] = lambda reasons: None,
) -> Facts:
    """Reads every file once and says what is in it.

    Args:
        sources: The files.
        pool: Where the work is done.
        saved: A directory in which facts are saved as they are found. Facts that are there already are
            taken over for every file whose path, size and mtime are unchanged.
        progress: Shows how far it is.
        check: Called with the reasons for all files found bad so far; may raise to stop.
    """
    table = np.zeros(len(sources), FACT)
    reasons: dict[int, str] = {}
    known = np.zeros(len(sources), bool)
    chunk_number = 0
    if saved is not None:
        saved.mkdir(exist_ok=True)
        number_of = {path: number for number, path in enumerate(sources.paths)} if any(saved.iterdir()) else {}
        for path in sorted(saved.glob("*.npz")):
            chunk_number = int(path.stem)
            if (chunk := _load(path)) is not None:
                _take_over(chunk, number_of, sources, table, known)
    if progress:
        progress.skip(int(known.sum()))
    pending = np.flatnonzero(~known)
    parts = [pending[i : i + FILES_PER_JOB] for i in range(0, len(pending), FILES_PER_JOB)]
    jobs = (_Job(sources.root, part, [sources.paths[i] for i in part]) for part in parts)
    for part, chunk in zip(parts, pool.map(_survey_job, jobs)):
        table[part] = chunk.table
        reasons |= {int(part[i]): reason for i, reason in chunk.reasons.items()}
        if saved is not None:
            chunk_number += 1
            _save(saved / f"{chunk_number:07d}.npz", chunk)
        if progress:
            progress(len(part))
        check(reasons)
    return Facts(table=table, reasons=dict(sorted(reasons.items())))


def _survey_job(job: _Job) -> _Chunk:
    table = np.zeros(len(job.paths), FACT)
    reasons = {}
    for i, path in enumerate(job.paths):
        try:
            table[i] = _survey_file(os.path.join(job.root, path))
        except images.BadImage as error:
            reasons[i] = str(error)
        except OSError as error:
            reasons[i] = f"cannot be read: {error.strerror}"
    return _Chunk(job.paths, table, reasons)


def _survey_file(path: str) -> tuple[int, int, np.ndarray, int, int, int]:
    """Returns a row of `FACT`."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        data = file.read(images.MAX_IMAGE_BYTES + 1)  # Whatever lies there, memory stays bounded.
    found = images.inspect(data)
    digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return len(data), status.st_mtime_ns, digest, IMAGE_TYPES.index(found.type), found.height, found.width


def _save(path: Path, chunk: _Chunk) -> None:
    with files.atomic(path) as file:
        text = json.dumps({"by": _SURVEYOR, "paths": chunk.paths, "reasons": chunk.reasons}).encode()
        np.savez(file, table=chunk.table, text=np.frombuffer(text, np.uint8))


def _load(path: Path) -> _Chunk | None:
    """Reads a saved chunk; None if another version found these facts, whose verdicts may differ."""
    with np.load(path) as arrays:
        text = json.loads(arrays["text"].tobytes())
        if text.get("by") != _SURVEYOR:
            return None
        reasons = {int(i): reason for i, reason in text["reasons"].items()}
        return _Chunk(text["paths"], arrays["table"], reasons)


def _take_over(
    chunk: _Chunk, number_of: dict[str, int], sources: Sources, table: np.ndarray, known: np.ndarray
) -> None:
    """Fills in the facts of files that are unchanged. One found bad is read again: it may be readable now."""
    for i, path in enumerate(chunk.paths):
        number = number_of.get(path)
        if number is None or i in chunk.reasons:
            continue
        row = chunk.table[i]
        if row["size"] == sources.sizes[number] and row["mtime_ns"] == sources.mtimes_ns[number]:
            table[number], known[number] = row, True
