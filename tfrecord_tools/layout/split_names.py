"""The splits of a dataset, and their usual names in directories, files and tables."""

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
# These words and numbers may stand next to the name of a split: training_set, seg_train, test1, train2017.
# A text matches in one way only, so that the search does not backtrack on long names.
_BESIDE = r"(?:set|data|images?|imgs?|seg|split|folder|photos|\d|[\W_])*"
_NAME = re.compile(rf"{_BESIDE}(?P<split>{'|'.join(_SPLIT_OF)}){_BESIDE}")


@functools.lru_cache(maxsize=1 << 12)
def split_named(name: str) -> str | None:
    """Return the split that a name means, or None.

    Case does not matter, and words may be joined: `Training_Set` and `trainset` mean "train", `test1` means "test".
    With any other word in it, a name does not mean a split: `test_tube` and `protest` give None.
    """
    match = _NAME.fullmatch(name.casefold())
    return _SPLIT_OF[match["split"]] if match else None


def without_split(name: str) -> tuple[str, str | None]:
    """Separate a name from the split in it: `rps-test-set` gives ("rps", "test").

    Words such as `set` and `images` are removed too. The split is None if no word or several words mean a split.
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    splits = [split for word in words if (split := split_named(word))]
    rest = [word for word in words if not split_named(word) and not re.fullmatch(_BESIDE, word)]
    return " ".join(rest), splits[0] if len(splits) == 1 else None
