"""Compare this package with other projects and with limits of the machine, row by row, in one table.

    python -m benchmarks.table --photos=DIR --weights=FILE --write=docs/benchmarks.md

Each measurement is a process of its own (a script of `benchmarks.peers`). In each round, all contenders of a row take
turns. The table has medians, and the ratio of this package to each contender. Above 1, this package is better.
`make .venv-peers/installed .venv-streaming/installed .venv-ffcv/installed` installs the other projects.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image

from benchmarks import common
from benchmarks.side_by_side import contenders, machine, markdown, rounds
from benchmarks.side_by_side.contenders import LIMITS, PEERS, VARIANTS, Contender, Outcome
from benchmarks.side_by_side.markdown import Absent
from benchmarks.side_by_side.rows import GROUPS, ROWS, Group
from tfrecord_tools.base import command, files
from tfrecord_tools.errors import UserError


class Bench:
    """Photographs, a model, and a directory for each contender.

    Attributes:
        photos: Name of the photographs -> their directory, split/class/image.
    """

    def __init__(self, work: Path, given: Any):
        self._work, self._given = work, given
        self.photos = {"photos": Path(given.photos).resolve()}
        self._facts: dict[str, tuple[int, int]] = {}
        self._model: Path | None = None

    def measure(self, contender: Contender, row: str, photos: str) -> Outcome:
        """Measure one row of one contender, in a process of its own."""
        source = self._source(photos)
        count, size = self._facts_of(photos)
        arguments = {
            "photos": source, "work": self._work / contender.name / photos, "size": self._given.image_size,
            "batch": self._given.batch_size, "images": self._given.images, "side": self._side(photos),
            "step": self._given.step, "weights": Path(self._given.weights).resolve() if self._given.weights else "",
            "model": self._trained() if row in ("predict", "predict_one", "model", "in_turn", "one_call") else "",
        }  # fmt: skip
        outcome = contenders.run(contender, row, arguments)
        if "bytes" in outcome.figures:
            facts = {"images": count, "share": outcome.figures["bytes"] / size}
            return Outcome(figures={**outcome.figures, **facts})
        return outcome

    def _side(self, photos: str) -> int:
        """Return the side of prepared images. They already have the size at which they are read."""
        return int(self._given.image_size if photos == "squares" else self._given.side)

    def _source(self, photos: str) -> Path:
        if photos not in self.photos:
            make = {"many": self._copy_all, "squares": self._make_squares}[photos]
            self.photos[photos] = self._work / photos
            make(self.photos[photos])
            os.sync()
        return self.photos[photos]

    def _facts_of(self, photos: str) -> tuple[int, int]:
        """Return the number of files and their bytes."""
        if photos not in self._facts:
            sizes = [path.stat().st_size for path in self._source(photos).rglob("*.jpg")]
            self._facts[photos] = len(sizes), sum(sizes)
        return self._facts[photos]

    def _copy_all(self, directory: Path) -> None:
        common.copy_photos(self.photos["photos"], directory, self._given.times)

    def _make_squares(self, directory: Path) -> None:
        """Stretch each photograph to a square of `--image_size` pixels: a JPEG as FFCV writes it.

        Such a JPEG has quality 90, and half the height and width for colors. With other JPEGs, FFCV would decode fewer
        bytes than the other tools.
        """
        side = self._side("squares")
        for path in sorted(self.photos["photos"].rglob("*.jpg")):
            folder = directory / path.parent.relative_to(self.photos["photos"])
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                square = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            square.save(folder / path.name, quality=90, subsampling="4:2:0")

    def _trained(self) -> Path:
        """Return a model for the rows about prediction, with random weights. The speed is the same."""
        if self._model is None:
            out, run = self._work / "model-records", self._work / "model-run"
            common.convert(f"--src={self._given.photos}", f"--out={out}")
            common.output(
                "trainers.features", f"--tfrecords={out}", f"--run={run}", "--weights=none", "--epochs=1",
                "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", f"--image_size={self._given.side}",
            )  # fmt: skip
            self._model = next(path for path in sorted(run.glob("*.keras")))
        return self._model


def chosen_groups(names: Sequence[str]) -> list[tuple[Group, set[str]]]:
    """Return the groups to measure, each with the names of its rows to print.

    Raises:
        UserError: There is no row with this name.
    """
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            raise UserError(f"--rows={name}: must be a row of the table: {', '.join(known)}.")
    wanted = set(names or known)
    pairs = [(group, {row.name for row in group.rows} & wanted) for group in GROUPS]
    return [(group, rows) for group, rows in pairs if rows]


def chosen_peers(names: Sequence[str]) -> list[Contender]:
    """Return the peers to measure.

    Raises:
        UserError: There is no peer with this name.
    """
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in known:
            raise UserError(f"--peers={name}: must be a peer: {', '.join(known)}.")
    return [peer for peer in PEERS if not names or peer.name in names]


def check_photos(photos: Path) -> None:
    """Raise UserError if a directory is not split/class/image with JPEGs in both splits."""
    for split in ("train", "validation"):
        if not any(photos.glob(f"{split}/*/*.jpg")):
            raise UserError(
                f"--photos={photos}: has no files {split}/CLASS/NAME.jpg. It must have train/CLASS/NAME.jpg and"
                " validation/CLASS/NAME.jpg."
            )


def measured(bench: Bench, versions: Mapping[Contender, str], given: Any) -> Iterator[str]:
    """Measure the chosen rows, one after the other; yield the lines of the table.

    Args:
        bench: Measures one row of one contender.
        versions: Peer -> its version; "" if it is not installed.
        given: The flags.
    """
    absent = [Absent(peer, peer.missing) for peer, version in versions.items() if not version]
    installed = [peer for peer, version in versions.items() if version]
    for group, names in chosen_groups(given.rows):
        able = [one for one in (*VARIANTS, *installed, *LIMITS) if group.row in one.rows]
        when = f"{datetime.date.today()}, {machine.load()}"
        entries = rounds.measure(group, able, given.rounds, bench.measure)
        for row in group.rows:
            if row.name in names:
                missing = [one for one in absent if group.row in one.contender.rows]
                yield from markdown.lines(row, entries, rounds.cells(row, entries), missing, when)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    versions = {peer: peer.version() for peer in chosen_peers(given.peers)}
    titles = {row.title for group, names in chosen_groups(given.rows) for row in group.rows if row.name in names}
    description = machine.description({peer.title: version for peer, version in versions.items() if version})
    check_photos(Path(given.photos))
    if given.write and given.peers:
        raise UserError("--write: needs all peers, because a row is measured side by side. Remove --peers.")
    old = Path(given.write).read_text() if given.write else ""
    if given.write:
        markdown.put(old, description, [], titles, given.write)  # Raises before hours of work.
    command.say(description)
    made: list[str] = []
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        for line in measured(Bench(Path(work).resolve(), given), versions, given):
            command.say(line)
            made.append(line)
            if given.write:  # Each line is written immediately, in case a later measurement is stopped.
                with files.atomic(Path(given.write)) as file:
                    file.write(markdown.put(old, description, made, titles, given.write).encode())


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_string(
        "weights", None, "Weights file of MobileNetV2 without its classification layers. Default: random weights."
    )
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    flags.DEFINE_list("rows", [], "Rows to measure, separated by commas. Default: all rows.")
    flags.DEFINE_list("peers", [], "Other projects to measure, separated by commas. Default: all projects.")
    flags.DEFINE_string("write", None, "Markdown page with a place for the table. Default: the table is only printed.")
    flags.DEFINE_integer("batch_size", 20, "Number of images per batch.")
    flags.DEFINE_integer("image_size", 150, "Height and width of decoded images in pixels.")
    flags.DEFINE_integer("side", 160, "Height and width of the input of networks, in pixels.")
    flags.DEFINE_integer("images", 2000, "Number of images to read in each measurement.")
    flags.DEFINE_integer("times", 10, "Number of copies of each photograph that are converted.")
    flags.DEFINE_integer("step", 500, "Number of the batch at which reading is resumed.")
    flags.DEFINE_string("work", None, "Directory for temporary files. Default: the temporary directory of the system.")
    command.run(main)
