"""Write third-party TFRecords with TensorFlow, with features of any name, type and number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf


def feature(values: Any) -> tf.train.Feature:
    """Return a feature of one value or a list of values of one type; None: a feature without a list."""
    if values is None:
        return tf.train.Feature()
    values = values if isinstance(values, list) else [values]
    if values and isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def features(values: Mapping[str, Any]) -> tf.train.Features:
    return tf.train.Features(feature={name: feature(value) for name, value in values.items()})


def example(values: Mapping[str, Any]) -> bytes:
    """Serialize a `tf.train.Example`."""
    serialized: bytes = tf.train.Example(features=features(values)).SerializeToString(deterministic=True)
    return serialized


def sequence(context: Mapping[str, Any], lists: Mapping[str, list[Any]]) -> bytes:
    """Serialize a `tf.train.SequenceExample`; each list has one feature per step."""
    feature_list = {name: tf.train.FeatureList(feature=map(feature, steps)) for name, steps in lists.items()}
    serialized: bytes = tf.train.SequenceExample(
        context=features(context), feature_lists=tf.train.FeatureLists(feature_list=feature_list)
    ).SerializeToString(deterministic=True)
    return serialized


def write(path: Path, records: Iterable[bytes], compression: str = "") -> Path:
    """Write a TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path
