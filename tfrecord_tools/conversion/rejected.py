"""List the files that cannot become records, check their number, and print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources.scan import Sources

_SHOWN = 5  # Number of files that the console names.


def rejected_files(sources: Sources, reasons: Mapping[int, str], done: str = "skipped") -> list[Rejected]:
    """Return an entry for each file. `reasons` maps a file number to the reason; `done` is what was done."""
    return [Rejected(path=sources.paths[number], reason=reason, done=done) for number, reason in reasons.items()]


def check_rejected(rejected: Sequence[Rejected], total: int, max_bad: float) -> None:
    """Raise UserError if more than the fraction `max_bad` of `total` files is rejected."""
    if len(rejected) > max_bad * total:
        examples = "".join(f"\n  {r.path}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"{len(rejected):,} of {words.number(total, 'file')} cannot be converted. This is more than"
            f" --max_bad={max_bad:g} allows:{examples}\nIs --src right? Repair or remove the files, or pass a larger"
            " --max_bad."
        )


def listed(rejected: Sequence[Rejected]) -> Iterator[str]:
    """Yield lines for the console: the first of these files, and the number of the others."""
    for file in rejected[:_SHOWN]:
        yield f"  {file.done}: {file.path}: {file.reason}"
    if len(rejected) > _SHOWN:
        yield f"  and {words.number(len(rejected) - _SHOWN, 'more such file')}"
