"""Read the first records of TFRecord files, to guess what their features hold."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import example_parser
from tfrecord_tools.foreign.forms import Example

FILES = 16  # The features are guessed from the records of this many files.
_RECORDS = 64  # Number of records that are read from all these files together.


def examples(
    shards: Sequence[tuple[Path, str]], origin: str, read: Callable[[Path, str], Iterator[bytes]]
) -> Sequence[Example]:
    """Return the first records of some files.

    Args:
        shards: Each file, and its compression, as in `tfrecord_files.Group`.
        origin: A description of the files, for messages.
        read: Reads the records of a file with a compression, such as `tfrecord_files.read_intact`.

    Raises:
        UserError: There are no records, or they are not of type `tf.train.Example`.
    """
    parsed, others = [], Counter[str]()
    for path, compression in shards:
        for data in itertools.islice(read(path, compression), max(1, _RECORDS // len(shards))):
            example = example_parser.parse(data)
            if example is not None:
                parsed.append(example)
            else:
                others["tf.train.SequenceExample" if example_parser.parse_sequence(data) else ""] += 1
    if not parsed and not others:
        raise UserError(f"{origin}: the files contain no records. Choose other files.")
    if not parsed:
        first, kind = shards[0][0], others.most_common(1)[0][0]
        other_type = f" but of type {kind}, which holds lists of values" if kind else ""
        raise UserError(
            f"{first}: the records are not of type tf.train.Example{other_type}. To see their contents, run: python -m"
            f" tfrecord_tools.show {first}"
        )
    return parsed
