"""Read images from an object store: S3, or any other store that fsspec supports."""

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

OBJECT = np.dtype(
    [("size", "<i8"), ("mtime_ns", "<i8")]
)  # Both come from the listing. Asking for them again would need a second request per image.
_EXTRAS = {
    "s3": "'tfrecord-tools[s3]'", "s3a": "'tfrecord-tools[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub",
}  # fmt: skip
# These packages would log where they found credentials, and each request to the Hub.
_CHATTY = ("botocore", "aiobotocore", "httpx", "httpx2")
_MTIMES = (
    "LastModified",
    "mtime",
    "updated",
    "last_modified",
)  # Names of the field in S3, Google Cloud Storage and other stores.


@dataclasses.dataclass(frozen=True)
class Objects:
    """A store: the objects below a URL. Every process opens its own connection."""

    url: str

    def read(self, path: str, span: np.void) -> Content:
        """Read an object.

        Raises:
            ReadError: The object was deleted, or access to it is denied.
            UserError: The store cannot be reached, or the credentials expired. This error stops the command, because
                otherwise all remaining images would be rejected.
        """
        system, root = connected(self.url)
        size = int(span["size"])
        with explained(self.url):
            try:
                # With a range, s3fs does not ask for the size first. An empty object has no range.
                limits = {"start": 0, "end": min(size, MAX_FILE_BYTES) + 1} if size else {}
                data = system.cat_file(f"{root}/{path}", **limits)
                if size < len(data) <= MAX_FILE_BYTES:  # The object grew after listing.
                    data = system.cat_file(f"{root}/{path}")
            except FileNotFoundError as error:
                raise ReadError("cannot be read: it no longer exists") from error
            except PermissionError as error:
                if _code(error) != "AccessDenied":  # For example ExpiredToken: no object can be read any longer.
                    raise
                raise ReadError("cannot be read: access is denied") from error
        return Content(data, size if size > MAX_FILE_BYTES else len(data), int(span["mtime_ns"]))


def list_objects(url: str) -> Listing:
    """List the objects below a URL, by the rules for files in a directory (see `stores.list_store`).

    Args:
        url: For example `s3://bucket/prefix`.

    Raises:
        UserError: There are no objects, or the store cannot be reached.
    """
    url = url.rstrip("/")
    with explained(url):
        system, root = opened(url)
        objects = system.find(root, detail=True)
    if root in objects:
        raise UserError(
            f"--src={url}: this is a single file, not a directory of images. If it is an archive, a manifest or a CSV"
            " of pixels, download it first, and pass the downloaded file as --src."
        )
    infos: dict[str, dict[str, Any]] = {}
    rejected = []
    for key in sorted(objects, key=lambda key: key.split("/")):
        path = key.removeprefix(f"{root}/")
        parts = path.split("/")
        if path.endswith("/") or objects[key].get("type") == "directory" or any(map(is_litter, filter(None, parts))):
            continue  # Web consoles create objects for empty directories.
        if "" in parts:
            rejected.append(Rejected(path=path, reason="two slashes in a row in its name: rename it"))
        else:
            infos[path] = objects[key]
    if not infos and not rejected:
        raise UserError(
            f"--src={url}: there are no files below this URL. Pass the URL of the directory that contains the class"
            " directories, for example s3://bucket/images."
        )
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
    """Return fsspec's file system for a URL, without a cache of listings, and the path in it.

    Raises:
        UserError: A package is missing, or the scheme is unknown.
    """
    scheme = url.partition("://")[0]
    package = _EXTRAS.get(scheme, "'tfrecord-tools[s3]', or the package that fsspec needs for this scheme")
    try:
        import fsspec.core

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(f"{url}: a package is missing ({error}): pip install {package}") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}. Pass a URL such as s3://bucket/prefix or gs://bucket/prefix.") from error
    return system, root.rstrip("/")


def _code(error: PermissionError) -> str | None:
    """Return the error code from S3. s3fs raises the same exception for several codes."""
    response: dict[str, Any] = getattr(error.__cause__, "response", {})
    return response.get("Error", {}).get("Code")


def connected(url: str) -> tuple[Any, str]:
    """Return `opened(url)`. Each process opens a file system only once."""
    return _opened(url, os.getpid())


@functools.lru_cache(maxsize=1024)
def _opened(url: str, process: int) -> tuple[Any, str]:
    return opened(url)


def matching(pattern: str, root: str) -> list[str]:
    """Return the URLs of the objects that match a pattern with `*`.

    Args:
        pattern: The pattern, a URL.
        root: The part of the pattern before the directory with the first `*`.

    Raises:
        UserError: The store cannot be reached.
    """
    with explained(pattern):
        system, inner = opened(pattern)
        if "*" not in inner:
            return [pattern] if system.isfile(inner) else []
        above = connected(root)[1]
        return [f"{root}/{path.removeprefix(above).lstrip('/')}" for path in system.glob(inner)]


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the errors of a store into a UserError that says what to do."""
    try:
        yield
    except (UserError, ReadError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{url}: {error}. Check the name of the bucket.") from error
    except PermissionError as error:
        raise UserError(
            f"{url}: access is denied ({error}). Set credentials that may list and read this URL. For S3, set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except Exception as error:  # Every store raises its own errors.
        if type(error).__name__ == "NoCredentialsError":
            remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        else:
            remedy = "Check the connection, and try again. For a store that is not Amazon's, set AWS_ENDPOINT_URL"
        raise UserError(f"{url}: {type(error).__name__}: {error}. {remedy}.") from error


def mtime_ns(info: dict[str, Any]) -> int:
    """Return when an object was last changed, in nanoseconds since the epoch. 0: unknown."""
    value = next((info[name] for name in _MTIMES if info.get(name)), 0)
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    seconds = value.timestamp() if isinstance(value, datetime.datetime) else float(value)
    return round(seconds * 1e6) * 1000  # Both datetimes and floats are exact to the microsecond.
