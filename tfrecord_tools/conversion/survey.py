"""What the files hold: one read of each, in parallel, saved as it goes, reused by the next run."""

from __future__ import annotations

import dataclasses
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
from tfrecord_tools.images import formats, pillow, preparation
from tfrecord_tools.images.preparation import ImageConfig, Prepared
from tfrecord_tools.layout import findings
from tfrecord_tools.sources.base import Content, Files, ReadError
from tfrecord_tools.sources.scan import Sources

FILES_PER_JOB = 512  # About 0.2 s of work: what a killed run loses at most, per worker.
TYPES = ("", *preparation.READ_TYPES, "RAW")
FACT = np.dtype(  # In the layout of `_ROW`.
    [
        ("size", "<i8"), ("mtime_ns", "<i8"), ("source_sha256", "u1", 32), ("source_type", "u1"),
        ("bytes", "<i8"), ("sha256", "u1", 32), ("type", "u1"), ("changes", "u1"), ("height", "<i4"), ("width", "<i4"),
        ("findings", "u1"), ("lowest", "<f4"), ("highest", "<f4"),
    ]
)  # fmt: skip
_ROW = struct.Struct("<qq32sBq32sBBiiBff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found in each file of a `Sources`, in its order.

    Attributes:
        table: FACT[n]. Of the file: size in bytes and mtime in ns when it was read, sha256, type (index into
            `TYPES`). Of what is stored of it: bytes, sha256, type, changes (bit i: `preparation.CHANGES[i]`), height
            and width in pixels, findings (bit i: the i-th of `findings.FINDINGS`), lowest and highest level of images
            with more than 8 bits. All 0 if it is no sound image.
        reasons: File number -> why it is not a sound image.
        repaired: File number -> what was wrong with it and is mended.
    """

    table: np.ndarray
    reasons: dict[int, str]
    repaired: dict[int, str]


def change_names(bits: int) -> str:
    """The names of changes, joined by commas; "" for none."""
    return ",".join(name for i, name in enumerate(preparation.CHANGES) if bits >> i & 1)


def change_bits(names: Iterable[str]) -> int:
    """The other way round: bit i stands for `preparation.CHANGES[i]`."""
    return sum(1 << preparation.CHANGES.index(name) for name in names)


def reason_of(error: preparation.BadImage | ReadError | OSError) -> str:
    """Why a file is not a sound image, in words that follow `path: `."""
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The facts of some files: the unit of work, and of what is saved."""

    paths: list[str]
    table: np.ndarray  # FACT[len(paths)]
    reasons: dict[int, str]
    repaired: dict[int, str]


@dataclasses.dataclass(frozen=True)
class _Job:
    files: Files
    known: np.ndarray | None  # FACT[len(files)]
    config: ImageConfig
    save: Path | None  # Where the facts are saved, by who finds them: what is done outlives the driver.
    surveyor: str


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
    """Reads every file once and says what is in it.

    Args:
        sources: The files.
        pool: Where the work is done.
        config: How images are proven and stored.
        known: FACT[n], what an earlier conversion with this config found. It is taken over for every file whose
            bytes have the same sha256, without decoding.
        saved: A directory in which facts are saved as they are found. Facts that are there already are
            taken over, without reading, for every file whose path, size and mtime are unchanged.
        progress: Shows how far it is.
        check: Called with the reasons for all files found bad so far; may raise to stop.
    """
    table, done = np.zeros(len(sources), FACT), np.zeros(len(sources), bool)
    reasons: dict[int, str] = {}
    repaired: dict[int, str] = {}
    if saved is not None:
        saved.mkdir(exist_ok=True)
        done = _take_over(saved, _surveyor(config), sources, table, repaired)
    if progress:
        progress.skip(int(done.sum()))
    pending = np.flatnonzero(~done)
    parts = [pending[i : i + FILES_PER_JOB] for i in range(0, len(pending), FILES_PER_JOB)]
    jobs = _jobs(sources, parts, config, known, saved)
    for part, chunk in zip(parts, pool.map(_survey_job, jobs)):
        table[part] = chunk.table
        reasons |= {int(part[i]): reason for i, reason in chunk.reasons.items()}
        repaired |= {int(part[i]): wrong for i, wrong in chunk.repaired.items()}
        if progress:
            progress(len(part))
        check(reasons)
    return Facts(table=table, reasons=dict(sorted(reasons.items())), repaired=dict(sorted(repaired.items())))


def _jobs(
    sources: Sources, parts: Sequence[np.ndarray], config: ImageConfig, known: np.ndarray | None, saved: Path | None
) -> Iterator[_Job]:
    image_config, surveyor = preparation.config_of(config), _surveyor(config)
    for part, save in zip(parts, _new_names(saved)):
        yield _Job(sources.files(part), None if known is None else known[part], image_config, save, surveyor)


def _new_names(saved: Path | None) -> Iterator[Path | None]:
    """Return an endless iterator over names for chunks that are not saved yet; over None if nothing is saved."""
    if saved is None:
        return itertools.repeat(None)
    last = max((int(path.stem) for path in saved.glob("*.npz")), default=0)
    return (saved / f"{number:07d}.npz" for number in itertools.count(last + 1))


@pillow.unlimited()  # Once per job: within it, another image costs 1 us instead of 15.
def _survey_job(job: _Job) -> _Chunk:
    table = np.zeros(len(job.files), FACT)
    reasons, repaired = {}, {}
    for i in range(len(job.files)):
        try:
            content = job.files.read(i)
            digest = hashlib.sha256(content.data).digest()
            if job.known is not None and _is_known(job.known[i], digest):
                table[i] = job.known[i]
                table[i]["size"], table[i]["mtime_ns"] = content.size, content.mtime_ns
                continue
            prepared = preparation.prepare(content.data, job.config)
            _ROW.pack_into(table.data, i * _ROW.size, *_fact(content, digest, prepared))
            if prepared.repaired:
                repaired[i] = prepared.repaired
        except (preparation.BadImage, ReadError, OSError) as error:
            reasons[i] = reason_of(error)
    chunk = _Chunk(job.files.paths, table, reasons, repaired)
    if job.save is not None:
        _save(job.save, chunk, job.surveyor)
    return chunk


def _is_known(fact: np.void, digest: bytes) -> bool:
    """What was repaired is looked at again, since what was wrong with it is to be told again."""
    return fact["source_sha256"].tobytes() == digest and not fact["changes"] & change_bits(["repaired"])


def _fact(content: Content, digest: bytes, prepared: Prepared) -> tuple[object, ...]:
    """Returns a row of `FACT`, for `_ROW`."""
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
    )


def _surveyor(config: ImageConfig) -> str:
    """Whose findings these are: with another version or config they may be others."""
    found_by = f"tfrecord_tools {tfrecord_tools.__version__}, {formats.versions()}"
    return f"{found_by}, {json.dumps(config.image_settings() | {'verify': config.verify})}"


def _save(path: Path, chunk: _Chunk, surveyor: str) -> None:
    contents = {"by": surveyor, "paths": chunk.paths, "reasons": chunk.reasons, "repaired": chunk.repaired}
    with files.atomic(path) as file:
        np.savez(file, table=chunk.table, text=np.frombuffer(json.dumps(contents).encode(), np.uint8))


def _load(path: Path, surveyor: str) -> _Chunk | None:
    """Reads a saved chunk; None if another surveyor found these facts."""
    with np.load(path) as arrays:
        text = json.loads(arrays["text"].tobytes())
        if text.get("by") != surveyor:
            return None
        reasons, repaired = ({int(i): words for i, words in text[name].items()} for name in ("reasons", "repaired"))
        return _Chunk(text["paths"], arrays["table"], reasons, repaired)


def _take_over(saved: Path, surveyor: str, sources: Sources, table: np.ndarray, repaired: dict[int, str]) -> np.ndarray:
    """Fill in the saved facts of unchanged files; return bool[n], the files that have facts now."""
    done = np.zeros(len(sources), bool)
    names = sorted(saved.glob("*.npz"))
    number_of = {path: number for number, path in enumerate(sources.paths)} if names else {}
    for chunk in filter(None, (_load(name, surveyor) for name in names)):
        rows, numbers = _unchanged(chunk, number_of, sources)
        table[numbers], done[numbers] = chunk.table[rows], True
        number_in = dict(zip(rows.tolist(), numbers.tolist()))
        repaired |= {number_in[row]: wrong for row, wrong in chunk.repaired.items() if row in number_in}
    return done


def _unchanged(chunk: _Chunk, number_of: Mapping[str, int], sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a chunk whose files are valid and as they were, and the numbers of these files, both i64[k].

    A file that was found bad is read again: it may be readable now.
    """
    numbers = np.array([number_of.get(path, -1) for path in chunk.paths], np.int64)
    numbers[list(chunk.reasons)] = -1
    rows = np.flatnonzero(numbers >= 0)
    numbers = numbers[rows]
    same = chunk.table["size"][rows] == sources.sizes[numbers]
    same &= chunk.table["mtime_ns"][rows] == sources.mtimes_ns[numbers]
    return rows[same], numbers[same]
