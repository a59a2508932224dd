"""Tests of duplicates, compared with simple loops over sets."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pytest

from tfrecord_tools.layout import duplicates


def sha256(contents: str) -> np.ndarray:
    """Return u8[n 32], the hashes of single-letter contents."""
    digests = b"".join(hashlib.sha256(letter.encode()).digest() for letter in contents)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def columns(labels: str, splits: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(c) for c in labels], np.int32), np.array([int(c) for c in splits], np.int8)


@pytest.mark.parametrize(
    ("contents", "first"),
    [
        ("abc", [0, 1, 2]),
        ("aba", [0, 1, 0]),
        ("baab", [0, 1, 1, 0]),  # The first position, not the smallest hash.
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
        ("aab", "010", "010", (0, 0, 2), 2),  # A conflict across splits counts only as a conflict.
        ("aaabbcc", "0000100", "0010011", (2, 3, 2), 7),  # Three kinds at once; three files of one content.
    ],
)
def test_kinds(contents: str, labels: str, splits: str, counts: tuple[int, int, int], files: int) -> None:
    result = duplicates.find(duplicates.first_of(sha256(contents)), *columns(labels, splits))
    assert (result.counts["copies"], result.counts["leaks"], result.counts["conflicts"]) == counts
    assert result.files == files
    for kind, groups in result.examples.items():
        assert sum(map(len, groups)) == result.counts[kind]
        assert all(len({contents[i] for i in group}) == 1 < len(group) for group in groups)


@pytest.mark.parametrize(
    ("contents", "labels", "splits", "kind", "examples"),
    [
        ("aabb", "0000", "0000", "copies", [[0, 1], [2, 3]]),
        ("aaa", "001", "000", "conflicts", [[0, 2, 1]]),  # The first two show that the labels differ.
        ("aaa", "001", "010", "conflicts", [[0, 2, 1]]),  # The split of file 1 differs, but not its label.
        ("aaaa", "0000", "1120", "leaks", [[0, 2, 1, 3]]),
        ("a" * 250, "0" * 249 + "1", "0" * 250, "conflicts", [[0, 249, *range(1, 99)]]),
        ("a" * 250, "0" * 250, "0" * 250, "copies", [list(range(100))]),
    ],
)
def test_examples(contents: str, labels: str, splits: str, kind: str, examples: list[list[int]]) -> None:
    result = duplicates.find(duplicates.first_of(sha256(contents)), *columns(labels, splits))
    assert result.examples == {"copies": [], "leaks": [], "conflicts": []} | {kind: examples}
    assert result.sizes[kind] == [contents.count(letter) for letter in sorted(set(contents))]
    assert result.counts[kind] == len(contents)  # Files that are not named are counted, too.


@pytest.mark.parametrize(
    ("contents", "labels", "preference", "dropped"),
    [
        ("abc", "000", "000", ""),
        ("aba", "000", "000", "2"),  # The first file is kept ...
        ("aba", "000", "100", "0"),  # ... unless another one is preferred.
        ("aaa", "000", "210", "01"),
        ("aab", "010", "000", "01"),  # It is not known which label is right.
        ("aaab", "0010", "000", "012"),
    ],
)
def test_to_drop(contents: str, labels: str, preference: str, dropped: str) -> None:
    first = duplicates.first_of(sha256(contents))
    keys = np.array([int(c) for c in preference.ljust(len(contents), "0")])
    result = duplicates.to_drop(first, np.array([int(c) for c in labels]), keys)
    assert "".join(map(str, np.flatnonzero(result))) == dropped


@pytest.mark.parametrize("seed", range(5))
def test_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents, labels = rng.integers(0, 30, 60), rng.integers(0, 2, 60)
    first = duplicates.first_of(sha256("".join(chr(0x100 + c) for c in contents)))
    twins = duplicates.twins(first, labels).tolist()
    for i, twin in enumerate(twins):
        others = [j for j in range(60) if contents[j] == contents[i] and j != i]
        differing = [j for j in others if labels[j] != labels[i]]
        assert twin == [*differing, *others, i][0]


@pytest.mark.parametrize("seed", range(5))
def test_joined_gives_connected_components(seed: int) -> None:
    """Images connected by common groups or contents have one key, as computed by a simple loop."""
    rng = np.random.default_rng(seed)
    groups, contents = rng.integers(0, 30, 60), rng.integers(0, 40, 60)
    first = duplicates.first_of(sha256("".join(chr(0x100 + c) for c in contents)))
    keys = duplicates.joined(groups.astype(np.uint64) + 1000, first)
    component = list(range(60))
    for _ in range(60):
        for i in range(60):
            for j in range(60):
                if groups[i] == groups[j] or contents[i] == contents[j]:
                    component[i] = component[j] = min(component[i], component[j])
    keys_of = defaultdict(set)
    for number, key in zip(component, keys.tolist()):
        keys_of[number].add(key)
    assert all(len(values) == 1 for values in keys_of.values())
    assert len({key for values in keys_of.values() for key in values}) == len(keys_of) < 30


def test_joined_along_a_chain() -> None:
    """Each of 20,000 groups shares an image with the next group. A simple loop would need 20,000 passes."""
    groups = np.repeat(np.arange(20_000, dtype=np.uint64), 2)
    first = np.arange(40_000)
    first[2::2] = first[1:-1:2]
    assert (duplicates.joined(groups, first) == 0).all()
