"""Tests of stores: the same operations on an S3 server, a directory and fsspec, and messages."""

from __future__ import annotations

import os
import pickle
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from bad_network import BadNetwork
from s3_bucket import Bucket

from tfrecord_tools.errors import UserError
from tfrecord_tools.remote import by_obstore
from tfrecord_tools.remote import store as stores
from tfrecord_tools.remote.store import (
    SHORT,
    Changed,
    Denied,
    Exists,
    Missing,
    Object,
    Patience,
    Store,
    Unreachable,
    open_common,
    open_store,
)

IMPATIENT = Patience(connect=1, stall=1, retry=0.5)


def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if kind == "s3":
        return open_store(f"{request.getfixturevalue('bucket').url}/pets/", SHORT)
    return open_store(f"file://{tmp_path}/new" if kind == "file" else f"memory://{tmp_path.name}")


@pytest.fixture(params=["s3", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return opened(request.param, request, tmp_path)


@pytest.fixture(params=["s3", "file"])
def creating(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that creates objects under the condition that they do not exist."""
    return opened(request.param, request, tmp_path)


def test_write_read_list_copy_delete(store: Store, tmp_path: Path) -> None:
    data = os.urandom(1000)
    name = "deep/a b+ä%20&#.bin"
    written = store.put(name, data)
    assert written == store.head(name)
    assert (written.path, written.size) == (name, 1000)
    assert written.tag
    assert bytes(store.get(name)) == data
    assert bytes(store.get(name, 10)) == data[10:]
    assert bytes(store.get(name, 10, 20, written.tag)) == data[10:20]
    (tmp_path / "large").write_bytes(data * 2)
    store.put("a.bin", tmp_path / "large")
    assert [(found.path, found.size) for found in store.list()] == [("a.bin", 2000), (name, 1000)]
    assert [found.path for found in store.list("deep")] == [name]
    assert list(store.list("nothing")) == []
    assert [found.path for found in store.list(below=False)] == ["a.bin"]
    assert [found.path for found in store.list("deep", below=False)] == [name]
    store.copy(name, "copy")
    assert bytes(store.get("copy")) == data
    store.delete("copy")
    store.delete("copy")
    with pytest.raises(Missing, match=r"/copy: does not exist\. Check the URL\.$"):
        store.head("copy")


def test_a_changed_object_is_not_read(store: Store) -> None:
    first = store.put("a", b"old bytes")
    second = store.put("a", b"new bytes, other size")
    assert first.tag != second.tag
    if not store.url.startswith("memory:"):  # fsspec cannot ask for a version.
        with pytest.raises(Changed, match=r"/a: was changed since it was opened\. .* run the same command again\.$"):
            store.get("a", 0, 3, first.tag)
    with pytest.raises(Changed):
        store.get("a", 15, 30)
    assert bytes(store.get("a", 0, 3, second.tag)) == b"new"


def test_of_several_writers_one_creates(creating: Store) -> None:
    outcomes: list[str] = []
    refused: list[str] = []

    def write(number: int) -> None:
        try:
            creating.put("marker", str(number).encode(), create=True)
            outcomes.append(str(number))
        except Exists as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) == {f"{creating.url}/marker: exists already. Choose another name, or delete the object."}
    assert outcomes == [bytes(creating.get("marker")).decode()]


def test_of_several_copies_one_is_created(creating: Store) -> None:
    creating.put("a", b"1234")
    creating.copy("a", "b", create=True)
    for source in ("a", "b"):
        with pytest.raises(Exists, match=r"/b: exists already\. Choose another name, or delete the object\.$"):
            creating.copy(source, "b", create=True)
    creating.put("a", b"5678")
    creating.copy("a", "b")
    assert bytes(creating.get("b")) == b"5678"


def test_fsspec_has_no_conditions(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}")
    store.put("a", b"1234")
    for call in (lambda: store.put("b", b"1234", create=True), lambda: store.copy("a", "b", create=True)):
        with pytest.raises(UserError, match=r": a store memory:// cannot create objects under .* or a local directory"):
            call()
    assert [found.path for found in store.list()] == ["a"]


def test_a_common_store_of_two_urls(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/a", b"1234")
    (tmp_path / "my pets").mkdir()
    (tmp_path / "my pets/a").write_bytes(b"1234")
    for one, other in [
        (f"{bucket.url}/pets", f"{bucket.url}/x/y"),
        (f"file://{tmp_path}/my%20pets", f"file://{tmp_path}/x"),
    ]:
        common = open_common(one, other, SHORT)
        assert common is not None
        store, first, second = common
        store.copy(f"{first}/a", f"{second}/b", create=True)
        assert bytes(open_store(other).get("b")) == b"1234"
    assert open_common(bucket.url, f"file://{tmp_path}") is None
    assert open_common(bucket.url, "s3://other/x") is None
    assert open_common("memory://a", "memory://a") is None  # It has no copies under a condition.


def test_a_store_is_pickled(store: Store) -> None:
    store.put("a", b"1234")
    assert bytes(pickle.loads(pickle.dumps(store)).get("a")) == b"1234"


def test_large_files_are_sent_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(51 << 20))
    store = open_store(bucket.url)
    assert store.put("large", path).tag.endswith('-2"')
    assert bytes(store.get("large")) == path.read_bytes()


def test_a_slow_upload_does_not_fail(bucket: Bucket, network: BadNetwork, tmp_path: Path) -> None:
    """The upload takes longer than the patience with stalled answers and with errors."""
    network.rule = lambda method, path: "slow" if method == "PUT" else ""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(6 << 20))
    store = open_store(bucket.url, Patience(connect=1, stall=0.3, retry=0.5))
    assert store.put("large", path, create=True) == store.head("large")
    assert bytes(store.get("large")) == path.read_bytes()
    assert [method for method, _, _ in network.requests].count("PUT") == 1


def test_errors_of_uploads_are_tried_again(bucket: Bucket, network: BadNetwork) -> None:
    faults = iter(["late", "busy", "closed"])
    network.rule = lambda method, path: next(faults, "")
    store = open_store(bucket.url, Patience(connect=1, stall=0.3, retry=3))
    assert store.put("a", b"1234", create=True) == store.head("a")
    assert list(faults) == []


def test_an_upload_without_an_answer_ends(bucket: Bucket, network: BadNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_obstore, "_SLOWEST", 1 << 22)
    network.rule = lambda method, path: "silent" if method == "PUT" else ""
    store = open_store(bucket.url, Patience(connect=1, stall=0.2, retry=0.3))
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"/a: the store cannot be reached, or it answered with errors for 0 s\."):
        store.put("a", b"1234", create=True)
    assert time.monotonic() - began < 5


def test_the_time_to_send_follows_from_the_size() -> None:
    store = by_obstore.ObjectStore("s3://bucket")
    assert store._time_to_send(0) == store._time_to_send(1000) == 15 + (1 << 20) / 50_000
    assert 3000 < store._time_to_send(150 << 20) < 6000
    assert store._time_to_send(256 << 20) == store._time_to_send((128 << 20) + 1)


class Azure:
    """The part of obstore that a store uses, with answers as from Azure: listed tags have no quotes."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.written: str | None = '"0x8D"'

    def _meta(self, path: str, tag: str = '"0x8D"') -> dict[str, Any]:
        return {"path": path, "size": len(self.data[path]), "e_tag": tag, "version": None}

    def put(self, client: object, path: str, data: bytes, **options: object) -> dict[str, Any]:
        self.data[path] = data
        return {"e_tag": self.written, "version": None}

    def head(self, client: object, path: str) -> dict[str, Any]:
        return self._meta(path)

    def list(self, client: object, prefix: str | None) -> list[list[dict[str, Any]]]:
        return [[self._meta(path, "0x8D") for path in self.data]]

    def get(self, client: object, path: str, options: dict[str, Any]) -> types.SimpleNamespace:
        self.asked.append(options["if_match"])
        data = self.data[path]
        return types.SimpleNamespace(meta=self._meta(path), bytes=lambda: data, range=(0, len(data)))


def test_tags_are_equal_with_and_without_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    azure = Azure()
    monkeypatch.setattr(by_obstore, "_client", lambda *key: (azure, None))
    store = by_obstore.ObjectStore("az://container")
    written = store.put("a", b"1234", create=True)
    (listed,) = store.list()
    assert written == store.head("a") == listed == Object("a", 4, '"0x8D"')
    for tag in (listed.tag, "0x8D"):
        assert bytes(store.get("a", tag=tag)) == b"1234"
    with pytest.raises(Changed):
        store.get("a", tag="0x8E")
    assert azure.asked == ['"0x8D"', '"0x8D"', '"0x8E"']


@pytest.mark.parametrize(("tag", "expected"), [('"1"', '"1"'), ("1", '"1"'), ('W/"1"', 'W/"1"'), ("", "")])
def test_tags_in_quotes(tag: str, expected: str) -> None:
    assert by_obstore._object("a", {"size": 1, "e_tag": tag, "version": None}) == Object("a", 1, expected)


def test_an_upload_without_a_tag_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    azure = Azure()
    azure.written = None
    monkeypatch.setattr(by_obstore, "_client", lambda *key: (azure, None))
    store = by_obstore.ObjectStore("az://container")
    assert store.put("a", b"1234", create=True) == store.head("a") == Object("a", 4, '"0x8D"')


def test_an_upload_that_the_store_refuses_is_sent_again(bucket: Bucket, network: BadNetwork) -> None:
    faults = iter(["refused", "refused"])
    network.rule = lambda method, path: next(faults, "") if method == "PUT" else ""
    store = open_store(bucket.url, Patience(connect=1, stall=1, retry=5))
    store.put("a", b"1234", create=True)
    assert bytes(store.get("a")) == b"1234"
    assert network.faults["refused"] == 2


@pytest.mark.parametrize("size", [4, 51 << 20])
def test_an_object_that_arrived_damaged_is_an_error(
    size: int, bucket: Bucket, network: BadNetwork, tmp_path: Path
) -> None:
    """The server of the tests does not compare the bytes with the signature."""
    network.rule = lambda method, path: "altered" if method == "PUT" else ""
    (tmp_path / "a").write_bytes(os.urandom(size))
    message = r"/a: has other bytes in the store than were sent\. .* delete this object, and run the same command again"
    with pytest.raises(UserError, match=message):
        open_store(bucket.url, SHORT).put("a", tmp_path / "a")


def test_tags_of_an_encrypted_bucket_are_no_error(bucket: Bucket, network: BadNetwork) -> None:
    network.rule = lambda method, path: "encrypted"
    store = open_store(bucket.url, SHORT)
    for name in ("a", "b"):
        assert store.put(name, os.urandom(1000), create=True) == store.head(name)
    assert [path[-1] for method, path, _ in network.requests if method == "GET"] == ["a"]


def test_an_empty_file_is_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert store.put("a", tmp_path / "empty") == store.head("a")
    assert store.head("a").size == 0


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize(
    ("url", "environment", "kind", "message"),
    [
        ("s3://no-such-bucket/pets", {}, Missing, r"s3://no-such-bucket/pets/a: does not exist\. Check the URL"),
        ("{bucket}", {}, Missing, r"/a: does not exist\. Check the URL\.$"),
        (
            "{bucket}",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            Unreachable,
            r"/a: the store cannot be reached, or .* for 0 s\. The last error: .* set AWS_ENDPOINT_URL\.$",
        ),
        (
            "{bucket}",
            {"AWS_ACCESS_KEY_ID": ""},
            Denied,
            r"no credentials were found\. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE\. For a",
        ),
        (
            "{bucket}",
            {"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"},
            Denied,
            r"The config profile \(nobody\) could not be found\. Set AWS_ACCESS_KEY_ID",
        ),
        ("file:///no-such-directory", {}, Missing, r"file:///no-such-directory: does not exist\. Check the URL\.$"),
        ("other://bucket/pets", {}, UserError, r"other://bucket/pets: Protocol not known: other\. Pass a URL"),
        ("https://", {}, UserError, r"https://: is not an address of a store"),
    ],
)
def test_errors_name_the_url_and_a_remedy(
    url: str,
    environment: dict[str, str],
    kind: type[UserError],
    message: str,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=message) as raised:
        open_store(url.format(bucket=bucket.url), IMPATIENT).head("a")
    assert "\n" not in str(raised.value)


def test_keys_of_a_profile_are_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket.put("a", b"1234")
    (tmp_path / "keys").write_text("[work]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert open_store(bucket.url, SHORT).head("a") == Object("a", 4, '"81dc9bdb52d04dc20036dbd8313ed055"')


def test_a_path_is_not_a_url() -> None:
    with pytest.raises(UserError, match=r"^pets/data: is not a URL\. Pass a URL such as s3://bucket/pets\.$"):
        stores.open_store("pets/data")
