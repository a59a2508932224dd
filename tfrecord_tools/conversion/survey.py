"""Inspect all source files in parallel. The results are saved, so that the next run can reuse them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

import tfrecord_tools
from tfrecord_tools.base import files
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.images import appearance, formats, pillow, preparation
from tfrecord_tools.images.appearance import Thumbnail
from tfrecord_tools.images.preparation import ImageConfig, Prepared
from tfrecord_tools.layout import findings
from tfrecord_tools.sources.base import Content, Files, ReadError
from tfrecord_tools.sources.scan import Sources

FILES_PER_JOB = 512  # About 0.2 s of work. If a run is killed, each worker loses at most one job.
TYPES = ("", *preparation.READ_TYPES, "RAW")
FACT = np.dtype(  # The same layout as `_ROW`.
    [
        ("size", "<i8"), ("mtime_ns", "<i8"), ("source_sha256", "u1", 32), ("source_type", "u1"),
        ("bytes", "<i8"), ("sha256", "u1", 32), ("type", "u1"), ("changes", "u1"), ("height", "<i4"), ("width", "<i4"),
        ("findings", "u1"), ("lowest", "<f4"), ("highest", "<f4"), *appearance.FACTS.descr,
    ]
)  # fmt: skip
_ROW = struct.Struct("<qq32sBq32sBBiiBffQffff?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts about each file of a `Sources`, in the order of the files.

    Attributes:
        table: FACT[n]; all fields are 0 if the file is not a valid image. Fields of the file:
            size: Size in bytes when the file was read.
            mtime_ns: Time of the file's last change, in ns.
            source_sha256: Hash of the file's content.
            source_type: Index into `TYPES`.
            Fields of the image as it is stored in the record:
            bytes: Size in bytes.
            sha256: Hash.
            type: Index into `TYPES`.
            changes: Bit i stands for `preparation.CHANGES[i]`.
            height, width: Pixels.
            findings: Bit i stands for the i-th entry of `findings.FINDINGS`.
            lowest, highest: Range of levels of an image with more than 8 bits.
            phash, ..., gray: The fields of `appearance.FACTS`; unknown if the image was not decoded.
        reasons: File number -> why the file is not a valid image.
        repaired: File number -> the defect that was repaired.
    """

    table: np.ndarray
    reasons: dict[int, str]
    repaired: dict[int, str]

    def of(self, numbers: np.ndarray) -> Columns:
        """Return the facts about the files with these numbers, i64[k]."""
        return Columns(self.table, numbers)


class Columns:
    """The facts about some files.

    Only the columns that are read are copied. All columns of `FACT` would take more memory than the plan.
    """

    def __init__(self, table: np.ndarray, numbers: np.ndarray):
        self._table, self._numbers = table, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the field `name` of `Facts.table` for each of the files, [k]."""
        column: np.ndarray = self._table[name][self._numbers]
        return column


@functools.cache
def change_names(bits: int) -> str:
    """Return the names of changes, joined by commas; "" for none."""
    return ",".join(name for i, name in enumerate(preparation.CHANGES) if bits >> i & 1)


def change_bits(names: Iterable[str]) -> int:
    """Return the bits of change names: bit i stands for `preparation.CHANGES[i]`."""
    return sum(1 << preparation.CHANGES.index(name) for name in names)


def reason_of(error: preparation.BadImage | ReadError | OSError) -> str:
    """Return why a file is not a valid image, as the part of a message after `path: `."""
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The facts of some files. A worker computes and saves one chunk at a time."""

    paths: list[str]
    table: np.ndarray  # FACT[len(paths)]
    reasons: dict[int, str]
    repaired: dict[int, str]


@dataclasses.dataclass(frozen=True)
class _Job:
    files: Files
    known: np.ndarray | None  # FACT[len(files)]
    config: ImageConfig
    save: Path | None  # Workers save the facts themselves, so that no facts are lost if the main process is killed.
    provenance: str


def survey(
    sources: Sources,
    pool: Pool,
    config: ImageConfig = ImageConfig(),
    *,
    known: np.ndarray | None = None,
    saved: Path | None = None,
    progress: Progress | None = None,
    check: Callable[[Mapping[int, str]], None] = lambda reasons: None,
) -> Facts:
    """Read every file once and inspect its image.

    Args:
        sources: The files.
        pool: The workers.
        config: How images are verified and stored.
        known: FACT[n], the facts of an earlier conversion with this config. A file with the same sha256 gets these
            facts and is not decoded. None: all files are decoded.
        saved: Directory in which facts are saved during the inspection. A file with saved facts is not read again if
            its path, size and mtime are unchanged. None: nothing is saved or reused.
        progress: Shows the progress. None: nothing is shown.
        check: Called with the reasons for all bad files so far. It may raise an exception to stop the inspection.

    Returns:
        The facts of all files.
    """
    table, done = np.zeros(len(sources), FACT), np.zeros(len(sources), bool)
    reasons: dict[int, str] = {}
    repaired: dict[int, str] = {}
    if saved is not None:
        saved.mkdir(exist_ok=True)
        done = _reuse_saved(saved, _provenance(config), sources, table, repaired)
    if progress:
        progress.skip(int(done.sum()))
    pending = np.flatnonzero(~done)
    parts = [pending[i : i + FILES_PER_JOB] for i in range(0, len(pending), FILES_PER_JOB)]
    jobs = _jobs(sources, parts, config, known, saved)
    for part, chunk in zip(parts, pool.map(_survey_job, jobs)):
        table[part] = chunk.table
        reasons |= {int(part[i]): reason for i, reason in chunk.reasons.items()}
        repaired |= {int(part[i]): defect for i, defect in chunk.repaired.items()}
        if progress:
            progress(len(part))
        check(reasons)
    return Facts(table=table, reasons=dict(sorted(reasons.items())), repaired=dict(sorted(repaired.items())))


def _jobs(
    sources: Sources, parts: Sequence[np.ndarray], config: ImageConfig, known: np.ndarray | None, saved: Path | None
) -> Iterator[_Job]:
    image_config, provenance = preparation.config_of(config), _provenance(config)
    for part, save in zip(parts, _new_names(saved)):
        yield _Job(sources.files(part), None if known is None else known[part], image_config, save, provenance)


def _new_names(saved: Path | None) -> Iterator[Path | None]:
    """Return an endless iterator over unused file names for chunks, or over None if `saved` is None."""
    if saved is None:
        return itertools.repeat(None)
    last = max((int(path.stem) for path in saved.glob("*.npz")), default=0)
    return (saved / f"{number:07d}.npz" for number in itertools.count(last + 1))


@pillow.unlimited()  # Entered once per job: nested calls cost 1 us per image instead of 15 us.
def _survey_job(job: _Job) -> _Chunk:
    table = np.zeros(len(job.files), FACT)
    reasons, repaired = {}, {}
    thumbnails = {}
    for i in range(len(job.files)):
        try:
            content = job.files.read(i)
            digest = hashlib.sha256(content.data).digest()
            if job.known is not None and _is_known(job.known[i], digest, job.config):
                table[i] = job.known[i]
                table[i]["size"], table[i]["mtime_ns"] = content.size, content.mtime_ns
                continue
            prepared = preparation.prepare(content.data, job.config, look=True)
            _ROW.pack_into(table.data, i * _ROW.size, *_fact(content, digest, prepared))
            if prepared.thumbnail is not None:
                thumbnails[i] = prepared.thumbnail
            if prepared.repaired:
                repaired[i] = prepared.repaired
        except (preparation.BadImage, ReadError, OSError) as error:
            reasons[i] = reason_of(error)
    _fill_in(table, thumbnails)
    chunk = _Chunk(job.files.paths, table, reasons, repaired)
    if job.save is not None:
        _save(job.save, chunk, job.provenance)
    return chunk


def _fill_in(table: np.ndarray, thumbnails: Mapping[int, Thumbnail]) -> None:
    """Fill in the facts about the look of the images, such as brightness, for all images of a job at once."""
    rows, found = list(thumbnails), appearance.facts(list(thumbnails.values()))
    for name in appearance.FACTS.names or ():
        table[name][rows] = found[name]


def _is_known(fact: np.void, digest: bytes, config: ImageConfig) -> bool:
    """Return whether the facts about a file can be reused.

    Repaired images are inspected again to report the defect. With full verification, images are also inspected again if
    their look is unknown, because an earlier version of this package did not record it.
    """
    same = fact["source_sha256"].tobytes() == digest and not fact["changes"] & change_bits(["repaired"])
    return bool(same and (config.verify != "full" or not np.isnan(fact["brightness"])))


def _fact(content: Content, digest: bytes, prepared: Prepared) -> tuple[object, ...]:
    """Return a row of `FACT`, for `_ROW`."""
    stored_digest = hashlib.sha256(prepared.data).digest() if prepared.changes else digest
    return (
        content.size,
        content.mtime_ns,
        digest,
        TYPES.index(prepared.source_type),
        len(prepared.data),
        stored_digest,
        TYPES.index(prepared.type),
        change_bits(prepared.changes),
        prepared.height,
        prepared.width,
        findings.bits(prepared.findings),
        *prepared.levels,
        *appearance.UNKNOWN,
    )


def _provenance(config: ImageConfig) -> str:
    """Return the versions and settings that the facts depend on, as text."""
    versions = f"tfrecord_tools {tfrecord_tools.__version__}, {formats.versions()}"
    return f"{versions}, {json.dumps(config.image_settings() | {'verify': config.verify})}"


def _save(path: Path, chunk: _Chunk, provenance: str) -> None:
    contents = {"by": provenance, "paths": chunk.paths, "reasons": chunk.reasons, "repaired": chunk.repaired}
    with files.atomic(path) as file:
        np.savez(file, table=chunk.table, text=np.frombuffer(json.dumps(contents).encode(), np.uint8))


def _load(path: Path, provenance: str) -> _Chunk | None:
    """Read a saved chunk; return None if it was made with other versions or settings."""
    with np.load(path) as arrays:
        text = json.loads(arrays["text"].tobytes())
        if text.get("by") != provenance or arrays["table"].dtype != FACT:
            return None
        reasons, repaired = ({int(i): words for i, words in text[name].items()} for name in ("reasons", "repaired"))
        return _Chunk(text["paths"], arrays["table"], reasons, repaired)


def _reuse_saved(
    saved: Path, provenance: str, sources: Sources, table: np.ndarray, repaired: dict[int, str]
) -> np.ndarray:
    """Fill in the saved facts of unchanged files; return bool[n], the files that were filled in."""
    done = np.zeros(len(sources), bool)
    names = sorted(saved.glob("*.npz"))
    number_of = {path: number for number, path in enumerate(sources.paths)} if names else {}
    for chunk in filter(None, (_load(name, provenance) for name in names)):
        rows, numbers = _unchanged(chunk, number_of, sources)
        table[numbers], done[numbers] = chunk.table[rows], True
        number_in = dict(zip(rows.tolist(), numbers.tolist()))
        repaired |= {number_in[row]: defect for row, defect in chunk.repaired.items() if row in number_in}
    return done


def _unchanged(chunk: _Chunk, number_of: Mapping[str, int], sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a chunk with valid, unchanged files, and their file numbers, both i64[k].

    A bad file is read again, because it may be readable now.
    """
    numbers = np.array([number_of.get(path, -1) for path in chunk.paths], np.int64)
    numbers[list(chunk.reasons)] = -1
    rows = np.flatnonzero(numbers >= 0)
    numbers = numbers[rows]
    same = chunk.table["size"][rows] == sources.sizes[numbers]
    same &= chunk.table["mtime_ns"][rows] == sources.mtimes_ns[numbers]
    return rows[same], numbers[same]
