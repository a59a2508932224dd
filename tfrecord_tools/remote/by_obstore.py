"""A store that the package obstore accesses. It is a client in Rust that works without Python's lock.

With 16 requests of 4 MiB at once and 20 ms of delay, two processors read 1,570 MB/s with 0.4 s of processor time per
GB. With s3fs, they read 442 MB/s with 1.1 s per GB.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.remote.interface import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Attempts,
    Changed,
    Denied,
    Exists,
    Missing,
    Object,
    Patience,
    Unreachable,
)

SCHEMES = frozenset(
    {"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https", "file"}
)  # memory:// is left out, because each client of obstore would have objects of its own.
_S3 = frozenset({"s3", "s3a"})
_PACKAGE = "pip install 'tfrecord-tools[bucket]'"
_TOTAL = 600.0  # Seconds in which a request must end even if bytes arrive all the time.
_PART_BYTES = 50 << 20  # Files above this size are sent in parts. The ETag of an upload depends on it.
_REFUSALS = ("PermissionDeniedError", "UnauthenticatedError")
# obstore has no exception of its own for a listing that is refused, or for missing credentials.
_SIGNS_OF_REFUSAL = ("status code: 401", "status code: 403", "redentials", "169.254.")
_FINAL = ("status code: 301", "status code: 400", "status code: 416")
Result = TypeVar("Result")


class ObjectStore:
    """The objects below a URL; see `interface.Store`.

    Args:
        url: For example s3://bucket/pets. Credentials come from the environment.
        patience: How long the store may fail.
    """

    def __init__(self, url: str, patience: Patience = Patience()):
        self.url = url if url.endswith("://") else url.rstrip("/")
        self._patience = patience
        self._clients: dict[int, tuple[Any, Any]] = {}  # Process -> module and client.

    def head(self, path: str) -> Object:
        return self._call(path, lambda obstore, client: _object(path, obstore.head(client, path)))

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        options: dict[str, Any] = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        if tag and not tag.startswith("W/"):  # No tag that a server calls weak fulfills If-Match.
            options["if_match"] = tag

        def read(obstore: Any, client: Any) -> memoryview:
            result = obstore.get(client, path, options=options)
            found = _object(path, result.meta)
            expected = (found.size if end is None else end) - start
            if (tag and found.tag != tag) or found.size < start + expected:
                raise self._changed(path)
            data = memoryview(result.bytes())
            if result.range[0] != start or len(data) != expected:  # A server that ignores ranges.
                raise UserError(
                    f"{self.url}/{path}: the server sent other bytes than were asked for ({len(data):,} from byte"
                    f" {result.range[0]:,} instead of {expected:,} from byte {start:,}). The server must support HTTP"
                    " range requests. Use another server, or copy the dataset to this machine."
                )
            return data

        return self._call(path, read)

    def list(self, prefix: str = "", below: bool = True) -> Iterator[Object]:
        def read(obstore: Any, client: Any) -> list[Object]:
            if below:
                pages = obstore.list(client, prefix or None)
            else:
                pages = [obstore.list_with_delimiter(client, prefix or None)["objects"]]
            return [_object(found["path"], found) for page in pages for found in page]

        if not self._directory.is_dir():  # A bucket has no directories that could be missing.
            return iter(())
        return iter(sorted(self._call(prefix, read), key=lambda found: found.path))

    def put(self, path: str, data: bytes | Path, create: bool = False) -> Object:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        self._directory.mkdir(parents=True, exist_ok=True)

        def write(obstore: Any, client: Any) -> Object:
            done = obstore.put(
                client,
                path,
                data,
                mode="create" if create else "overwrite",
                use_multipart=size > _PART_BYTES and not create,
                chunk_size=_PART_BYTES,
            )
            return Object(path, size, done["e_tag"] or "")

        return self._call(path, write)

    def copy(self, source: str, destination: str, create: bool = False) -> None:
        def write(obstore: Any, client: Any) -> None:
            obstore.copy(client, source, destination, overwrite=not create)

        try:
            self._call(source, write)
        except Exists as error:
            raise Exists(_exists(f"{self.url}/{destination}")) from error

    def delete(self, path: str) -> None:
        with contextlib.suppress(Missing):
            self._call(path, lambda obstore, client: obstore.delete(client, path))

    @property
    def _directory(self) -> Path:
        """The directory of a URL file://. For other URLs, a directory that exists."""
        is_file = self.url.startswith("file://")
        return Path(urllib.parse.unquote(self.url.removeprefix("file://")) if is_file else os.sep)

    def _call(self, path: str, operation: Callable[[Any, Any], Result]) -> Result:
        """Run an operation, again after errors that can pass; explain other errors.

        obstore tries a request again by itself, but not after every kind of broken answer.
        """
        attempts = Attempts(self._patience)
        while True:
            obstore, client = self._client()
            try:
                return operation(obstore, client)
            except UserError:
                raise
            except Exception as error:  # The exceptions of obstore have no common base that is not too general.
                final = self._explained(path, error)
                if final is not None:
                    raise final from error
                if attempts.are_over:
                    raise Unreachable(
                        f"{self.url}/{path}".rstrip("/")
                        + ": the store cannot be reached, or it answered with errors for"
                        f" {self._patience.retry:.0f} s. The last error: {_shown(error)}. Check the URL and the"
                        " connection, and run the same command again. For an S3 server that is not Amazon's, set"
                        " AWS_ENDPOINT_URL."
                    ) from error
            attempts.wait()

    def _client(self) -> tuple[Any, Any]:
        process = os.getpid()
        found = self._clients.get(process)
        if found is None:
            found = self._clients[process] = _client(self.url, self._patience, process, _environment())
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_clients": {}}

    def _explained(self, path: str, error: Exception) -> UserError | None:
        """Return the error for the user. None: the same request may succeed later."""
        url, kind, text = f"{self.url}/{path}".rstrip("/"), type(error).__name__, str(error)
        if isinstance(error, FileNotFoundError) or "NoSuchBucket" in text or "status code: 404" in text:
            what = "the bucket does not exist" if "NoSuchBucket" in text else "does not exist"
            return Missing(f"{url}: {what}. Check the URL.")
        if kind in _REFUSALS or any(sign in text for sign in _SIGNS_OF_REFUSAL):
            return Denied(f"{url}: access is denied ({_shown(error)}). {_credentials(url)}")
        if kind == "AlreadyExistsError":
            return Exists(_exists(url))
        if kind in ("PreconditionError", "NotModifiedError"):
            return self._changed(path)
        if kind != "GenericError" or any(status in text for status in _FINAL):
            return UserError(
                f"{url}: the store refused the request ({_shown(error)}). Check the URL. For S3, set AWS_REGION to the"
                " region of the bucket."
            )
        return None

    def _changed(self, path: str) -> Changed:
        return Changed(
            f"{self.url}/{path}: was changed since it was opened. Records of the old and the new file would be mixed."
            " Open the dataset again: run the same command again."
        )


def _exists(url: str) -> str:
    return f"{url}: exists already. Choose another name, or delete the object."


def _environment() -> frozenset[tuple[str, str]]:
    """Return the variables from which obstore reads keys and addresses."""
    return frozenset(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_", "AZURE_")))


def _object(path: str, meta: Any) -> Object:
    return Object(path, meta["size"], meta["e_tag"] or meta["version"] or "")


def _shown(error: Exception) -> str:
    """Return the parts of obstore's message that help a user. The rest repeats them with internal names."""
    text = str(error).partition("Debug source:")[0]
    code, message = (text.partition(f"<{name}>")[2].partition(f"</{name}>")[0] for name in ("Code", "Message"))
    return f"{code}: {message}".rstrip(".: ") if code else one_line(Exception(text))


def _credentials(url: str) -> str:
    """Return what to do about credentials."""
    scheme = url.partition("://")[0].lower()
    if scheme in _S3:
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. For a public bucket, set"
            " AWS_SKIP_SIGNATURE=true."
        )
    if scheme == "gs":
        return "Set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login"
    return "Set credentials that may read this URL."


@functools.lru_cache(maxsize=16)
def _client(url: str, patience: Patience, *key: object) -> tuple[Any, Any]:
    """Return the module obstore and its client for a URL; another one for each process and environment."""
    try:
        obstore = importlib.import_module("obstore")
        stores = importlib.import_module("obstore.store")
    except ImportError as error:
        raise UserError(f"{url}: a package is missing ({error}). Install it: {_PACKAGE}") from error
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": _plain_http(url),
            "connect_timeout": _seconds(patience.connect),
            "read_timeout": _seconds(patience.stall),
            "timeout": _seconds(_TOTAL),
        },
        "retry_config": {
            "max_retries": 1000,
            "retry_timeout": _seconds(patience.retry),
            "backoff": {"init_backoff": _seconds(FIRST_PAUSE), "max_backoff": _seconds(LONGEST_PAUSE)},
        },
    }
    if url.partition("://")[0].lower() in _S3:
        # S3 copies only in parts under the condition that the copy does not exist.
        options |= {"copy_if_not_exists": "multipart"} | _s3(url)
    try:
        return obstore, stores.from_url(url, **options)
    except UserError:
        raise
    except Exception as error:  # As in `ObjectStore._call`.
        if url.startswith("file:") and "canonicalize" in str(error):
            raise Missing(f"{url}: does not exist. Check the URL.") from error
        raise UserError(
            f"{url}: is not an address of a store ({_shown(error)}). Pass a URL such as s3://bucket/pets."
        ) from error


def _seconds(count: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=count)


def _plain_http(url: str) -> bool:
    """Return whether a URL or the endpoint in the environment begins with http://, not https://."""
    endpoints = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")]
    return any(address.lower().startswith("http://") for address in (url, *endpoints))


def _s3(url: str) -> dict[str, Any]:
    """Return options for S3 that obstore does not read from the environment.

    The keys of a profile come from botocore, as in s3fs. obstore itself knows keys in the environment and the roles of
    machines and containers.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return {}
    profile = os.environ.get("AWS_PROFILE")
    shared = [
        Path(os.environ.get(name) or Path.home() / ".aws" / file)
        for name, file in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config"))
    ]
    if profile or any(path.exists() for path in shared):
        return _from_botocore(url)
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not any(
        name.startswith(("AWS_CONTAINER_", "AWS_WEB_IDENTITY_")) for name in os.environ
    ):
        raise Denied(f"{url}: no credentials were found. {_credentials(url)}")
    return {}


def _from_botocore(url: str) -> dict[str, Any]:
    try:
        botocore = importlib.import_module("botocore.session")
    except ImportError as error:
        raise UserError(f"{url}: AWS_PROFILE and ~/.aws need the package botocore. Install it: {_PACKAGE}") from error
    session = botocore.get_session()
    try:
        found = session.get_credentials()
    except Exception as error:  # botocore raises one exception per mistake in its files.
        raise Denied(f"{url}: {one_line(error)}. {_credentials(url)}") from error
    if found is None:
        return {}

    def keys() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5),
        }

    region = session.get_config_variable("region")
    return {"credential_provider": keys, **({"region": region} if region else {})}
