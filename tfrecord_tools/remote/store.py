"""Open a store from a URL such as s3://bucket/pets."""

from __future__ import annotations

import urllib.parse

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

CREATING = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "file")  # Schemes of stores with `create`.
__all__ = [
    "CREATING",
    "SHORT",
    "Changed",
    "Denied",
    "Exists",
    "Missing",
    "Object",
    "Patience",
    "Store",
    "Unreachable",
    "open_common",
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


def open_common(first: str, second: str, patience: Patience = Patience()) -> tuple[Store, str, str] | None:
    """Return a store that holds two URLs, and their paths in it. None: they are in different stores.

    An object can be copied within one store without sending its bytes to this machine.

    Args:
        first: For example `s3://bucket/pets`.
        second: For example `s3://bucket/pets2`.
        patience: How long the store may fail.
    """
    parts = [urllib.parse.urlsplit(url) for url in (first, second)]
    if len({(part.scheme, part.netloc) for part in parts}) > 1 or parts[0].scheme not in CREATING:
        return None
    one, other = (urllib.parse.unquote(part.path).strip("/") for part in parts)
    return open_store(f"{parts[0].scheme}://{parts[0].netloc}", patience), one, other
