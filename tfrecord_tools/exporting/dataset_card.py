"""The dataset card of Hugging Face: README.md with splits, columns and classes in a YAML header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import tfrecord_tools
from tfrecord_tools.base import words
from tfrecord_tools.exporting.pictures import filled_splits
from tfrecord_tools.exporting.shard_writer import split_of
from tfrecord_tools.records import Dataset

_SIZES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
_ABOUT = {
    "image": "the encoded image",
    "label": "the label, a number from 0; the metadata have the names of the classes",
    "path": "the path of the source file",
    "group": "equal for images that belong together; an automatic split keeps them in one split",
    "source_sha256": "SHA-256 of the source file, in hexadecimal digits",
}


def text(data: Dataset, directory: Path, columns: Mapping[str, str]) -> str:
    """Return the card.

    Args:
        data: The dataset that was exported.
        directory: The directory of the Parquet files. The card is beside it.
        columns: Column -> kind of its feature: Image, ClassLabel or Value.
    """
    return "\n".join([*_header(data, directory, columns), *_body(data, columns)]) + "\n"


def _header(data: Dataset, directory: Path, columns: Mapping[str, str]) -> Iterator[str]:
    import pyarrow.parquet as pq

    splits = filled_splits(data)  # `datasets` refuses splits without files.
    sizes, total = dict.fromkeys(splits, 0), 0
    for path in directory.iterdir():
        footer = pq.read_metadata(path)
        groups = range(footer.num_row_groups)
        sizes[split_of(path)] += sum(footer.row_group(number).total_byte_size for number in groups)
        total += path.stat().st_size
    records = sum(splits.values())
    yield from ("---", f"pretty_name: {_quoted(data.name)}", "task_categories:", "- image-classification")
    yield from ("size_categories:", f"- {_SIZE_NAMES[sum(records >= size for size in _SIZES)]}")
    yield from ("configs:", "- config_name: default", "  data_files:")
    for split in splits:
        yield from (f"  - split: {split}", f"    path: {directory.name}/{split}-*")
    yield from ("dataset_info:", "  features:", *_feature_lines(data, columns), "  splits:")
    for split, count in splits.items():
        yield from (f"  - name: {split}", f"    num_bytes: {sizes[split]}", f"    num_examples: {count}")
    yield from (f"  download_size: {total}", f"  dataset_size: {sum(sizes.values())}", "---")


def _feature_lines(data: Dataset, columns: Mapping[str, str]) -> Iterator[str]:
    for name, kind in columns.items():
        yield f"  - name: {name}"
        if kind == "ClassLabel":
            yield from ("    dtype:", "      class_label:", "        names:")
            yield from (f"          '{label}': {_quoted(name)}" for label, name in enumerate(data.class_names))
        else:
            yield f"    dtype: {'image' if kind == 'Image' else 'string'}"


def _body(data: Dataset, columns: Mapping[str, str]) -> Iterator[str]:
    counts = ", ".join(f"{words.number(count, 'image')} in {split}" for split, count in filled_splits(data).items())
    yield from ("", f"# {data.name}", "", f"{words.number(len(data.class_names), 'class', 'classes')}, {counts}.", "")
    yield from ("| column | content |", "|---|---|", *(f"| `{name}` | {_ABOUT[name]} |" for name in columns), "")
    yield from ("```python", "import datasets", "", 'data = datasets.load_dataset("DIRECTORY_OR_REPOSITORY")', "```")
    yield from ("", "This command converts the images to TFRecords with the same labels and splits:", "")
    yield from ("```shell", "python -m tfrecord_tools.convert --src=DIRECTORY", "```", "")
    yield (
        f"Written by tfrecord-tools {tfrecord_tools.__version__}. The digest of the converted dataset is"
        f" `{data.digest}`. Before you publish this card, add the license, the origin of the images and the language"
        " of the class names."
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # A JSON string is also a string in YAML.
