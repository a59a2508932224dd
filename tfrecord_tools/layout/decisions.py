"""A person's decisions about images: change or confirm a label, leave an image out, keep a pair.

A decision names an image by the SHA-256 of its source file's bytes. Renamed and moved files keep their decision, and
copies of the same bytes share it. A decision about a pair has two hashes. The table decisions.csv has the columns
`COLUMNS`; a dataset has its decisions in `convert.json`, under "decisions".
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tfrecord_tools.base import tables, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout import dataset_files, index
from tfrecord_tools.layout.dataset_files import DecidedCounts, DecisionEntry, Report
from tfrecord_tools.layout.splitting import content_hashes

if TYPE_CHECKING:
    import pyarrow as pa

Word = Literal["label", "drop", "keep", "both", "none"]
WORDS: tuple[Word, ...] = ("label", "drop", "keep", "both", "none")
HELP = (
    "CSV or Parquet file with corrections of single images, or the directory of a dataset that was made with such a"
    " file. The file has the columns sha256, decision, label and twin_sha256. The decision is one of five words."
    " 'label': use the class in the column label; 'drop': leave the image out; 'keep': keep the image with its label;"
    " 'both': keep this image and the similar image with the hash in twin_sha256; 'none': cancel an earlier decision."
)
COLUMNS = ("sha256", "decision", "label", "path", "given_label", "twin_sha256")
STORED = "the decisions of the dataset at --out"  # Start of messages about stored decisions, instead of a flag.
DROPPED = "left out by the decision drop"  # The reason in rejected.csv.
_NEEDED = ("sha256", "decision")
_LABELS = ("label", "predicted_label", "proposed_label")  # The first one with a value is the new label.
_HASH = re.compile(r"[0-9a-f]{64}")
_NAMES_SHOWN = 10  # Class names in a message.
_CHANGES_SHOWN = 5  # Pairs of an old and a new label in a note.
_REPLACEMENT = "pass --decisions=FILE with another decision about this image. The decision 'none' takes it back"
_LISTED = f"{', '.join(WORDS[:-1])} or {WORDS[-1]}"
# Other tables, by columns that only they have.
_OTHERS = {
    "suspects.csv": {"predicted_label", "given_label"},
    "predictions.csv": {"prediction", "record"},
    "the list of issues of an audit": {"kind", "score", "proposed_label"},
}


def key_of(sha256: str, twin_sha256: str = "") -> str:
    """Return the key of a decision: the hash of its image, or both hashes of its pair in any order."""
    return " ".join(sorted((sha256, twin_sha256))) if twin_sha256 else sha256


@dataclasses.dataclass(frozen=True)
class Decision:
    """A decision about an image, or about a pair of images that look alike.

    Attributes:
        sha256: SHA-256 of the source file's bytes, 64 hexadecimal digits in lower case.
        decision: "label" gives the image another label, "drop" leaves it out, "keep" confirms its label. "both" keeps
            both images of a pair, and says nothing about their labels. "none" takes an earlier decision back, and is
            never stored.
        label: Name of the new class; "" unless `decision` is "label".
        path: Path of the image when the decision was made. It may be "". It is used only in messages.
        twin_sha256: The same hash for the other image of a pair. "": the decision is about one image.
        given_label: The label that the person saw, or "". It is used only in messages, and is never stored.
    """

    sha256: str
    decision: Word
    label: str
    path: str
    twin_sha256: str = ""
    given_label: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        """Return the decision in words, for messages."""
        return f"label {self.label!r}" if self.decision == "label" else self.decision

    def contradicts(self, other: Decision) -> bool:
        """Return whether two decisions about the same image differ."""
        return (self.decision, self.label) != (other.decision, other.label)

    def label_in(self, label_of: Mapping[str, int], old: int) -> int:
        """Return the image's label after the decision.

        Args:
            label_of: Class name -> label.
            old: The image's label without the decision.

        Returns:
            The label, or `index.LEFT_OUT` if the decision is "drop".
        """
        if self.decision == "drop":
            return index.LEFT_OUT
        return label_of[self.label] if self.decision == "label" else old

    @property
    def key(self) -> str:
        """The key of the decision in mappings; see `key_of`."""
        return key_of(self.sha256, self.twin_sha256)

    @property
    def image(self) -> str:
        """The path of the image, or its hash if no path is known."""
        return self.path or self.sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decisions:
    """All decisions about the images of a dataset, from `combined`.

    Attributes:
        in_effect: Key -> decision, without those that are "none".
        layers: Pairs of a flag with its value, such as "--decisions=FILE", and the decisions in this file: key ->
            decision. They include "none", but not those in `confirming`. Later pairs replace earlier ones.
        confirming: Key -> "keep" about an image with an earlier decision "label". The earlier decision stays.
        new_class: Advice for messages: how a user adds a class.
        stored: Number of decisions of the existing dataset.
        replaced: How many of the stored decisions were replaced.
        withdrawn: How many of the stored decisions were taken back.
        replaced_rows: Number of rows of --relabel with a decision that a later file replaced or took back.
        idle: Number of "none" decisions that change nothing, because the image had no decision.
    """

    in_effect: Mapping[str, Decision] = dataclasses.field(default_factory=dict)
    layers: Sequence[tuple[str, Mapping[str, Decision]]] = ()
    confirming: Mapping[str, Decision] = dataclasses.field(default_factory=dict)
    new_class: str = "add it to --classes"
    stored: int = 0
    replaced: int = 0
    withdrawn: int = 0
    replaced_rows: int = 0
    idle: int = 0

    def new_label(self, decision: Decision, label_of: Mapping[str, int], old: int) -> int:
        """Return the label of an image after a decision; see `Decision.label_in`.

        Raises:
            UserError: The label is not a class.
        """
        origin = self.origin([decision])
        correction = f"To replace this decision, {_REPLACEMENT}" if origin == STORED else "Correct the label"
        check_labels([decision], label_of, origin, correction, self.new_class)
        return decision.label_in(label_of, old)

    def origin(self, decisions: Iterable[Decision]) -> str:
        """Return the start of a message: the flag with the file that has one of the decisions, or `STORED`."""
        keys = {one.key for one in decisions}
        return next((where for where, layer in reversed(self.layers) if any(key in layer for key in keys)), STORED)

    def check_matched(self, found: Collection[str], source: str) -> None:
        """Refuse a file if none of its decisions is about an image of the source.

        Args:
            found: Keys of the decisions about images of the source.
            source: The source of the images.

        Raises:
            UserError: A file has decisions that are in effect, and none of them is about an image of the source.
        """
        for where, layer in self.layers:
            changing = [one for key, one in layer.items() if self.in_effect.get(key) is one]
            if changing and not any(one.key in found for one in changing):
                count = words.number(len(changing), "decision is", "decisions are")
                raise UserError(
                    f"{where}: {count} not about any image in {source}, for example {changing[0].image!r}. A decision"
                    " names an image by the hash of its bytes. Pass a file with decisions about the images in"
                    f" {source}. If the"
                    " image files were saved again after the review, their bytes changed. Repeat the review."
                )

    def notes(self, directory: str, remedy: str = "") -> Iterator[str]:
        """Yield notes on earlier decisions.

        Args:
            directory: Directory or URL of the existing dataset.
            remedy: Advice for a user who wants to start without the decisions. "": delete the dataset first.
        """
        if self.stored:
            yield self._staying(directory, remedy or f"delete {directory} first")
        if self.replaced_rows:
            row = words.number(self.replaced_rows, "row of --relabel was", "rows of --relabel were")
            yield f"{row} replaced by a decision of --decisions"
        if self.confirming:
            which = words.number(len(self.confirming), "decision 'keep' confirms", "decisions 'keep' confirm")
            yield (
                f"{which} the label of an earlier decision, and this label stays. To go back to the label of the"
                " source, use the decision 'none'"
            )
        if self.idle:
            which = words.number(self.idle, "decision 'none' does", "decisions 'none' do")
            yield f"{which} nothing, because there is no earlier decision to take back"

    def _staying(self, directory: str, remedy: str) -> str:
        changes = [f"replace {self.replaced:,}"] * bool(self.replaced)
        changes += [f"take back {self.withdrawn:,}"] * bool(self.withdrawn)
        note = f"{words.number(self.stored, 'decision')} in {directory} stay in effect"
        if changes:
            staying = self.stored - self.replaced - self.withdrawn
            note = f"{staying:,} of {note}, and later decisions {' and '.join(changes)}"
        return f"{note}. To start without them, {remedy}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """The effect of decisions on the images of a source.

    Attributes:
        decisions: Key -> decision; also those about images that the source does not have.
        found: Keys of the decisions about images of the source.
        relabeled: (label in the source, label of the decision) -> number of images.
        dropped: Number of images that are left out.
        kept: Number of images with the decision "keep".
        unchanged: Number of images that already had the label of their decision.
        differing: A decision "keep" and the label of its image, for images that have another label than the one that
            the person saw and confirmed.
        pairs: Number of pairs with the decision "both".
    """

    decisions: Mapping[str, Decision] = dataclasses.field(default_factory=dict)
    found: frozenset[str] = frozenset()
    relabeled: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    kept: int = 0
    unchanged: int = 0
    differing: Sequence[tuple[Decision, str]] = ()
    pairs: int = 0

    @property
    def absent(self) -> int:
        """The number of decisions about images that the source does not have."""
        return len(self.decisions) - len(self.found)

    def report(self) -> Report:
        """Return the keys of `convert.json` about the decisions; {} if there are none."""
        if not self.decisions:
            return {}
        counts: DecidedCounts = {
            "relabeled": sum(self.relabeled.values()),
            "dropped": self.dropped,
            "kept": self.kept,
            "unchanged": self.unchanged,
            "absent": self.absent,
        }
        if self.pairs:
            counts["pairs"] = self.pairs
        result: Report = {"decisions": entries(self.decisions), "decided": counts}
        if self.relabeled:
            changes = sorted(self.relabeled.items())
            result["relabelled"] = [{"from": old, "to": new, "images": count} for (old, new), count in changes]
        return result

    def notes(self) -> Iterator[str]:
        """Yield notes on what the decisions change."""
        if self.relabeled:
            yield f"{words.number(sum(self.relabeled.values()), 'image')} relabeled: {_changes(self.relabeled)}"
        if self.dropped:
            yield f"{words.number(self.dropped, 'image')} left out by decisions"
        if self.kept:
            yield f"{words.number(self.kept, 'image')} kept by decisions"
        if self.pairs:
            yield f"{words.number(self.pairs, 'pair')} of images that look alike kept by decisions"
        if self.unchanged:
            image = words.number(self.unchanged, "image has", "images have")
            yield f"{image} the label of the decision already"
        if self.differing:
            image = words.number(len(self.differing), "image has", "images have")
            keep, label = self.differing[0]
            yield (
                f"{image} another label than the given_label that the decision 'keep' confirms, for example"
                f" {keep.image!r}: the label is {label!r}, and given_label is {keep.given_label!r}. To change the"
                " label, use the decision 'label'"
            )
        if self.absent:
            which = words.number(self.absent, "decision is about an image", "decisions are about images")
            yield f"{which} that the source does not have"


def read(path: str, flag: str = "decisions") -> dict[str, Decision]:
    """Read the decisions in a table, or those of a dataset.

    Args:
        path: A CSV or Parquet file with the columns `sha256` and `decision`, and for new labels `label`. A row without
            a decision is not read. A directory of a dataset is read as `of_dataset` reads it.
        flag: The flag with the path, for messages.

    Returns:
        Key -> decision, in the order of the table. "none" decisions are included.

    Raises:
        UserError: The file cannot be read, is another table, has no decision, or has two decisions about one image or
            pair.
    """
    where = f"--{flag}={path}"
    if Path(path).is_dir():
        return _of_directory(path, where)
    if not Path(path).is_file():
        raise UserError(
            f"{where}: does not exist. Pass a CSV or Parquet file with the columns {', '.join(COLUMNS)}, or the"
            " directory of a dataset with decisions."
        )
    table, _ = tables.read(path, known=COLUMNS)
    _check_columns(table.column_names, where)
    return _distinct(_rows(table, where), where)


def of_dataset(directory: str | Path) -> dict[str, Decision]:
    """Return the decisions in the `convert.json` of a dataset, key -> decision.

    The result is empty if there is no dataset, or if the dataset has no decisions.

    Raises:
        UserError: `convert.json` is damaged.
    """
    path = Path(directory) / dataset_files.CONVERT_JSON
    return of_text(path.read_bytes(), str(directory)) if path.exists() else {}


def of_text(contents: bytes, directory: str) -> dict[str, Decision]:
    """Return the decisions in the contents of a `convert.json`, key -> decision.

    Args:
        contents: The contents of the file.
        directory: Path or URL of the directory of the dataset, for messages.

    Raises:
        UserError: The file is damaged.
    """
    try:
        entries = json.loads(contents).get("decisions", [])
        return {one.key: one for one in map(_from_entry, _listed(entries))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory}/{dataset_files.CONVERT_JSON}: is damaged ({error!r}), so the decisions in it cannot be read."
            f" Copy the file again from an undamaged copy, or delete {directory} to start without decisions."
        ) from error


def entries(decisions: Mapping[str, Decision]) -> list[DecisionEntry]:
    """Return decisions as `convert.json` holds them, sorted by key. Only pairs have "twin_sha256"."""
    return [_entry(decisions[key]) for key in sorted(decisions)]


def _entry(one: Decision) -> DecisionEntry:
    entry: DecisionEntry = {"sha256": one.sha256, "decision": one.decision, "label": one.label, "path": one.path}
    return {**entry, "twin_sha256": one.twin_sha256} if one.twin_sha256 else entry


def effect(made: Decisions, old_labels: Iterable[tuple[Decision, str]], pairs: Collection[Decision] = ()) -> Effect:
    """Return what decisions do to the images that they name.

    Args:
        made: The decisions.
        old_labels: The decision in effect about each of these images, and the image's label without the decision.
        pairs: The decisions about pairs with both images in the source.
    """
    relabeled, counts, found = Counter[tuple[str, str]](), Counter[Word](), {one.key for one in pairs}
    differing: list[tuple[Decision, str]] = []
    for decision, old in old_labels:
        keep = made.confirming.get(decision.key, decision)
        label = decision.label or old
        if keep.decision == "keep" and keep.given_label not in ("", label):
            differing.append((keep, label))
        found.add(decision.key)
        counts[decision.decision] += 1
        if decision.decision == "label" and decision.label != old:
            relabeled[old, decision.label] += 1
    return Effect(
        decisions=made.in_effect,
        found=frozenset(found),
        relabeled=relabeled,
        dropped=counts["drop"],
        kept=counts["keep"],
        unchanged=counts["label"] - relabeled.total(),
        differing=differing,
        pairs=len(pairs),
    )


def combined(
    stored: Mapping[str, Decision],
    layers: Sequence[tuple[str, Mapping[str, Decision]]],
    new_class: str = Decisions.new_class,
) -> Decisions:
    """Combine decisions. Later ones replace earlier ones with the same key, or take them back.

    There is one exception: a "keep" says that the label is right, so it leaves an earlier "label" in effect.

    Args:
        stored: Key -> decision of the existing dataset. All other decisions are later.
        layers: As in `Decisions`.
        new_class: As in `Decisions`.
    """
    later, replaced_rows, idle = dict[str, Decision](), 0, 0
    changing, confirming = list[tuple[str, Mapping[str, Decision]]](), dict[str, Decision]()
    for where, layer in layers:
        labels = {key for key, one in {**stored, **later}.items() if one.decision == "label"}
        keeps = {key: one for key, one in layer.items() if one.decision == "keep" and key in labels}
        layer = {key: one for key, one in layer.items() if key not in keeps}
        confirming = {key: one for key, one in confirming.items() if key not in layer} | keeps
        changing.append((where, layer))
        replaced_rows += sum(key in later and later[key].contradicts(one) for key, one in layer.items())
        nones = (key for key, one in layer.items() if one.decision == "none")
        idle += sum(key not in stored and key not in later for key in nones)
        later |= layer
    changed = [one for key, one in later.items() if key in stored and stored[key].contradicts(one)]
    withdrawn = sum(one.decision == "none" for one in changed)
    return Decisions(
        in_effect={key: one for key, one in {**stored, **later}.items() if one.decision != "none"},
        layers=changing,
        confirming=confirming,
        new_class=new_class,
        stored=len(stored),
        replaced=len(changed) - withdrawn,
        withdrawn=withdrawn,
        replaced_rows=replaced_rows,
        idle=idle,
    )


def matches(decisions: Mapping[str, Decision], sha256: np.ndarray) -> Iterator[tuple[int, Decision]]:
    """Find the images that decisions name. Decisions about pairs are found by `pairs`.

    Args:
        decisions: Key -> decision.
        sha256: u8[n 32], hashes of source files.

    Yields:
        The position of an image, and its decision, in ascending order of the positions.
    """
    for number, name in _named(sha256, [one.sha256 for one in decisions.values() if not one.twin_sha256]):
        if name in decisions:
            yield number, decisions[name]


def pairs(
    decisions: Mapping[str, Decision], sha256: np.ndarray
) -> Iterator[tuple[Sequence[int], Sequence[int], Decision]]:
    """Find the pairs that decisions name.

    Args:
        decisions: Key -> decision.
        sha256: u8[n 32], hashes of source files.

    Yields:
        The positions of all copies of one image, those of the other image, and the decision. Pairs with a
        missing image are left out.
    """
    named = [one for one in decisions.values() if one.twin_sha256]
    found: dict[str, list[int]] = defaultdict(list)
    for number, name in _named(sha256, [name for one in named for name in (one.sha256, one.twin_sha256)]):
        found[name].append(number)
    for one in named:
        if one.sha256 in found and one.twin_sha256 in found:
            yield found[one.sha256], found[one.twin_sha256], one


def _named(sha256: np.ndarray, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield position and name of the hashes, u8[n 32], that are among the names, and of a few others."""
    if not names or not len(sha256):
        return
    known = np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 32)
    for number in np.flatnonzero(np.isin(content_hashes(sha256), content_hashes(known))).tolist():
        yield number, sha256[number].tobytes().hex()


def check_labels(
    decisions: Iterable[Decision],
    class_names: Collection[str],
    where: str,
    correction: str = "Correct the label",
    new_class: str = Decisions.new_class,
) -> None:
    """Refuse labels that are not classes.

    Args:
        decisions: The decisions.
        class_names: The classes of the dataset.
        where: The flag with its value, or the dataset that holds the decisions.
        correction: Advice for the message: how a user corrects a decision.
        new_class: Advice for the message: how a user adds a class.

    Raises:
        UserError: A label is not a class. The message names similar classes.
    """
    for decision in decisions:
        if decision.decision == "label" and decision.label not in class_names:
            near = difflib.get_close_matches(decision.label, class_names, n=3)
            which = "Classes with a similar name are" if near else "Classes are"
            raise UserError(
                f"{where}: the label {decision.label!r} of {decision.image!r} is not a class. {which}"
                f" {named(near or list(class_names), _NAMES_SHOWN)}. {correction}. If it is a new class, {new_class}."
            )


def taking(taken: Collection[Decision], whose: str = "its") -> str:
    """Say how many images the decisions remove from classes, as a reason in messages.

    Args:
        taken: The decisions.
        whose: "its" if the message is about one class, otherwise "their".
    """
    dropped = sum(one.decision == "drop" for one in taken)
    counts = {"leave out": dropped, "relabel": len(taken) - dropped}
    return f"decisions {' and '.join(f'{verb} {count:,}' for verb, count in counts.items() if count)} of {whose} images"


def _changes(relabeled: Mapping[tuple[str, str], int]) -> str:
    counts = Counter(relabeled)
    shown = ", ".join(f"{n:,} from {old} to {new}" for (old, new), n in counts.most_common(_CHANGES_SHOWN))
    rest = len(counts) - _CHANGES_SHOWN
    return f"{shown}, and {words.number(rest, 'other change')}" if rest > 0 else shown


def _of_directory(path: str, where: str) -> dict[str, Decision]:
    decisions = of_dataset(path)
    if not decisions:
        raise UserError(
            f"{where}: the directory has no convert.json with decisions. Pass a decisions file, or the directory of a"
            " dataset that was made with decisions."
        )
    return decisions


def _listed(entries: object) -> list[DecisionEntry]:
    if not isinstance(entries, list):
        raise TypeError(f"decisions is not a list: {entries!r:.80}")
    return entries


def _from_entry(entry: DecisionEntry) -> Decision:
    """Return a decision in `convert.json`.

    Raises:
        ValueError: A value cannot be from `entries`.
        KeyError: A value is missing.
        TypeError: The entry is not a dict.
    """
    one = Decision(entry["sha256"], entry["decision"], entry["label"], entry["path"], entry.get("twin_sha256", ""))
    if not all(isinstance(value, str) for value in dataclasses.astuple(one)):
        raise ValueError(f"a value in {entry} is not a text")
    if not all(map(_HASH.fullmatch, [one.sha256, *[one.twin_sha256] * ("twin_sha256" in entry)])):
        raise ValueError(f"{one.sha256!r} or {one.twin_sha256!r} is not a SHA-256 hash")
    if one.decision not in WORDS or one.decision == "none":
        raise ValueError(f"{one.decision!r} is not a decision")
    if (one.decision == "both") != bool(one.twin_sha256):
        raise ValueError(f"the decision {one.decision!r} has the twin {one.twin_sha256!r}")
    if (one.decision == "label") != bool(one.label):
        raise ValueError(f"the decision {one.decision!r} has the label {one.label!r}")
    return one


def _check_columns(columns: Sequence[str], where: str) -> None:
    """Refuse a table that is not a table of decisions, and say what it is and what to do."""
    missing = [name for name in _NEEDED if name not in columns]
    if not missing:
        repeated = [name for name in tables.repeated(columns) if name in COLUMNS]
        if repeated:
            raise UserError(f"{where}: several columns are named {repeated[0]!r}. Keep one of them.")
        return
    kind = next((kind for kind, own in _OTHERS.items() if own <= set(columns)), None)
    lacking = f"there is no column {' and no column '.join(map(repr, missing))}"
    if kind is None:
        raise UserError(
            f"{where}: is not a decisions file: {lacking}. The columns are {named([repr(c) for c in columns])}. The"
            f" columns must be {', '.join(COLUMNS)}."
        )
    raise UserError(f"{where}: is not a decisions file. It looks like {kind}, and {lacking}. {_remedy(columns)}")


def _remedy(columns: Collection[str]) -> str:
    decide = "'label', 'drop' or 'keep' for the images that you looked at. Leave it empty in the other rows."
    if "sha256" in columns:
        return f"Add the column 'decision', and write {decide}"
    if {"path", "predicted_label"} <= set(columns):
        return (
            "Make a new file with only those rows in which predicted_label is correct. Pass the new file to python -m"
            " tfrecord_tools.convert --relabel."
        )
    return (
        "A model's answers are not decisions. Evaluate the model again, and open suspects.csv. In its column"
        f" 'decision', write {decide}"
    )


def _rows(table: pa.Table, where: str) -> Iterator[tuple[int, Decision]]:
    """Yield the number of each row with a decision, from 1, and the decision."""
    optional = [name for name in ("path", "twin_sha256", "given_label", *_LABELS) if name in table.column_names]
    # The list of issues has a twin in rows about one image, too. There, "none" is about the image.
    of_pairs = ("both",) if "kind" in table.column_names else ("both", "none")
    columns = {name: tables.texts(table, name) for name in (*_NEEDED, *optional)}
    for row in range(len(table)):
        values = {name: column[row] for name, column in columns.items()}
        if values["decision"]:
            yield row + 1, _decision(values, of_pairs, f"{where}: row {row + 1:,}")


def _decision(values: Mapping[str, str], of_pairs: Collection[str], where: str) -> Decision:
    sha256, word = values["sha256"].lower(), values["decision"].lower()
    if word not in WORDS:
        raise UserError(
            f"{where}: {values['decision']!r} is not a decision. The column decision must be {_LISTED}. Correct the"
            " row."
        )
    if not _HASH.fullmatch(sha256):
        raise UserError(
            f"{where}: {values['sha256']!r} is not a SHA-256 hash. The column sha256 must have 64 hexadecimal digits."
            " Copy the hash again from the original file. A spreadsheet may have changed it."
        )
    label = next(filter(None, (values.get(name) for name in _LABELS)), "") if word == "label" else ""
    if word == "label" and not label:
        raise UserError(
            f"{where}: the column 'decision' has the word 'label', but the column 'label' is empty. Write the name of a"
            " class into it, or change the decision to 'drop', 'keep' or 'none'."
        )
    twin = values.get("twin_sha256", "").lower() if word in of_pairs else ""
    if not _HASH.fullmatch(twin) and (twin or word == "both"):
        raise UserError(
            f"{where}: {twin!r} is not a SHA-256 hash. The column decision has the word '{word}'. Then the column"
            " twin_sha256 must have the hash of the second image of the pair: 64 hexadecimal digits. Copy the hash"
            " from issues.csv, or change the decision."
        )
    label, given_label = (unicodedata.normalize("NFC", name) for name in (label, values.get("given_label", "")))
    return Decision(sha256, word, label, values.get("path", ""), twin, given_label)


def _distinct(rows: Iterable[tuple[int, Decision]], where: str) -> dict[str, Decision]:
    """Return the decisions by key, and refuse two different ones about the same bytes."""
    decisions, row_of = dict[str, Decision](), dict[str, int]()
    for row, decision in rows:
        first = decisions.setdefault(decision.key, decision)
        row_of.setdefault(decision.key, row)
        if first.contradicts(decision):
            same = first.image if first.image == decision.image else f"{first.image} and {decision.image}"
            raise UserError(
                f"{where}: rows {row_of[first.key]:,} ({first}) and {row:,} ({decision}) are different decisions about"
                f" the same image, {same}. There can be only one decision about an image. Delete one of the rows."
            )
    if not decisions:
        raise UserError(
            f"{where}: no row has a decision. The column decision must have {_LISTED} in the rows of images that you"
            " looked at. Fill in this column."
        )
    return decisions
