"""Images in an object store, S3 or what else fsspec opens, read where they are."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources.base import MAX_FILE_BYTES, Content, Listing, ReadError, is_litter

OBJECT = np.dtype([("size", "<i8"), ("mtime_ns", "<i8")])  # As listed; asking again would be a second request an image.
_EXTRAS = {"s3": "'tfrecord-tools[s3]'", "s3a": "'tfrecord-tools[s3]'", "gs": "gcsfs", "gcs": "gcsfs"}
_MTIMES = ("LastModified", "mtime", "updated", "last_modified")  # Of S3, Google, others: each store has its own name.


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects below a URL; opened anew in each process, since connections cannot be shared."""

    url: str

    def read(self, path: str, span: np.void) -> Content:
        """Reads an object.

        Raises:
            ReadError: It is gone or forbidden.
            UserError: The store cannot be reached, or credentials expired. To take all images for bad would lose them.
        """
        system, root = _opened(self.url, os.getpid())
        size = int(span["size"])
        with explained(self.url):
            try:
                # A range of a size that is known saves s3fs asking for it; an empty object has none.
                limits = {"start": 0, "end": min(size, MAX_FILE_BYTES) + 1} if size else {}
                data = system.cat_file(f"{root}/{path}", **limits)
                if size < len(data) <= MAX_FILE_BYTES:  # It grew since.
                    data = system.cat_file(f"{root}/{path}")
            except FileNotFoundError as error:
                raise ReadError("cannot be read: it is not there any more") from error
            except PermissionError as error:
                if _code(error) != "AccessDenied":  # Such as ExpiredToken: no object can be read any more.
                    raise
                raise ReadError("cannot be read: forbidden") from error
        return Content(data, size if size > MAX_FILE_BYTES else len(data), int(span["mtime_ns"]))


def list_objects(url: str) -> Listing:
    """Lists the objects below a URL by the rules for files in a directory (see `stores.list_store`).

    Raises:
        UserError: There are none, or the store cannot be asked.
    """
    url = url.rstrip("/")
    with explained(url):
        system, root = opened(url)
        objects = system.find(root, detail=True)
    if root in objects:
        raise UserError(
            f"--src={url}: an object, no directory. Archives, manifests and CSVs of pixels are read from this machine:"
            " copy it here first."
        )
    infos: dict[str, dict[str, Any]] = {}
    rejected = []
    for key in sorted(objects, key=lambda key: key.split("/")):
        path = key.removeprefix(f"{root}/")
        parts = path.split("/")
        if path.endswith("/") or objects[key].get("type") == "directory" or any(map(is_litter, filter(None, parts))):
            continue  # Consoles make objects of empty directories.
        if "" in parts:
            rejected.append(Rejected(path=path, reason="two slashes in a row in its name, as in no file's: rename it"))
        else:
            infos[path] = objects[key]
    if not infos and not rejected:
        raise UserError(f"--src={url}: no objects there. A bucket and the prefix above the classes is expected.")
    spans = np.array([(info["size"], mtime_ns(info)) for info in infos.values()], OBJECT)
    return Listing(
        store=Objects(url),
        paths=list(infos),
        spans=spans,
        sizes=spans["size"].copy(),
        mtimes_ns=spans["mtime_ns"].copy(),
        rejected=rejected,
    )


def opened(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system for a URL, which keeps no listings, and the path in it.

    Raises:
        UserError: A package is missing, or the scheme is unknown.
    """
    scheme = url.partition("://")[0]
    package = _EXTRAS.get(scheme, "'tfrecord-tools[s3]', or what fsspec names for this scheme")
    try:
        import fsspec.core

        for name in ("botocore", "aiobotocore"):
            logging.getLogger(name).setLevel(logging.WARNING)  # They inform of where they found what.
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(f"{url}: a package is missing ({error}): pip install {package}") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}. s3://bucket/prefix, gs://bucket/prefix or the like is expected.") from error
    return system, root.rstrip("/")


def _code(error: PermissionError) -> str | None:
    """S3's own code of an error; s3fs makes one exception of many of them."""
    response: dict[str, Any] = getattr(error.__cause__, "response", {})
    return response.get("Error", {}).get("Code")


@functools.lru_cache(maxsize=8)
def _opened(url: str, process: int) -> tuple[Any, str]:
    return opened(url)


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Makes a UserError with the remedy of what a store raises."""
    try:
        yield
    except (UserError, ReadError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{url}: {error}. Is the name of the bucket right?") from error
    except PermissionError as error:
        raise UserError(
            f"{url}: access is denied ({error}). Give credentials that may list and read it and are still valid, for S3"
            " by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except Exception as error:  # Each store has errors of its own.
        if type(error).__name__ == "NoCredentialsError":
            remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        else:
            remedy = "Is the store reached from here (for one that is not Amazon's: AWS_ENDPOINT_URL)? Then try again"
        raise UserError(f"{url}: {type(error).__name__}: {error}. {remedy}.") from error


def mtime_ns(info: dict[str, Any]) -> int:
    """When an object was changed, in nanoseconds since the epoch; 0 where the store does not say."""
    value = next((info[name] for name in _MTIMES if info.get(name)), 0)
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    seconds = value.timestamp() if isinstance(value, datetime.datetime) else float(value)
    return round(seconds * 1e6) * 1000  # Datetimes are exact to the microsecond, floats of today are not to more.
