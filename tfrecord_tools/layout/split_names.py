"""The splits of a dataset, and the names that directories, files and tables give them."""

from __future__ import annotations

import functools
import re

SPLITS = ("train", "validation", "test")
_SPLIT_OF = {
    "train": "train", "training": "train", "trn": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation", "eval": "validation",
    "test": "test", "testing": "test", "tst": "test", "holdout": "test",
}  # fmt: skip
SPLIT_WORDS = tuple(_SPLIT_OF)
# These words, and numbers, say nothing beside a split's word: training_set, seg_train, test1, train2017.
# No text can be read as these words in two ways, so that a long name takes no longer than it must.
_BESIDE = r"(?:set|data|images?|imgs?|seg|split|folder|photos|\d|[\W_])*"
_NAME = re.compile(rf"{_BESIDE}(?P<split>{'|'.join(_SPLIT_OF)}){_BESIDE}")


@functools.lru_cache(maxsize=1 << 12)
def split_named(name: str) -> str | None:
    """Return the split that a name means, or None.

    Capital letters do not matter, and words may be written together: `Training_Set` and `trainset` mean "train",
    `test1` means "test". Any other word gives the name another meaning: `test_tube` and `protest` are no splits.
    """
    match = _NAME.fullmatch(name.casefold())
    return _SPLIT_OF[match["split"]] if match else None


def without_split(name: str) -> tuple[str, str | None]:
    """Return the rest of a name that has a split's word in it, and the split: ("rps", "test") for `rps-test-set`.

    Words that say nothing beside a split's word are left out of the rest. The split is None where no word, or more than
    one, means a split.
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    splits = [split for word in words if (split := split_named(word))]
    rest = [word for word in words if not split_named(word) and not re.fullmatch(_BESIDE, word)]
    return " ".join(rest), splits[0] if len(splits) == 1 else None
