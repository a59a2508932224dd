"""Apply the user's decisions about single images, before duplicates are found and splits are made.

A decision leaves an image out ("drop"), keeps it ("keep"), gives it another label ("label"), or keeps two images that
look alike ("both").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tfrecord_tools.base import words
from tfrecord_tools.conversion.survey import Facts
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout import decisions
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.decisions import Decision, Decisions, Effect
from tfrecord_tools.sources.relabel import NewLabel
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decided:
    """A source after the decisions about its images.

    Attributes:
        decisions: All decisions.
        effect: The number of changes of each kind.
        class_names: The class table, without the classes that lost all their images.
        labels: i32[n], index into `class_names` for each file; -1 for files that are left out.
        dropped: i64[k], the numbers of the files that are left out, ascending.
        kept: i64[k], the numbers of the files that are right as they are, ascending.
        paired: i64[k], the numbers of the files that are kept as one of a pair of files that look alike, ascending.
        taken: The number of each file that is left out or gets another label, and the decision.
        removed: The classes that were removed.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    dropped: np.ndarray
    kept: np.ndarray
    paired: np.ndarray
    decisions: Decisions = dataclasses.field(default_factory=Decisions)
    effect: Effect = dataclasses.field(default_factory=Effect)
    taken: Sequence[tuple[int, Decision]] = ()
    removed: tuple[str, ...] = ()

    @property
    def alike(self) -> np.ndarray:
        """The numbers of the files that stay although they look like others, i64[k]."""
        return np.union1d(self.kept, self.paired)

    @property
    def origin(self) -> str:
        """The file or flag with the decisions that leave out or relabel images, as the start of a message."""
        return self.decisions.origin(one for _, one in self.taken)

    def rejected(self, sources: Sources) -> list[Rejected]:
        """Return an entry for each file that is left out."""
        paths = (sources.paths[number] for number in self.dropped.tolist())
        return [Rejected(path=path, reason=decisions.DROPPED, done="dropped") for path in paths]

    def notes(self) -> Iterator[str]:
        """Yield notes on what the decisions changed."""
        yield from self.effect.notes()
        if self.removed:
            classes = words.number(len(self.removed), "class was", "classes were")
            yield f"{classes} removed, because the decisions leave no image of them: {named(self.removed)}"


def apply(
    made: Decisions,
    sources: Sources,
    facts: Facts,
    table: tuple[tuple[str, ...], np.ndarray],
    fixed_classes: bool,
) -> Decided:
    """Apply decisions to the files of a source.

    Args:
        made: The decisions.
        sources: The source files.
        facts: The facts about the source files. Decisions about files that cannot be records are ignored.
        table: The class table, and the label i32[n] of each file, an index into the class table.
        fixed_classes: Whether no class may be removed. This is so if an existing dataset or --classes gives the table.

    Raises:
        UserError: A new label is not a class, or no image or only one class is left.
    """
    class_names, labels = table
    valid = np.ones(len(sources), bool)
    valid[list(facts.reasons)] = False
    found = decisions.matches(made.in_effect, facts.table["source_sha256"])
    pairs = [(number, one) for number, one in found if valid[number]]
    changed, label_of = labels.copy(), {name: label for label, name in enumerate(class_names)}
    for number, one in pairs:
        changed[number] = made.new_label(one, label_of, changed[number])
    dropped, kept = (
        np.array([number for number, one in pairs if one.decision == word], np.int64) for word in ("drop", "keep")
    )
    both, paired = _pairs(made, facts, np.flatnonzero(valid), dropped)
    result = Decided(
        class_names=class_names,
        labels=changed,
        dropped=dropped,
        kept=kept,
        paired=paired,
        decisions=made,
        effect=decisions.effect(made, ((one, class_names[labels[number]]) for number, one in pairs), both),
        taken=[(number, one) for number, one in pairs if changed[number] != labels[number]],
    )
    valid[dropped] = False
    if pairs and not valid.any():
        raise UserError(
            f"{result.origin}: the decisions leave out every image of {sources.root}. Correct the decisions."
        )
    touched = labels[changed != labels]
    return result if fixed_classes else _without_empty(result, np.setdiff1d(touched, changed[valid]))


def _pairs(
    made: Decisions, facts: Facts, numbers: np.ndarray, dropped: np.ndarray
) -> tuple[list[Decision], np.ndarray]:
    """Return the decisions about pairs among files i64[n], and the files that they keep.

    A decision keeps nothing if another decision leaves out one side of the pair.
    """
    found = list(decisions.pairs(made.in_effect, facts.table["source_sha256"][numbers]))
    is_dropped = np.isin(numbers, dropped)
    kept = np.zeros(len(numbers), bool)
    for one, other, _ in found:
        # All copies of an image have the same decision, so only the first copy is looked up.
        if not is_dropped[[one[0], other[0]]].any():
            for copies in (one, other):
                if not kept[copies[0]]:
                    kept[copies] = True
    return [decision for *_, decision in found], numbers[kept]


def _without_empty(decided: Decided, empty: np.ndarray) -> Decided:
    """Remove the classes with the labels `empty`, i32[k], from the class table.

    Raises:
        UserError: Only one class is left.
    """
    if not len(empty):
        return decided
    removed = set(empty.tolist())
    names = [name for label, name in enumerate(decided.class_names) if label not in removed]
    if len(names) < 2:
        raise UserError(
            f"{decided.origin}: the decisions leave only one class, {names[0]!r}. A classifier needs at least two"
            " classes. Correct the decisions, or add images of other classes."
        )
    label_of = {name: label for label, name in enumerate(names)}
    numbers = np.array([label_of.get(name, -1) for name in decided.class_names], np.int32)
    return dataclasses.replace(
        decided,
        class_names=tuple(names),
        labels=np.where(decided.labels < 0, -1, numbers[decided.labels]),
        removed=tuple(decided.class_names[label] for label in sorted(removed)),
    )


def of_paths(rows: Sequence[NewLabel], sources: Sources, facts: Facts, where: str) -> dict[str, Decision]:
    """Turn the new labels in a table of --relabel into decisions.

    Files that are not valid images get no decision.

    Args:
        rows: The rows of the table of --relabel.
        sources: The source files.
        facts: The facts about the source files.
        where: The flag with its value, for messages.

    Returns:
        SHA-256 of an image -> decision about this image.

    Raises:
        UserError: Files with the same bytes get different labels.
    """
    number_of = {path: number for number, path in enumerate(sources.paths)}
    made: dict[str, tuple[NewLabel, Decision]] = {}
    for row in rows:
        if (number := number_of[row.path]) in facts.reasons:
            continue
        sha256 = facts.table["source_sha256"][number].tobytes().hex()
        first, one = made.setdefault(sha256, (row, Decision(sha256, "label", row.label, row.path)))
        if one.label != row.label:
            raise UserError(
                f"{where}: rows {first.line:,} and {row.line:,} contradict each other. {first.path} and {row.path} have"
                f" the same bytes, but get the labels {first.label!r} and {row.label!r}. Delete one of the rows."
            )
    return {sha256: one for sha256, (_, one) in made.items()}
