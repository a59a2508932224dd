"""Access stores by fsspec: schemes that obstore does not know, such as hf:// and memory://.

fsspec cannot ask for a version of an object. Tags are therefore compared only by `head`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.remote.interface import Attempts, Changed, Denied, Exists, Missing, Object, Patience, Unreachable

Result = TypeVar("Result")


class FsspecStore:
    """The objects below a URL; see `interface.Store`.

    Args:
        url: For example hf://datasets/name.
        patience: How long the store may fail. Only `retry` is used: connections belong to fsspec.
    """

    def __init__(self, url: str, patience: Patience = Patience()):
        self.url = url.rstrip("/")
        self._patience = patience

    def head(self, path: str) -> Object:
        return self._call(path, lambda system, root: self._object(system, f"{root}/{path}", path))

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        def read(system: Any, root: str) -> memoryview:
            data = system.cat_file(f"{root}/{path}", start=start, end=end)
            if end is not None and len(data) != end - start:
                raise Changed(
                    f"{self.url}/{path}: has fewer bytes than when it was opened. Open the dataset again: run the same"
                    " command again."
                )
            return memoryview(data)

        return self._call(path, read)

    def list(self, prefix: str = "", below: bool = True) -> Iterator[Object]:
        def read(system: Any, root: str) -> list[Object]:
            infos = system.find(f"{root}/{prefix}".rstrip("/"), maxdepth=None if below else 1, detail=True)
            return [
                Object(name.removeprefix(f"{root}/"), info["size"], system.ukey(name)) for name, info in infos.items()
            ]

        return iter(sorted(self._call(prefix, read), key=lambda found: found.path))

    def put(self, path: str, data: bytes | Path, create: bool = False) -> Object:
        def write(system: Any, root: str) -> Object:
            system.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
            if isinstance(data, Path) and not create:
                system.put_file(str(data), f"{root}/{path}")
            else:
                content = data.read_bytes() if isinstance(data, Path) else data
                system.pipe_file(f"{root}/{path}", content, mode="create" if create else "overwrite")
            return self._object(system, f"{root}/{path}", path)

        return self._call(path, write)

    def copy(self, source: str, destination: str, create: bool = False) -> None:
        def write(system: Any, root: str) -> None:
            if create:
                raise NotImplementedError("copies would replace an object")
            system.cp_file(f"{root}/{source}", f"{root}/{destination}")

        self._call(source, write)

    def delete(self, path: str) -> None:
        with contextlib.suppress(Missing):
            self._call(path, lambda system, root: system.rm_file(f"{root}/{path}"))

    def _object(self, system: Any, name: str, path: str) -> Object:
        info = system.info(name)
        if info["type"] == "directory":
            raise FileNotFoundError(name)
        return Object(path, info["size"], system.ukey(name))

    def _call(self, path: str, operation: Callable[[Any, str], Result]) -> Result:
        """Run an operation, again after errors that can pass; explain other errors."""
        url = f"{self.url}/{path}".rstrip("/")
        attempts = Attempts(self._patience)
        system, root = _opened(self.url, os.getpid())
        while True:
            try:
                return operation(system, root)
            except UserError:
                raise
            except FileNotFoundError as error:
                raise Missing(f"{url}: does not exist. Check the URL.") from error
            except FileExistsError as error:
                raise Exists(f"{url}: exists already. Choose another name, or delete the object.") from error
            except PermissionError as error:
                raise Denied(f"{url}: access is denied ({one_line(error)}). Set credentials for this URL.") from error
            except NotImplementedError as error:
                raise UserError(
                    f"{url}: fsspec cannot do this with a store of this kind ({one_line(error)})."
                ) from error
            except Exception as error:  # Every store raises its own errors.
                if attempts.are_over:
                    raise Unreachable(
                        f"{url}: the store cannot be reached, or it answered with errors for"
                        f" {self._patience.retry:.0f} s. The last error: {type(error).__name__}: {one_line(error)}."
                        " Check the URL and the connection, and run the same command again."
                    ) from error
            attempts.wait()


@functools.lru_cache(maxsize=16)
def _opened(url: str, process: int) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and the path in it. Each process has its own."""
    try:
        import fsspec.core

        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(
            f"{url}: a package is missing ({error}). Install fsspec and the package for this scheme."
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: {error}. Pass a URL such as s3://bucket/prefix or gs://bucket/prefix.") from error
    return system, root.rstrip("/")
