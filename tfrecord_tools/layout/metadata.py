"""The files beside the shards: what TensorFlow Datasets reads, what was rejected, what was done."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

import tfrecord_tools
from tfrecord_tools.base import files, tabular
from tfrecord_tools.conversion import plan as plans
from tfrecord_tools.conversion.plan import Plan, Shard
from tfrecord_tools.layout import findings, index, schema
from tfrecord_tools.layout.schema import Keys
from tfrecord_tools.layout.splits import SPLITS
from tfrecord_tools.sources.stores import Rejected

if TYPE_CHECKING:
    import pyarrow as pa

CONVERT_JSON = "convert.json"
CHANGED = "changed.csv"
_REJECTED_COLUMNS = ("path", "reason", "done")
CHANGED_COLUMNS = ("path", "found", "stored", "changes", "lost")
DIGESTED = ("split", "shard", "label", "path", "group", "sha256", "source_sha256")
VERSION = "1.0.0"  # TensorFlow Datasets asks for one; a dataset of ours is told apart by its digest.
_FEATURES = "tensorflow_datasets.core.features"
_IMAGE_FEATURE = {
    "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    "pythonClassName": f"{_FEATURES}.image_feature.Image",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What these files say of a dataset, converted or adopted.

    Attributes:
        name: As in `Plan`; likewise the next three.
        class_names: A label is an index into it.
        config: What the output depends on.
        digest: Hex.
        counts: Split -> i64[classes], records of each class.
        shards: Split -> i64[shards], records that are in each file, be they left out of the dataset or not.
        split_bytes: Split -> bytes of their serialized examples.
        rejected: What was left out, and why.
        keys: Under which names the examples hold what.
    """

    name: str
    class_names: tuple[str, ...]
    config: Mapping[str, Any]
    digest: str
    counts: Mapping[str, np.ndarray]
    shards: Mapping[str, np.ndarray]
    split_bytes: Mapping[str, int]
    rejected: Sequence[Rejected]
    keys: Keys = schema.OURS


def describe(plan: Plan) -> Description:
    """What a conversion by this plan makes."""
    counts = plan.counts()
    shards = {split: [s for s in plan.shards if s.split == split] for split in counts}
    return Description(
        name=plan.name,
        class_names=plan.class_names,
        config=plan.config,
        digest=plan.digest,
        counts=counts,
        shards={split: np.array([s.stop - s.start for s in cut]) for split, cut in shards.items()},
        split_bytes={split: int(plan.lengths[cut[0].start : cut[-1].stop].sum()) for split, cut in shards.items()},
        rejected=plan.rejected,
    )


def write(directory: Path, described: Description, report: Mapping[str, Any]) -> None:
    """Writes all of them, each whole or not at all.

    Args:
        directory: Where to; the index is there already.
        described: The dataset.
        report: What else `convert.json` says.
    """
    contents = {
        "features.json": _json(_features(described)),
        "dataset_info.json": _json(_dataset_info(described)),
        labels_file(described.keys): "".join(f"{name}\n" for name in stored_names(described)),
        CONVERT_JSON: _json({**summary(described), **report}),
    }
    for name, text in contents.items():
        with files.atomic(directory / name) as file:
            file.write(text.encode())
    tabular.write_csv(directory / "rejected.csv", _REJECTED_COLUMNS, map(dataclasses.asdict, described.rejected))
    changed = (dict(zip(CHANGED_COLUMNS, row)) for row in changed_rows(directory / index.FILE_NAME))
    tabular.write_csv(directory / CHANGED, CHANGED_COLUMNS, changed)


def changed_rows(index_path: Path) -> Iterator[list[str]]:
    """Yields the rows of `changed.csv`: of each record whose bytes are not those of its file, in the index's order."""
    columns = ["path", "source_type", "type", "changes", "findings"]
    for group in range(index.groups(index_path)):
        table = index.read_group(index_path, group, columns)
        changed = np.array(list(map(bool, table.column("changes").to_pylist())), bool)
        for row in table.take(np.flatnonzero(changed)).to_pylist():
            *known, found = (row[name] for name in columns)
            yield [*known, findings.lost(filter(None, found.split(",")))]


def read(directory: Path) -> dict[str, Any]:
    """Returns what `convert.json` says of the dataset in `directory`."""
    contents: dict[str, Any] = json.loads((directory / CONVERT_JSON).read_text("utf-8"))
    return contents


def summary(described: Description) -> dict[str, Any]:
    """What `convert.json` says: nothing in it differs between two runs of the same command."""
    counts, records = described.counts, sum(int(row.sum()) for row in described.counts.values())
    frames = sum(int(shards.sum()) for shards in described.shards.values()) * schema.FRAME_BYTES
    return {
        "digest": described.digest,
        "name": described.name,
        "config": described.config,
        "classes": [
            {"label": label, "name": name, **{split: int(row[label]) for split, row in counts.items()}}
            for label, name in enumerate(described.class_names)
        ],
        "splits": {
            split: {"records": int(row.sum()), "shards": len(described.shards[split])} for split, row in counts.items()
        },
        "records": records,
        "bytes": sum(described.split_bytes.values()) + frames,
        "rejected": sum(r.done != "repaired" for r in described.rejected),
        **({"keys": dataclasses.asdict(described.keys)} if described.keys != schema.OURS else {}),
        "versions": {
            "tfrecord_tools": tfrecord_tools.__version__,
            "pillow": PIL.__version__,  # Decides what is sound.
            "pyarrow": importlib.metadata.version("pyarrow"),  # Decides the bytes of the index.
        },
    }


def labels_file(keys: Keys) -> str:
    """The name that TensorFlow Datasets gives to the file of the labels' names."""
    return f"{keys.label.replace('/', '.')}.labels.txt"


def stored_names(described: Description) -> list[str]:
    """A name for each label as it is stored: those below the first class have none, but count."""
    return [f"(unused {label})" for label in range(described.keys.label_offset)] + list(described.class_names)


def digest_of(
    config: Mapping[str, Any],
    class_names: Sequence[str],
    rejected: Sequence[Rejected],
    shards: Mapping[str, int],
    table: pa.Table,
) -> str:
    """Returns what `Plan.digest` must be by the index.

    Args:
        config: As in `Description`; likewise the next two.
        class_names: In the order of the labels.
        rejected: In the order of `rejected.csv`.
        shards: Split -> its number of shards.
        table: `DIGESTED` columns of all rows of the index.
    """
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    columns = [index.hashes(table, name) for name in ("source_sha256", "sha256")]
    columns += [table.column("label").to_numpy().astype(np.int32), splits, table.column("group").to_numpy()]
    keys = splits.astype(np.int64) << 32 | table.column("shard").to_numpy()
    starts = [*np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]).tolist(), len(keys)]
    cuts = []
    for start, stop in itertools.pairwise(starts):
        split = SPLITS[splits[start]]
        cuts.append(Shard(split, int(keys[start] & 0xFFFFFFFF), shards[split], start, stop))
    paths = (path for chunk in table.column("path").chunks for path in chunk.to_pylist())  # Never all at once.
    return plans.digest_of(config, class_names, cuts, rejected, columns, paths)


def _features(described: Description) -> dict[str, Any]:
    """The `FeaturesDict` of `tfds.features`, as its `to_json` gives it."""
    config, keys = described.config, described.keys
    features = {keys.image: _raw_feature(config["resize"]) if config.get("store") == "raw" else _IMAGE_FEATURE}
    if keys.path:
        features[keys.path] = {"text": {}, "pythonClassName": f"{_FEATURES}.text_feature.Text"}
    features[keys.label] = {
        "classLabel": {"numClasses": str(len(stored_names(described)))},
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
    }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
    }


def _raw_feature(side: int) -> dict[str, Any]:
    tensor = {"shape": {"dimensions": [str(side), str(side), "3"]}, "dtype": "uint8", "encoding": "bytes"}
    return {"tensor": tensor, "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor"}


def _dataset_info(described: Description) -> dict[str, Any]:
    """The protobuf `DatasetInfo` of TensorFlow Datasets as JSON; its int64 are strings."""
    splits = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(described.split_bytes[split]),
            "shardLengths": [str(length) for length in shards],
        }
        for split, shards in described.shards.items()
    ]
    items = [{"featureKey": described.keys.image}, {"featureKey": described.keys.label}]
    return {
        "fileFormat": "tfrecord",
        "name": described.name,
        "version": VERSION,
        "supervisedKeys": {"tuple": {"items": items}},
        "splits": splits,
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
