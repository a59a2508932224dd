"""Open a store from a URL such as s3://bucket/pets."""

from __future__ import annotations

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.remote.by_fsspec import FsspecStore
from tfrecord_tools.remote.by_obstore import SCHEMES, ObjectStore
from tfrecord_tools.remote.forked import ForkSafe
from tfrecord_tools.remote.interface import (
    SHORT,
    Changed,
    Denied,
    Exists,
    Missing,
    Object,
    Patience,
    Store,
    Unreachable,
)

__all__ = [
    "SHORT",
    "Changed",
    "Denied",
    "Exists",
    "Missing",
    "Object",
    "Patience",
    "Store",
    "Unreachable",
    "open_store",
]


def open_store(url: str, patience: Patience = Patience()) -> Store:
    """Return the store of the objects below a URL. No request is sent.

    The package obstore accesses s3://, gs://, az://, http(s):// and file://. fsspec accesses URLs with other schemes,
    such as hf:// or memory://.

    Args:
        url: For example `s3://bucket/pets`.
        patience: How long the store may fail.

    Raises:
        UserError: The URL has no scheme, or a package is missing.
    """
    if not files.is_url(url):
        raise UserError(f"{url}: is not a URL. Pass a URL such as s3://bucket/pets.")
    scheme = url.partition("://")[0].lower()
    return ForkSafe(ObjectStore(url, patience)) if scheme in SCHEMES else FsspecStore(url, patience)
