"""Tests of stores: the same operations on an S3 server, a directory and fsspec, and messages."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest
from s3_bucket import Bucket

from tfrecord_tools.errors import UserError
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


@pytest.fixture(params=["s3", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('bucket').url}/pets/", SHORT)
    return open_store(f"file://{tmp_path}/new" if request.param == "file" else f"memory://{tmp_path.name}")


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


def test_of_several_writers_one_creates(store: Store) -> None:
    outcomes: list[str] = []
    refused: list[str] = []

    def write(number: int) -> None:
        try:
            store.put("marker", str(number).encode(), create=True)
            outcomes.append(str(number))
        except Exists as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) == {f"{store.url}/marker: exists already. Choose another name, or delete the object."}
    if not store.url.startswith("memory:"):  # fsspec's memory looks first, and then writes.
        assert outcomes == [bytes(store.get("marker")).decode()]


def test_of_several_copies_one_is_created(store: Store) -> None:
    store.put("a", b"1234")
    if store.url.startswith("memory:"):
        with pytest.raises(
            UserError, match=r"/a: fsspec cannot do this with a store of this kind \(copies would replace"
        ):
            store.copy("a", "b", create=True)
        return
    store.copy("a", "b", create=True)
    for source in ("a", "b"):
        with pytest.raises(Exists, match=r"/b: exists already\. Choose another name, or delete the object\.$"):
            store.copy(source, "b", create=True)
    store.put("a", b"5678")
    store.copy("a", "b")
    assert bytes(store.get("b")) == b"5678"


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
