"""Recognize image endings, kinds of files and classes in the names of directories and files."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence

from tfrecord_tools.layout.split_names import split_named

IMAGE_ENDINGS = frozenset(
    {
        "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "gif", "bmp", "dib", "tif", "tiff", "webp", "avif", "heic",
        "heif", "hif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpm", "j2c", "jpc", "ppm", "pgm", "pbm", "pnm", "pam", "pfm",
        "ico", "tga", "psd", "svg", "dcm", "dicom", "nef", "cr2", "cr3", "arw", "dng",
        "orf", "rw2", "raf", "exr", "hdr",
    }
)  # fmt: skip
# Directories with these names lie beside the images of a class or dataset. They contain something else, such as masks.
BESIDE_IMAGES = frozenset(
    {
        "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "segmentation", "segmentations",
        "gt", "groundtruth", "overlay", "overlays", "thumb", "thumbs", "thumbnail", "thumbnails", "depth", "edges",
    }
)  # fmt: skip
# These names of directories describe a kind of file. The directories are not classes. Every class may contain one.
KINDS = BESIDE_IMAGES | {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "frames", "jpg", "jpeg",
    "jpegs", "png", "pngs", "jpegimages", "original", "originals", "raw", "rgb", "color", "data",
}  # fmt: skip
# Words in file names that cameras and programs choose. They do not describe the picture.
_DEVICES = frozenset(
    {
        "img", "image", "images", "pic", "picture", "photo", "dsc", "dscn", "dscf", "pxl", "mvi", "gopr", "vid",
        "video", "frame", "scan", "screenshot", "file", "untitled", "copy",
    }
)  # fmt: skip
WITHOUT_LABEL = frozenset({"unknown", "unlabeled", "unlabelled", "nolabel", "nolabels", "none", "all"})
_NAMED_BY_CLASS = re.compile(r"(?:^|/)([^/]*?[^/\d._ -])[._ -]*\d+\.[^./]+$")  # cat.0.jpg, american_bulldog_100.jpg
_MIN_SHARE_NAMED = 0.9


def classes_in_names(paths: Sequence[str]) -> dict[str, str]:
    """Return class -> path of one of its files, if nearly all names are like cat.0.jpg. Otherwise {}."""
    path_of: dict[str, str] = {}
    count = 0
    for path in paths:
        if match := _NAMED_BY_CLASS.search(path):
            if says_nothing(match[1]):
                return {}
            path_of.setdefault(unicodedata.normalize("NFC", match[1]), path)
            count += 1
    return path_of if count and count >= _MIN_SHARE_NAMED * len(paths) else {}


def says_nothing(name: str) -> bool:
    """Whether a name has only words of splits, cameras and programs, as in test_1.jpg or IMG_0001.jpg."""
    return all(word in _DEVICES or split_named(word) for word in re.findall(r"[^\W\d_]+", name.casefold()))


def class_in_name(path: str) -> str | None:
    """Return the class in the name of a file, for example cat for cat.0.jpg. None: there is no class."""
    match = _NAMED_BY_CLASS.search(path)
    return sys.intern(match[1]) if match else None


def has_image_ending(path: str) -> bool:
    """Whether the name of a file ends like the name of an image."""
    return os.path.splitext(path)[1].lower().removeprefix(".") in IMAGE_ENDINGS


def plain(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return re.sub(r"[\W_]+", "", name.casefold())
