"""The files of an audit, and the records with open issues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.records import Dataset, Records
from trainers.auditing import issues
from trainers.auditing.issues import KINDS

ABOUT = "audit.json"
# Content of audit.json while an audit writes its files. The next audit may replace the files of an unfinished audit. No
# other command uses them.
UNFINISHED = {"unfinished": True}
AUDITS = Path("audits")  # Default parent directory of audits, in the working directory like runs/ and features/.
# Issues with at least this score are open issues. The page and issues.csv also list issues with lower scores.
DOUBTFUL = 0.5
_DIGEST_SHOWN = 8  # Number of characters of the digest in names and messages.
_NEAR = "near_duplicate"


class AuditJson(TypedDict):
    """The content of audit.json.

    Attributes:
        dataset: Name of the dataset.
        digest: Digest of the dataset.
        features_from: Name of the backbone, or path of the model, that computed the features.
        folds: Number of folds.
        seed: Seed of the folds.
        records: Number of valid records.
        decided: Number of valid records that a person has decided in earlier reviews.
        issues: Kind -> number of listed issues.
        doubtful: Kind -> number of issues with a score of at least `DOUBTFUL`.
        estimate: The estimated number of wrong labels, with its interval: the fields of `labels.Estimate`.
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
        conflicts: Hashes of the images of open near-duplicates with different labels.
        decided: Keys of the decisions of earlier reviews (`decisions.Decision.key`).
    """

    directory: Path
    kinds: Mapping[str, frozenset[str]]
    conflicts: frozenset[str] = frozenset()
    decided: Collection[str] = frozenset()

    def of(self, records: Records, kinds: Collection[str] = KINDS) -> np.ndarray:
        """Return bool[n], whether each record has an open issue of one of the kinds."""
        return self.of_hashes(records.source_sha256, kinds)

    def of_hashes(self, sha256: np.ndarray, kinds: Collection[str] = KINDS) -> np.ndarray:
        """Do the same as `of`, for the hashes u8[n 32] of source files."""
        return np.array([not self.kinds.get(name, frozenset()).isdisjoint(kinds) for name in _names(sha256)], bool)

    def to_leave_out(self, train: Records, evaluated: Iterable[Records], kinds: Collection[str]) -> np.ndarray:
        """Return bool[n], the training records to leave out because of issues of some kinds.

        Near-duplicates are left out if the labels of a pair differ, or if the other image is evaluated. The splits of
        the dataset do not count here, because a fold or a held-out part may be evaluated instead.

        Args:
            train: Training records.
            evaluated: Records that the model is evaluated on.
            kinds: Some of `KINDS`.

        Raises:
            UserError: The file of near-duplicates is damaged.
        """
        doubted = self.of(train, set(kinds) - {_NEAR})
        if _NEAR not in kinds:
            return doubted
        names = _names(train.source_sha256)
        left_out = (self.conflicts | self._twins(set(names), evaluated)).difference(self.decided)
        return doubted | np.array([name in left_out for name in names], bool)

    def _twins(self, train: set[str], evaluated: Iterable[Records]) -> set[str]:
        """Return the hashes of training images that are near-duplicates of evaluated images."""
        others = {name for records in evaluated for name in _names(records.source_sha256)}
        twins = train & others  # A table of folds may have copies of a file in several folds.
        try:
            for left, right in issues.read_pairs(self.directory):
                if decisions.key_of(left, right) in self.decided:
                    continue
                twins.update(one for one, other in ((left, right), (right, left)) if one in train and other in others)
        except ValueError as error:
            raise UserError(f"{self.directory}: {error}. Run python -m trainers.audit again.") from error
        return twins

    @property
    def sha256(self) -> str:
        """SHA-256 of the open issues, in hexadecimal."""
        lines = sorted(f"{sha256} {','.join(sorted(kinds))}\n" for sha256, kinds in self.kinds.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _names(sha256: np.ndarray) -> list[str]:
    """Return hashes u8[n 32] in hexadecimal."""
    return [row.tobytes().hex() for row in sha256]


def find(data: Dataset, directory: str | None, log: Callable[[str], object] = print) -> Doubts | None:
    """Return the open issues of a dataset's audit.

    An open issue has a score of at least `DOUBTFUL`. The two images of an open near-duplicate have different labels or
    splits, so both images have the issue.

    Args:
        data: The dataset.
        directory: Value of --audit. If None, the default directory is used.
        log: Receives a line if the audit in the default directory is not finished.

    Returns:
        The open issues. None if `directory` is None and the default directory has no finished audit.

    Raises:
        UserError: `directory` is not a finished audit of this dataset, or the files of the audit are damaged.
    """
    path = directory_of(data, directory)
    if not directory and not (path / ABOUT).exists():
        return None
    again = f"python -m trainers.audit --tfrecords={data.location}"
    try:
        audited = _audited(path)
        if audited is None and not directory:
            log(f"audit: the audit in {path} is not finished, so it is not used. To finish this audit, run {again}")
            return None
        _check(audited, data.digest)
        return _open_issues(path, data.directory)
    except ValueError as error:
        if directory:
            raise UserError(
                f"--audit={path}: {error}. Pass the directory of a finished audit. To make an audit, run {again}"
            ) from error
        raise UserError(
            f"{path}: {error}. An audit in this directory is used by default. Run {again} again, or delete the"
            " directory."
        ) from error


def _audited(directory: Path) -> str | None:
    """Return the digest of the dataset of an audit; None if the audit is not finished."""
    try:
        about = json.loads((directory / ABOUT).read_text("utf-8"))
        return None if about == UNFINISHED else str(about["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is not an audit (it has no readable {ABOUT})") from error


def _check(audited: str | None, digest: str) -> None:
    """Raise ValueError if an audit is not finished, or is the audit of another dataset."""
    if audited is None:
        raise ValueError("is not finished")
    if audited != digest:
        raise ValueError(
            f"is the audit of another dataset (its checksum starts with {audited[:_DIGEST_SHOWN]}; the checksum of"
            f" this dataset starts with {digest[:_DIGEST_SHOWN]})"
        )


def _open_issues(directory: Path, dataset: Path) -> Doubts:
    """Return the open issues, without images that a person has decided.

    After the decisions "label" or "drop", the dataset has another digest and needs a new audit. The decisions "keep"
    and "both" do not change the digest, so the audit still lists the issues of these images.
    """
    decided = decisions.of_dataset(dataset)
    kinds: dict[str, frozenset[str]] = {}
    conflicts = set()
    for kind, sha256, twin, score in issues.read(directory / issues.PARQUET, DOUBTFUL):
        if kind == _NEAR and decisions.key_of(sha256, twin) in decided:
            continue
        for image in (sha256, twin) if kind == _NEAR else (sha256,):
            if image not in decided:
                kinds[image] = kinds.get(image, frozenset()) | {kind}
                if kind == _NEAR and score >= issues.ACROSS_LABELS:
                    conflicts.add(image)
    return Doubts(directory, kinds, frozenset(conflicts), frozenset(decided))
