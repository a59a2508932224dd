"""Tests of what is found of equal contents, against sets and loops that say the same at length."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pytest

from tfrecord_tools.layout import duplicates


def sha256(contents: str) -> np.ndarray:
    """u8[n 32] of single-letter contents."""
    digests = b"".join(hashlib.sha256(letter.encode()).digest() for letter in contents)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def columns(labels: str, splits: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(c) for c in labels], np.int32), np.array([int(c) for c in splits], np.int8)


@pytest.mark.parametrize(
    ("contents", "first"),
    [
        ("abc", [0, 1, 2]),
        ("aba", [0, 1, 0]),
        ("baab", [0, 1, 1, 0]),  # Where it stands first, not the least hash.
        ("aaaa", [0, 0, 0, 0]),
        ("", []),
    ],
)
def test_first_of(contents: str, first: list[int]) -> None:
    assert duplicates.first_of(sha256(contents)).tolist() == first


@pytest.mark.parametrize(
    ("contents", "labels", "splits", "counts", "files"),
    [
        ("abcd", "0101", "0011", (0, 0, 0), 0),
        ("aabc", "0001", "0001", (2, 0, 0), 2),  # A copy within a split.
        ("abca", "0000", "0001", (0, 2, 0), 2),  # A leak.
        ("aab", "010", "000", (0, 0, 2), 2),  # A conflict.
        ("aab", "010", "010", (0, 0, 2), 2),  # A conflict across splits counts as such alone.
        ("aaabbcc", "0000100", "0010011", (2, 3, 2), 7),  # Three kinds at once; three files of one content.
    ],
)
def test_kinds(contents: str, labels: str, splits: str, counts: tuple[int, int, int], files: int) -> None:
    found = duplicates.find(duplicates.first_of(sha256(contents)), *columns(labels, splits))
    assert (found.counts["copies"], found.counts["leaks"], found.counts["conflicts"]) == counts
    assert found.files == files
    for kind, places in found.examples.items():
        assert sum(map(len, places)) == found.counts[kind]
        assert all(len({contents[i] for i in of_one}) == 1 < len(of_one) for of_one in places)


@pytest.mark.parametrize(
    ("contents", "labels", "preference", "dropped"),
    [
        ("abc", "000", "000", ""),
        ("aba", "000", "000", "2"),  # The first stays ...
        ("aba", "000", "100", "0"),  # ... unless another one is preferred.
        ("aaa", "000", "210", "01"),
        ("aab", "010", "000", "01"),  # Nobody knows which label is right.
        ("aaab", "0010", "000", "012"),
    ],
)
def test_to_drop(contents: str, labels: str, preference: str, dropped: str) -> None:
    first = duplicates.first_of(sha256(contents))
    keys = np.array([int(c) for c in preference.ljust(len(contents), "0")])
    found = duplicates.to_drop(first, np.array([int(c) for c in labels]), keys)
    assert "".join(map(str, np.flatnonzero(found))) == dropped


@pytest.mark.parametrize("seed", range(5))
def test_joined_is_the_connected_parts(seed: int) -> None:
    """Against a union by hand: whoever shares a group or a content, and so on, has one key."""
    rng = np.random.default_rng(seed)
    groups, contents = rng.integers(0, 30, 60), rng.integers(0, 40, 60)
    first = duplicates.first_of(sha256("".join(chr(0x100 + c) for c in contents)))
    keys = duplicates.joined(groups.astype(np.uint64) + 1000, first)
    part = list(range(60))
    for _ in range(60):
        for i in range(60):
            for j in range(60):
                if groups[i] == groups[j] or contents[i] == contents[j]:
                    part[i] = part[j] = min(part[i], part[j])
    together = defaultdict(set)
    for number, key in zip(part, keys.tolist()):
        together[number].add(key)
    assert all(len(values) == 1 for values in together.values())
    assert len({key for values in together.values() for key in values}) == len(together) < 30


def test_joined_along_a_chain() -> None:
    """Each of 20,000 groups shares an image with the next: step by step that would be 20,000 passes."""
    groups = np.repeat(np.arange(20_000, dtype=np.uint64), 2)
    first = np.arange(40_000)
    first[2::2] = first[1:-1:2]
    assert (duplicates.joined(groups, first) == 0).all()
