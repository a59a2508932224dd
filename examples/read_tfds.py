"""Read a dataset with TensorFlow Datasets: any part of a split, with or without decoding.

python examples/read_tfds.py out/ prints the number of images per class in the first tenth of the train split.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator

import tensorflow_datasets as tfds


def stored_bytes(directory: str, split: str) -> Iterator[tuple[bytes, str, str]]:
    """Yield (encoded image, class name, source path). `split` may be train[:10%] or train[5:7]+validation."""
    builder = tfds.builder_from_directory(directory)
    skip = {"image": tfds.decode.SkipDecoding()}
    for example in tfds.as_numpy(builder.as_dataset(split=split, decoders=skip)):
        name = builder.info.features["label"].int2str(example["label"])
        yield example["image"], name, example["image/filename"].decode()


if __name__ == "__main__":
    print(dict(collections.Counter(name for _, name, _ in stored_bytes(sys.argv[1], "train[:10%]"))))
