"""The flags that the commands which read images share."""

from __future__ import annotations

from absl import flags

from tfrecord_tools.base import usage
from tfrecord_tools.conversion.plan_config import DEFAULT_VALIDATION_FRACTION, PlanConfig
from tfrecord_tools.sources.scan import ScanConfig

flags.disclaim_key_flags()  # The flags belong to the command that has them defined, and stand in its --help.


def define_source_flags() -> None:
    """Defines how a source says which image is of which class, split and group, and how many may be bad."""
    flags.DEFINE_list("classes", None, "Class names in label order; others are left out. Default: all, sorted.")
    flags.DEFINE_string("label_regex", None, "Its first group, found in the path, is the class. Default: directories.")
    flags.DEFINE_string("group_regex", None, "Images with the same first group stay on one side of a made split.")
    flags.DEFINE_multi_string(
        "split", None, "NAME=DIR: this directory, relative to --src, is (part of) that split. May be repeated."
    )
    flags.DEFINE_multi_string(
        "exclude", None, "Leave out the paths, relative to --src, that match this pattern. May be repeated."
    )
    flags.DEFINE_string("zip_encoding", None, "Encoding of the names in an archive that does not say it: cp949.")
    usage.define_path("manifest", None, "CSV or Parquet naming the images in --src, with their classes.")
    for name in ("path", "label", "split", "group"):
        column = f"{name}_column"
        what = "paths, or of images if a Parquet file holds them" if name == "path" else f"{name}s"
        flags.DEFINE_string(column, getattr(ScanConfig, column), f"The manifest's column of {what}.")
    flags.DEFINE_list(
        "label_columns",
        None,
        "The manifest's columns, one per class, of which exactly one is 1 in each row. Default: --label_column.",
    )
    flags.DEFINE_string(
        "manifest_encoding",
        None,
        "Encoding of a CSV manifest, such as cp1252 or cp949. Default: UTF-8, or UTF-16 with a byte order mark.",
    )
    for split, default in (("validation", DEFAULT_VALIDATION_FRACTION), ("test", 0)):
        flags.DEFINE_float(
            f"{split}_fraction",
            None,
            f"Fraction of each class for the {split} split, if --src has no splits of its own. Default: {default}.",
        )
    flags.DEFINE_float("max_bad", PlanConfig.max_bad, "Largest share of files that may be rejected.")
    flags.DEFINE_integer("workers", None, "Processes; never changes the output. Default: one a processor.")
