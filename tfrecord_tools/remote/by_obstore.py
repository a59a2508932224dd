"""A store that the package obstore accesses. It is a client in Rust that works without Python's lock.

With 16 requests of 4 MiB at once and 20 ms of delay, two processors read 1,570 MB/s with 0.4 s of processor time per
GB. With s3fs, they read 442 MB/s with 1.1 s per GB.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import mmap
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.remote import whole
from tfrecord_tools.remote.interface import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    RANGE_BYTES,
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
_TOTAL = 600.0  # Seconds in which an answer must end even if bytes arrive all the time, and in which a copy must end.
_SLOWEST = 50_000  # Bytes/s. A slower upload fails. Many workers may share a slow line.
_PART_BYTES = 50 << 20  # Files above this size are sent in parts. The ETag of an upload depends on it.
_REFUSALS = ("PermissionDeniedError", "UnauthenticatedError")
# obstore has no exception of its own for a listing that is refused, or for missing credentials.
_SIGNS_OF_REFUSAL = ("status code: 401", "status code: 403", "redentials", "169.254.")
_PARTS_AT_ONCE = 12
_REPEATED = 10.0  # Seconds in which obstore itself sends a part of a copy or an upload again. `_call` sends all of it.
_FINAL = ("status code: 301", "status code: 400", "status code: 416")
# Answers with code 400 after a request that arrived damaged, incompletely or too slowly.
_PASSING = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "Md5Mismatch")
Result = TypeVar("Result")
_without_sums: set[str] = set()  # URLs of stores with tags that look like MD5 sums and are something else.


class ObjectStore:
    """The objects below a URL; see `interface.Store`.

    Args:
        url: For example s3://bucket/pets. Credentials come from the environment.
        patience: How long the store may fail.
    """

    def __init__(self, url: str, patience: Patience = Patience()):
        self.url = url if url.endswith("://") else url.rstrip("/")
        self._patience = patience
        self._clients: dict[tuple[int, float], tuple[Any, Any]] = {}  # Process, time to send -> module and client.

    def head(self, path: str) -> Object:
        return self._call(path, lambda obstore, client: _object(path, obstore.head(client, path)))

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        options: dict[str, Any] = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        tag = _quoted(tag)
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
        content = _content(data)
        in_parts = len(content) > _PART_BYTES and not create
        self._directory.mkdir(parents=True, exist_ok=True)

        def write(obstore: Any, client: Any) -> str:
            done = obstore.put(
                client,
                path,
                content,
                mode="create" if create else "overwrite",
                use_multipart=in_parts,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
            return _quoted(done["e_tag"] or "")

        at_once = min(len(content), _PARTS_AT_ONCE * _PART_BYTES) if in_parts else len(content)
        tag = self._call(path, write, self._time_to_send(at_once))
        written = Object(path, len(content), tag or self.head(path).tag)
        self._check_written(written, memoryview(content))
        return written

    def copy(self, source: str, destination: str, create: bool = False) -> None:
        def write(obstore: Any, client: Any) -> None:
            obstore.copy(client, source, destination, overwrite=not create)

        try:
            self._call(source, write, _TOTAL)
        except Exists as error:
            raise Exists(_exists(f"{self.url}/{destination}")) from error

    def delete(self, path: str) -> None:
        with contextlib.suppress(Missing):
            self._call(path, lambda obstore, client: obstore.delete(client, path))

    def _check_written(self, written: Object, data: memoryview) -> None:
        """Compare the tag of a new object with the MD5 sum of its bytes, if the store makes such tags.

        Amazon's server compares an upload with the SHA-256 sum in its signature. Others do not. The tags in an
        encrypted bucket look like sums. There, one object per process is read and compared.

        Raises:
            UserError: The object has other bytes.
        """
        if self.url in _without_sums or whole.is_sum_of(written, data) is not False:
            return
        for start in range(0, len(data), RANGE_BYTES):
            part = data[start : start + RANGE_BYTES]
            if self.get(written.path, start, start + len(part), written.tag) != part:
                raise UserError(
                    f"{self.url}/{written.path}: has other bytes in the store than were sent. Something between this"
                    " machine and the store changes bytes. Check the network and its proxies, delete this object, and"
                    " run the same command again."
                )
        _without_sums.add(self.url)

    @property
    def _directory(self) -> Path:
        """The directory of a URL file://. For other URLs, a directory that exists."""
        is_file = self.url.startswith("file://")
        return Path(urllib.parse.unquote(self.url.removeprefix("file://")) if is_file else os.sep)

    def _time_to_send(self, size: int) -> float:
        """Return the seconds in which an upload must end. Few different values, because each needs a client."""
        return self._patience.stall + (1 << max(20, (size - 1).bit_length())) / _SLOWEST

    def _call(self, path: str, operation: Callable[[Any, Any], Result], to_send: float = 0.0) -> Result:
        """Run an operation, again after errors that can pass; explain other errors.

        obstore tries a request again by itself, but not after every kind of broken answer.

        Args:
            path: Path of the object.
            operation: Function of obstore and its client.
            to_send: Seconds in which a request that writes must end. The patience with errors begins with the first
                one, because an upload may take longer than the patience. 0: the operation reads or deletes.
        """
        attempts = None if to_send else Attempts(self._patience)
        while True:
            obstore, client = self._client(to_send)
            try:
                return operation(obstore, client)
            except UserError:
                raise
            except Exception as error:  # The exceptions of obstore have no common base that is not too general.
                final = self._explained(path, error)
                if final is not None:
                    raise final from error
                attempts = attempts or Attempts(self._patience)
                if attempts.are_over:
                    raise Unreachable(
                        f"{self.url}/{path}".rstrip("/")
                        + ": the store cannot be reached, or it answered with errors for"
                        f" {self._patience.retry:.0f} s. The last error: {_shown(error)}. Check the URL and the"
                        " connection, and run the same command again. For an S3 server that is not Amazon's, set"
                        " AWS_ENDPOINT_URL."
                    ) from error
            attempts.wait()

    def _client(self, to_send: float) -> tuple[Any, Any]:
        process = os.getpid()
        found = self._clients.get((process, to_send))
        if found is None:
            made = _client(self.url, self._patience, to_send, process, _environment())
            found = self._clients[process, to_send] = made
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
        passes = any(f"<Code>{code}</Code>" in text for code in _PASSING)
        if kind != "GenericError" or (any(status in text for status in _FINAL) and not passes):
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
    return Object(path, meta["size"], _quoted(meta["e_tag"] or meta["version"] or ""))


def _quoted(tag: str) -> str:
    """Return a tag in quotes. Azure lists tags without them, and sends them with quotes in other answers."""
    return tag if not tag or tag.startswith(('"', "W/")) else f'"{tag}"'


def _content(data: bytes | Path) -> bytes | mmap.mmap:
    """Return bytes to send. A file is mapped: obstore would read all of it into memory.

    A mapping has no memory of its own. The measured peak is 2 MB for a file of 200 MB, and 260 MB without a mapping.
    """
    if isinstance(data, bytes) or not data.stat().st_size:  # An empty file cannot be mapped.
        return data if isinstance(data, bytes) else b""
    with open(data, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # Not closed: obstore may still read from it.


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


@functools.lru_cache(maxsize=64)
def _client(url: str, patience: Patience, to_send: float, *key: object) -> tuple[Any, Any]:
    """Return the module obstore and its client for a URL; another one for each process and environment.

    `read_timeout` also counts while a request is sent (github.com/seanmonstar/reqwest/issues/2784), so it would end
    each upload that takes longer. A client that writes has only a limit for the whole request.
    """
    try:
        obstore = importlib.import_module("obstore")
        stores = importlib.import_module("obstore.store")
    except ImportError as error:
        raise UserError(f"{url}: a package is missing ({error}). Install it: {_PACKAGE}") from error
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": _plain_http(url),
            "connect_timeout": _seconds(patience.connect),
            "timeout": _seconds(to_send or _TOTAL),
            **({} if to_send else {"read_timeout": _seconds(patience.stall)}),
        },
        "retry_config": {
            "max_retries": 1000,
            "retry_timeout": _seconds(min(patience.retry, _REPEATED) if to_send else patience.retry),
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
