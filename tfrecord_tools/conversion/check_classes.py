"""Check that each class has a training image; if not, report which flags left the images out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfrecord_tools.conversion.decide import Decided
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass(frozen=True)
class Loss:
    """Training images that a step of the plan left out.

    Attributes:
        flag: The flag with its value, for example "--near_duplicates=drop".
        labels: i32[n], the label of each image.
    """

    flag: str
    labels: np.ndarray


def check(
    sources: Sources, class_names: Sequence[str], rows: Rows, decided: Decided, losses: Sequence[Loss], updating: bool
) -> None:
    """Check that each class has an image in train. A source with splits but without train is not checked.

    Args:
        sources: The source files.
        class_names: The class table.
        rows: The records.
        decided: The source after the decisions about its images.
        losses: The training images that were left out after the decisions.
        updating: Whether an existing dataset is updated.

    Raises:
        UserError: A class has no image in train. The message names the decisions and flags that took its images away.
    """
    train = rows.splits == 0
    if sources.has_splits and not train.any():
        return
    counts = np.bincount(rows.labels[train], minlength=len(class_names))
    for label in np.flatnonzero(counts == 0).tolist():
        total = int((rows.labels == label).sum())
        problem = f"the class {class_names[label]!r} has no valid image in the train split ({total:,} in all splits)"
        causes = list(_causes(sources, class_names, label, decided, losses, updating))
        if causes:
            reasons, remedies = ", and ".join(c.reason for c in causes), " ".join(c.remedy for c in causes)
            raise UserError(f"{causes[0].origin}: {problem}, because {reasons}. {remedies}")
        remedy = "Add images of this class, or list the other classes in --classes to leave it out."
        if updating:
            remedy = "An update keeps every class. Bring the images back, or convert again with --overwrite."
        raise UserError(f"{problem}. {remedy}")


class _Cause(NamedTuple):
    """Why a class lost training images, for a message.

    Attributes:
        origin: The flag with its value, or the dataset, that left the images out.
        reason: The reason, with the number of images.
        remedy: Advice for the user.
    """

    origin: str
    reason: str
    remedy: str


def _causes(
    sources: Sources,
    class_names: Sequence[str],
    label: int,
    decided: Decided,
    losses: Sequence[Loss],
    updating: bool,
) -> Iterator[_Cause]:
    taken = [
        one
        for number, one in decided.taken
        if sources.class_names[sources.labels[number]] == class_names[label]
        and not (sources.has_splits and sources.splits[number])
    ]
    if taken:
        other = "convert again with --overwrite" if updating else "list the other classes in --classes"
        remedy = f"Correct these decisions, take them back with the decision 'none', or {other}."
        yield _Cause(decided.decisions.origin(taken), decisions.taking(taken), remedy)
    for loss in losses:
        if count := int((loss.labels == label).sum()):
            keep = f"{loss.flag.partition('=')[0]}=keep"
            remedy = f"Convert again with --overwrite {keep}." if updating else f"Pass {keep}."
            yield _Cause(loss.flag, f"{loss.flag} leaves out {count:,} of its images", remedy)
