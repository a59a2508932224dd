"""Replace the labels of single images by those in the table of --relabel."""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.manifest import Reading

_NAMES_SHOWN = 10  # Class names in a message.
_CHANGES_SHOWN = 5  # Pairs of an old and a new label in a note.


def relabel(
    table: str, src: str, paths: Sequence[str], labels: Sequence[str | None]
) -> tuple[list[str | None], Counter[tuple[str, str]], int]:
    """Give the images that are listed in a table the labels from the table.

    Args:
        table: Path of a CSV or Parquet file with the columns `path` and `label` (or `predicted_label`).
        src: The source of the images, for messages.
        paths: The path of each image.
        labels: The label of each image. None: the image is not used.

    Returns:
        The new labels, (old label, new label) -> number of changed images, and the number of unchanged rows.

    Raises:
        UserError: The table cannot be read, or has a path that is not an image, or a label that is not a class.
    """
    reading = Reading(
        columns={"path": "path", "label": "label"},
        also={"label": "predicted_label"},  # The column's name in suspects.csv. Earlier releases wrote `label`.
        classes=set(filter(None, labels)),
        flag="relabel",
        exact=True,
    )
    rows = manifest.read(table, src, reading)
    number_of = {path: number for number, path in enumerate(paths) if labels[number] is not None}
    unknown = [path for path in rows.paths if path not in number_of]
    if unknown:
        raise UserError(
            f"--relabel={table}: {len(unknown):,} of {len(rows.paths):,} paths do not match any image in {src}, for"
            f" example {unknown[0]!r}. Write paths as in predictions.csv and records.parquet, for example"
            f" {next(iter(number_of), 'none')!r}."
        )
    names = {name for name in labels if name is not None}
    for path, name in zip(rows.paths, rows.labels):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3) or sorted(names)[:_NAMES_SHOWN]
            raise UserError(
                f"--relabel={table}: the label {name!r} of {path!r} is not a class. Use a class of the source, for"
                f" example {', '.join(near)}."
            )
    new_labels, counts = list(labels), Counter[tuple[str, str]]()
    for path, name in zip(rows.paths, rows.labels):
        old = labels[number_of[path]]
        if old is not None and old != name:
            new_labels[number_of[path]] = sys.intern(name)
            counts[old, name] += 1
    return new_labels, counts, len(rows.paths) - counts.total()


def notes(relabeled: Counter[tuple[str, str]], unchanged: int) -> Iterator[str]:
    """Yield a note on the changed labels, and one on rows that change nothing."""
    if relabeled:
        changes = ", ".join(
            f"{count:,} from {old} to {new}" for (old, new), count in relabeled.most_common(_CHANGES_SHOWN)
        )
        rest = len(relabeled) - _CHANGES_SHOWN
        more = f", and {words.number(rest, 'other change')}" if rest > 0 else ""
        yield f"{words.number(relabeled.total(), 'image')} relabeled: {changes}{more}"
    if unchanged:
        row = words.number(unchanged, "row of --relabel has", "rows of --relabel have")
        yield f"{row} no effect: the image has this label already"
