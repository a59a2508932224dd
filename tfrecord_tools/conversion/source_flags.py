"""The flags that all commands that read images share."""

from __future__ import annotations

from absl import flags

from tfrecord_tools.base import usage
from tfrecord_tools.conversion.plan_config import DEFAULT_VALIDATION_FRACTION, PlanConfig
from tfrecord_tools.sources.scan import ScanConfig

flags.disclaim_key_flags()  # --help of the calling command lists the flags.


def define_source_flags() -> None:
    """Define the flags that give each image its class, split and group, and limit the number of bad files."""
    flags.DEFINE_list(
        "classes", None, "Class names in label order. Other classes are left out. Default: all classes, sorted."
    )
    flags.DEFINE_string(
        "label_regex",
        None,
        "Regular expression for image paths. The text that the first (...) matches is the class. Default: the name of"
        " the directory is the class.",
    )
    flags.DEFINE_string(
        "group_regex",
        None,
        "Regular expression for image paths. The text that the first (...) matches is the group of the image. An"
        " automatic split puts all images of a group into the same split.",
    )
    flags.DEFINE_multi_string(
        "split",
        None,
        "NAME=DIR: use the images of DIR, a directory relative to --src, as the split NAME. May be repeated.",
    )
    flags.DEFINE_multi_string(
        "exclude",
        None,
        "Leave out the paths, relative to --src, that match this pattern, for example '**/masks'. May be repeated.",
    )
    flags.DEFINE_string(
        "zip_encoding",
        None,
        "Encoding of the file names in a zip archive, for example cp949. Used only if the archive does not say which"
        " encoding it uses. Default: UTF-8.",
    )
    usage.define_path("manifest", None, "CSV or Parquet file that lists the images in --src and their classes.")
    for name, what in (
        ("path", "the image paths. In a Parquet file, this column can contain the images themselves"),
        ("label", "the class of each image"),
        ("split", "the split of each image"),
        ("group", "the group of each image, for example the patient. An automatic split puts a group into one split"),
    ):
        column = f"{name}_column"
        flags.DEFINE_string(column, getattr(ScanConfig, column), f"Manifest column with {what}.")
    flags.DEFINE_list(
        "label_columns",
        None,
        "Manifest columns, one per class. In each row, exactly one of them is 1."
        " Default: the class is in --label_column.",
    )
    flags.DEFINE_string(
        "manifest_encoding",
        None,
        "Encoding of a CSV manifest, for example cp1252 or cp949. Default: if the file begins with a byte order"
        " mark, the encoding of this mark (UTF-8, UTF-16 or UTF-32); else UTF-8.",
    )
    for split, default in (("validation", DEFAULT_VALIDATION_FRACTION), ("test", 0)):
        flags.DEFINE_float(
            f"{split}_fraction",
            None,
            f"Fraction of each class for the {split} split, if --src has no splits of its own. Default: {default}.",
        )
    flags.DEFINE_float("max_bad", PlanConfig.max_bad, "Largest fraction of files that may be rejected, from 0 to 1.")
    flags.DEFINE_integer(
        "workers", None, "Number of worker processes. The output does not depend on it. Default: one per processor."
    )
