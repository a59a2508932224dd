"""Check the records in docs/decisions and write the index of them.

python -m tools.decisions            # writes docs/decisions/README.md (`make architecture`)
python -m tools.decisions --check    # exits with 1 if a record has a fault or the index is not current
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "decisions"
LONGEST = 15  # Lines of a record.
PARTS = ("Context", "Decision", "Consequence")
TITLE = re.compile(r"# (\d+)\. (.+)\n\nDate: (\S+)\n\n")
HEAD = """# Decisions

Each record says what was decided, why, and what follows from it. The newest is at the end. A decision that no longer
holds stays here, and its record names the one that replaced it.

To add a record, copy the last file, give it the next number, and run `make architecture`, which writes this index. A
record has at most 15 lines: a title, the date, and the paragraphs Context, Decision and Consequence.

| date | decision |
|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Record:
    """A decision and the file that describes it."""

    path: Path
    number: int
    title: str
    date: str


def read_record(path: Path) -> Record:
    """Read the head of a record. Raises ValueError if it has another form."""
    match = TITLE.match(path.read_text("utf-8"))
    if match is None:
        raise ValueError(f"{path.name}: must begin with '# NUMBER. TITLE', an empty line and 'Date: YYYY-MM-DD'.")
    return Record(path, int(match[1]), match[2], match[3])


def read_records(folder: Path) -> list[Record]:
    """Read all records, by number."""
    return [read_record(path) for path in sorted(folder.glob("[0-9]*.md"))]


def faults(records: list[Record]) -> Iterator[str]:
    """Yield what is wrong with the records: a length, a number, a date, or a part that is missing."""
    for number, record in enumerate(records, 1):
        text = record.path.read_text("utf-8")
        if text.count("\n") > LONGEST:
            yield f"{record.path.name}: has {text.count(chr(10))} lines. At most {LONGEST} are allowed."
        if record.number != number or not record.path.name.startswith(f"{number:04d}-"):
            yield f"{record.path.name}: must have the number {number} in its name and in its title."
        if re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE) != list(PARTS):
            yield f"{record.path.name}: must have the paragraphs {', '.join(PARTS)}, once and in this order."
        try:
            datetime.date.fromisoformat(record.date)
        except ValueError:
            yield f"{record.path.name}: Date: {record.date} is not a date. Write YYYY-MM-DD."


def index(records: list[Record]) -> str:
    """Return the page that lists all records."""
    rows = (f"| {record.date} | [{record.number}. {record.title}]({record.path.name}) |\n" for record in records)
    return HEAD + "".join(rows)


def main(arguments: list[str]) -> int:
    records = read_records(FOLDER)
    wrong = list(faults(records))
    page = FOLDER / "README.md"
    if arguments != ["--check"]:
        page.write_text(index(records), encoding="utf-8")
        print(f"docs/decisions/README.md lists {len(records)} decisions.")
    elif not page.exists() or page.read_text("utf-8") != index(records):
        wrong.append("docs/decisions/README.md does not list the current records. Run `make architecture`.")
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
