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
        "classes",
        None,
        "Class names in the order of their labels (0, 1, 2). Images of other classes are left out. Default: all"
        " classes in alphabetical order.",
    )
    flags.DEFINE_string(
        "label_regex",
        None,
        "Regular expression for image paths. The text that the first (...) matches is the class of the image. Default:"
        " the name of the folder is the class.",
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
        "NAME=DIR: the images in the folder DIR belong to the split NAME (train, validation or test). DIR is relative"
        " to --src. May be repeated.",
    )
    flags.DEFINE_multi_string(
        "exclude",
        None,
        "Pattern of paths to leave out, for example '**/masks'. The paths are relative to --src. May be repeated.",
    )
    flags.DEFINE_string(
        "zip_encoding",
        None,
        "Character encoding of the file names in a zip archive, for example cp949. It is used only if the archive does"
        " not name its encoding. Default: UTF-8.",
    )
    usage.define_path("manifest", None, "CSV or Parquet file that lists the images in --src and their classes.")
    for name, what in (
        (
            "path",
            "the image paths. In a Parquet file, this column can contain the images themselves. For tar files of"
            " webdataset, the value is the ending of the images, such as jpg",
        ),
        ("label", "the class of each image"),
        ("split", "the split of each image"),
        (
            "group",
            "the group of each image, for example the patient. An automatic split puts all images of a group into the"
            " same split",
        ),
    ):
        column = f"{name}_column"
        flags.DEFINE_string(column, getattr(ScanConfig, column), f"Manifest column with {what}.")
    flags.DEFINE_list(
        "label_columns",
        None,
        "Manifest columns, one column per class. In each row, only the column of the class is 1. Default: the class is"
        " in the column --label_column.",
    )
    flags.DEFINE_string(
        "manifest_encoding",
        None,
        "Character encoding of a CSV manifest, for example cp1252 or cp949. Default: UTF-8. If the file begins with a"
        " byte order mark, the default is the encoding of the mark (UTF-8, UTF-16 or UTF-32).",
    )
    for split, default in (("validation", DEFAULT_VALIDATION_FRACTION), ("test", 0)):
        flags.DEFINE_float(
            f"{split}_fraction",
            None,
            f"Fraction of the images of each class that goes into the {split} split, if --src has no splits. Default:"
            f" {default}.",
        )
    flags.DEFINE_float(
        "max_bad",
        PlanConfig.max_bad,
        "A fraction from 0 to 1. The command stops if a larger fraction of the files is rejected.",
    )
    flags.DEFINE_integer(
        "workers",
        None,
        "Number of worker processes. The output does not depend on this number. Default: one process per processor.",
    )
