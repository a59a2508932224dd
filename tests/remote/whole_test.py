"""Tests of fetching whole objects over a network that changes bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from tfrecord_tools.errors import UserError
from tfrecord_tools.remote import whole
from tfrecord_tools.remote.interface import Object

MIB = 1 << 20
DATA = np.random.default_rng(0).bytes(20 * MIB + 7)


def md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()


def in_parts(size: int) -> str:
    """Return the tag that S3 gives to `DATA` after an upload in parts."""
    parts = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    return f'"{md5(b"".join(map(md5, parts))).hex()}-{len(parts)}"'


class Changing:
    """A store with the object `DATA`. In the calls with these numbers, a byte of the answer is wrong."""

    url = "s3://bucket/pets"

    def __init__(self, wrong: Collection[int]):
        self._wrong, self.calls = wrong, 0

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        data = bytearray(DATA[start:end])
        if self.calls in self._wrong:
            data[len(data) // 2] ^= 1 + self.calls
        self.calls += 1
        return memoryview(bytes(data))


@pytest.mark.parametrize(
    ("tag", "wrong", "calls"),
    [
        (f'"{md5(DATA).hex()}"', [], 2),  # S3's tag of one upload. A copy takes two requests.
        (f'"{md5(DATA).hex()}"', [1], 4),
        (f'"{md5(DATA).hex()}"', [0, 3], 6),
        (in_parts(8 * MIB), [], 2),
        (in_parts(8 * MIB), [1], 4),
        (in_parts(5 * MIB), [0], 4),
        (in_parts(16 * MIB), [], 2),
        (in_parts(7 * MIB), [], 4),  # An unusual size of parts: two copies must be equal.
        (f'"{"0" * 32}"', [], 4),  # The tags of an encrypted bucket are not sums.
        ("", [], 4),
        ('W/"123"', [0], 6),
        ('W/"123"', [1, 2], 8),
    ],
)
def test_wrong_bytes_are_fetched_again(tag: str, wrong: list[int], calls: int) -> None:
    store: Any = Changing(wrong)
    file = io.BytesIO()
    whole.fetch(store, Object("records.parquet", len(DATA), tag), file)
    assert file.getvalue() == DATA
    assert store.calls == calls


def test_bytes_that_are_always_wrong_are_an_error() -> None:
    message = (
        r"^s3://bucket/pets/records\.parquet: arrived with different bytes in each of 5 attempts\. Something between"
        r" .* run the same command again\.$"
    )
    always_wrong: Any = Changing(range(100))
    with pytest.raises(UserError, match=message):
        whole.fetch(always_wrong, Object("records.parquet", len(DATA), '"1-1"'), io.BytesIO())


def test_an_empty_object() -> None:
    store: Any = Changing([])
    file = io.BytesIO()
    whole.fetch(store, Object("empty", 0, f'"{md5(b"").hex()}"'), file)
    assert file.getvalue() == b""
