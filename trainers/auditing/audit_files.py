"""The files of an audit, and the records that it doubts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, Records
from trainers.auditing import issues
from trainers.auditing.issues import KINDS

ABOUT = "audit.json"
AUDITS = Path("audits")  # Default parent directory, beside runs/ and features/.
DOUBTFUL = 0.5  # Issues with at least this score count as open. The page and issues.csv list more.
_DIGEST_SHOWN = 8


class AuditJson(TypedDict):
    """The content of audit.json.

    Attributes:
        dataset: Name of the dataset.
        digest: Digest of the dataset.
        features_from: Name of the backbone, or path of the model, of the features.
        folds: Number of folds.
        seed: Seed of the folds.
        records: Number of valid records.
        decided: Number of images that were decided in earlier reviews, without issues in the list.
        issues: Kind -> number of listed issues.
        doubtful: Kind -> number of issues with a score of at least `DOUBTFUL`.
        estimate: The estimated number of wrong labels, with its interval (`scoring.Estimate`).
    """

    dataset: str
    digest: str
    features_from: str
    folds: int
    seed: int
    records: int
    decided: int
    issues: dict[str, int]
    doubtful: dict[str, int]
    estimate: dict[str, Any]


def default(data: Dataset) -> Path:
    """Return the default directory of a dataset's audit, relative to the working directory."""
    return AUDITS / f"{data.name}-{data.digest[:_DIGEST_SHOWN]}"


def directory_of(data: Dataset, given: str | None) -> Path:
    """Return the directory of a dataset's audit: the value of --audit, or the default."""
    return Path(given) if given else default(data)


@dataclasses.dataclass(frozen=True)
class Doubts:
    """The open issues of an audit.

    Attributes:
        directory: Directory of the audit.
        kinds: Hash of a source file in hexadecimal -> the kinds of its open issues.
    """

    directory: Path
    kinds: Mapping[str, frozenset[str]]

    def of(self, records: Records, kinds: Collection[str] = KINDS) -> np.ndarray:
        """Return bool[n], the records with an open issue of one of the kinds."""
        hashes = [row.tobytes().hex() for row in records.source_sha256]
        return np.array([not self.kinds.get(sha256, frozenset()).isdisjoint(kinds) for sha256 in hashes], bool)


def find(data: Dataset, directory: str | None) -> Doubts | None:
    """Return the open issues of a dataset's audit.

    Args:
        data: The dataset.
        directory: Value of --audit. None: the default directory.

    Returns:
        The issues; None if `directory` is None and there is no audit of this dataset.

    Raises:
        UserError: `directory` is not an audit, or is the audit of another dataset.
    """
    path = directory_of(data, directory)
    if directory is None and not (path / ABOUT).exists():
        return None
    return _read(path, data.digest)


def _read(directory: Path, digest: str) -> Doubts:
    try:
        about: AuditJson = json.loads((directory / ABOUT).read_text("utf-8"))
        audited = about["digest"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--audit={directory}: is not an audit (it has no readable {ABOUT}). Pass the --out of"
            " python -m trainers.audit."
        ) from error
    if audited != digest:
        raise UserError(
            f"--audit={directory}: is the audit of another dataset (digest {audited[:_DIGEST_SHOWN]}; this dataset has"
            f" {digest[:_DIGEST_SHOWN]}). Run python -m trainers.audit on this dataset."
        )
    kinds: dict[str, frozenset[str]] = {}
    for row in issues.read(directory / issues.PARQUET):
        if row.score >= DOUBTFUL:
            kinds[row.sha256] = kinds.get(row.sha256, frozenset()) | {row.kind}
    return Doubts(directory, kinds)
