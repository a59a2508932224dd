"""Tests of scanning a directory: layouts, ignored files, rejected files and errors."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from image_sources import scanned, tree

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.layout.splitting import NO_GROUP
from tfrecord_tools.sources.scan import TO_BE_SPLIT, ScanConfig, Sources, scan


def touch(root: Path, *names: str | bytes) -> Path:
    """Write files of one byte."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")
    return root


def two_classes(root: Path) -> Path:
    return touch(root, "cats/1.jpg", "dogs/1.jpg")


def test_class_folders(tmp_path: Path) -> None:
    sources = scanned(touch(tmp_path, "dogs/b.png", "cats/2.jpg", "dogs/a.jpg", "cats/10.jpg"))
    assert sources.class_names == ("cats", "dogs")
    assert list(sources.paths) == ["cats/10.jpg", "cats/2.jpg", "dogs/a.jpg", "dogs/b.png"]
    assert sources.labels.tolist() == [0, 0, 1, 1]
    assert sources.splits.tolist() == [TO_BE_SPLIT] * 4
    assert not sources.has_splits
    assert sources.rejected == ()
    assert len(sources) == 4


def test_split_folders(tmp_path: Path) -> None:
    sources = scanned(touch(tmp_path, "test/cats/1.jpg", "train/cats/1.jpg", "train/dogs/1.jpg", "val/dogs/1.jpg"))
    assert sources.class_names == ("cats", "dogs")
    assert list(sources.paths) == ["test/cats/1.jpg", "train/cats/1.jpg", "train/dogs/1.jpg", "val/dogs/1.jpg"]
    assert [SPLITS[split] for split in sources.splits] == ["test", "train", "train", "validation"]
    assert sources.labels.tolist() == [0, 0, 1, 1]
    assert sources.has_splits


def test_sizes_and_times_of_files(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "cats/1.jpg").write_bytes(b"four")
    os.utime(tmp_path / "cats/1.jpg", ns=(5, 1_700_000_000_123_456_789))
    sources = scanned(tmp_path)
    assert sources.sizes.tolist() == [4, 1]
    assert sources.mtimes_ns[0] == 1_700_000_000_123_456_789


def test_hidden_top_directory_does_not_prevent_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/cats/1.jpg", "train/dogs/1.jpg", ".cache/x/1.jpg", "__MACOSX/y/1.jpg")
    assert scanned(tmp_path).has_splits


def test_nested_directories_are_followed(tmp_path: Path) -> None:
    sources = scanned(touch(tmp_path, "cats/a/b/1.jpg", "cats/a/2.jpg", "cats/3.jpg", "dogs/c/1.jpg"))
    assert list(sources.paths) == ["cats/3.jpg", "cats/a/2.jpg", "cats/a/b/1.jpg", "dogs/c/1.jpg"]
    assert sources.labels.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "name",
    [
        "cats/.hidden.jpg",
        "cats/._1.jpg",  # A resource fork of macOS.
        "cats/.git/x.jpg",
        "cats/Thumbs.db",
        "cats/thumbs.DB",
        "cats/__MACOSX/1.jpg",
        "__MACOSX/cats/1.jpg",
        ".DS_Store",
        ".hidden/1.jpg",
    ],
)
def test_hidden_and_system_files_are_ignored(tmp_path: Path, name: str) -> None:
    sources = scanned(touch(two_classes(tmp_path), name))
    assert list(sources.paths) == ["cats/1.jpg", "dogs/1.jpg"]
    assert sources.rejected == ()


def test_empty_class_directories_are_ignored(tmp_path: Path) -> None:
    (two_classes(tmp_path) / "birds" / "inner").mkdir(parents=True)
    touch(tmp_path, "fish/.hidden.jpg")
    assert scanned(tmp_path).class_names == ("cats", "dogs")


def test_loose_images_are_rejected_and_other_loose_files_are_left_out(tmp_path: Path) -> None:
    sources = scanned(touch(two_classes(tmp_path / "1"), "readme.txt", "cover.jpg"))
    assert sources.rejected == (Rejected(path="cover.jpg", reason="not inside a class directory"),)
    assert sources.notes == ("1 file is left out, because they are not in a class directory: readme.txt",)
    sources = scanned(touch(tmp_path / "2", "train/cats/1.jpg", "train/dogs/1.jpg", "train/3.jpg", "readme.txt"))
    assert [r.path for r in sources.rejected] == ["train/3.jpg"]


def test_links_are_followed(tmp_path: Path) -> None:
    two_classes(tmp_path / "src")
    touch(tmp_path, "elsewhere/deep/7.jpg", "file.jpg")
    (tmp_path / "src/cats/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "src/dogs/linked.jpg").symlink_to(tmp_path / "file.jpg")
    (tmp_path / "src/birds").symlink_to(tmp_path / "elsewhere/deep")  # A class directory may be a link.
    sources = scanned(tmp_path / "src")
    assert sources.class_names == ("birds", "cats", "dogs")
    assert list(sources.paths) == [
        "birds/7.jpg",
        "cats/1.jpg",
        "cats/linked/deep/7.jpg",
        "dogs/1.jpg",
        "dogs/linked.jpg",
    ]
    assert sources.rejected == ()


@pytest.mark.parametrize(
    ("link", "target", "rejected", "reason"),
    [
        ("cats/gone.jpg", "nowhere", "cats/gone.jpg", "cannot be followed: No such file or directory"),
        (
            "cats/self.jpg",
            "self.jpg",
            "cats/self.jpg",
            "cannot be followed: Too many levels of symbolic links",
        ),
        ("cats/up", ".", "cats/up", "a link to a directory that contains this link"),
        ("cats/a/top", "..", "cats/a/top", "a link to a directory that contains this link"),
        (
            "loop",
            "loop",
            "loop",
            "cannot be followed: Too many levels of symbolic links",
        ),  # At the level of the classes.
    ],
)
def test_bad_links_are_rejected(tmp_path: Path, link: str, target: str, rejected: str, reason: str) -> None:
    two_classes(tmp_path)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(target)
    sources = scanned(tmp_path)
    assert sources.rejected == (Rejected(path=rejected, reason=reason),)
    assert list(sources.paths) == ["cats/1.jpg", "dogs/1.jpg"]


def test_directories_that_link_to_each_other(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "cats/to_dogs").symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs/to_cats").symlink_to(tmp_path / "cats")
    sources = scanned(tmp_path)
    assert list(sources.paths) == ["cats/1.jpg", "cats/to_dogs/1.jpg", "dogs/1.jpg", "dogs/to_cats/1.jpg"]
    assert [r.path for r in sources.rejected] == ["cats/to_dogs/to_cats", "dogs/to_cats/to_dogs"]


def test_pipe_is_rejected_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(two_classes(tmp_path) / "cats/pipe.jpg")
    assert scanned(tmp_path).rejected == (Rejected(path="cats/pipe.jpg", reason="neither a file nor a directory"),)


@pytest.mark.parametrize(
    ("name", "printed"),
    [(b"cats/caf\xe9.jpg", r"cats/caf\xe9.jpg"), (b"caf\xe9/1.jpg", r"caf\xe9/1.jpg")],  # Latin-1.
)
def test_names_that_are_not_utf8_are_rejected(tmp_path: Path, name: bytes, printed: str) -> None:
    sources = scanned(touch(two_classes(tmp_path), name))
    assert sources.rejected == (Rejected(path=printed, reason="the name is not valid UTF-8: rename it"),)
    assert sources.class_names == ("cats", "dogs")


@pytest.mark.parametrize("name", ["Katzen süß", "кошки", "猫", "cats & dogs", "a,b", "👩‍🔬", 'c\'est "ça"'])
def test_class_names_of_any_script_are_kept(tmp_path: Path, name: str) -> None:
    assert name in scanned(touch(two_classes(tmp_path), f"{name}/ö\n 1.jpg")).class_names


@pytest.mark.parametrize(
    "name",
    [
        "birds ",  # TensorFlow Datasets strips it.
        " birds",
        "bir\nds",  # TensorFlow Datasets splits it.
        "bir\rds",  # Also a line break in text mode.
        "birds\u3000",  # A wide space, which Python strips too.
        "bir\x1b[31mds",  # Would color the terminal.
    ],
)
def test_invalid_class_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(touch(two_classes(tmp_path), f"{name}/1.jpg"))
    assert (
        f"TensorFlow Datasets cannot store the class name {name!r}. A class name must have at least one character, no"
        " space at its beginning or end, and no control characters." in str(caught.value)
    )
    assert str(caught.value).endswith("leave it out with --exclude, or pass a table of the labels as --manifest.")


@pytest.mark.parametrize(("one", "other"), [("birds", "Birds"), ("straße", "STRASSE")])
def test_class_names_that_differ_by_case_are_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(touch(two_classes(tmp_path), f"{one}/1.jpg", f"{other}/1.jpg"))
    first, second = sorted([one, other])
    assert f"the class name {second!r} differs from {first!r} only by capital letters" in str(caught.value)
    assert "Leave one class out with --exclude, or pass a table of the labels as --manifest." in str(caught.value)


def test_single_class_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scanned(touch(tmp_path, "cats/1.jpg", "cats/2.jpg"))
    assert f"--src={tmp_path}: there is only one class, 'cats'" in str(caught.value)
    assert f"Did you mean --src={tmp_path}/cats" in str(caught.value)


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--src=.*/gone: does not exist\. Pass a directory of images, an archive, or"):
        scanned(tmp_path / "gone")


def test_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(
        UserError, match=r"images\.zip: must be a directory, a zip or tar archive, .* begins with b'PK'"
    ):
        scanned(tmp_path / "images.zip")


@pytest.mark.parametrize(
    ("names", "loose"),
    [
        ([], ""),
        (["1.jpg", "2.jpg"], r" 2 images are not in a class directory, for example 1\.jpg\."),
        (["train/1.jpg"], r" The image train/1\.jpg is not in a class directory\."),  # A split without classes.
        (["cats/.hidden.jpg"], ""),
    ],
)
def test_no_images(tmp_path: Path, names: list[str], loose: str) -> None:
    with pytest.raises(UserError, match=rf"no images in class directories\.{loose} Expected"):
        scanned(touch(tmp_path, *names))


def test_classes_flag_sets_the_label_order(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "dogs/1.jpg", "birds/1.jpg", "birds/2.jpg")
    sources = scanned(tmp_path, classes=["dogs", "cats"])
    assert sources.class_names == ("dogs", "cats")
    assert dict(zip(sources.paths, sources.labels.tolist())) == {"cats/1.jpg": 1, "dogs/1.jpg": 0}
    assert sources.left_out == {"birds": 2}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        # A similar name.
        (
            ["cat", "dogs"],
            r"--classes: .* no files of the class 'cat'\. Classes with files are, for example, cats\.",
        ),
        (["zebra", "dogs"], r"--classes: .* no files of the class 'zebra'\. .* are, for example, birds, cats, dogs\."),
        (["cats", "dogs", "cats"], r"the class name 'cats' is listed twice in --classes"),
        (["cats", "Cats"], r"has no files of the class 'Cats'\. Classes with files are, for example, cats"),
        (["cats", "empty"], r"has no files of the class 'empty'"),
        (["cats"], r"--classes=cats: must be at least two class names, separated by commas\."),
        ([], r"--classes=: must be at least two"),
    ],
)
def test_invalid_classes_flag_is_refused(tmp_path: Path, classes: list[str], message: str) -> None:
    (touch(two_classes(tmp_path), "birds/1.jpg") / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        scanned(tmp_path, classes=classes)


def test_same_class_object_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is listed twice"):
        scanned(touch(tmp_path, "a/1.jpg", "b/1.jpg"), classes=["a"] * 2)


def test_files_of_classes_left_out_are_not_rejected(tmp_path: Path) -> None:
    """An invalid name in a class that is left out is not reported."""
    sources = scanned(touch(two_classes(tmp_path), b"birds/caf\xe9.jpg", "birds/1.jpg"), classes=["cats", "dogs"])
    assert sources.rejected == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list every directory")
def test_unreadable_directory_is_refused(tmp_path: Path) -> None:
    (two_classes(tmp_path) / "cats").chmod(0)
    try:
        with pytest.raises(
            UserError,
            match=r"/cats: the files in this directory cannot be listed: Permission denied\. Make the directory"
            r" readable, or move",
        ):
            scanned(tmp_path)
    finally:
        (tmp_path / "cats").chmod(0o755)


def test_directory_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulated error, since root can list every directory."""
    listed = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/cats"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        UserError,
        match=r"/cats: the files in this directory cannot be listed: Permission denied\. Make the directory readable,"
        r" or move",
    ):
        scanned(two_classes(tmp_path))


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"cats": 20, "dogs": 20})
    expected = scanned(tmp_path)
    listed = os.scandir
    rng = np.random.default_rng(0)

    class Shuffled:
        def __init__(self, path: str):
            with listed(path) as entries:
                self.entries = list(entries)
            rng.shuffle(self.entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    sources = scanned(tmp_path)
    assert list(sources.paths) == list(expected.paths)
    assert sources.labels.tolist() == expected.labels.tolist()
    assert Counter(sources.labels.tolist()) == {0: 20, 1: 20}


def test_link_to_the_source_itself_does_not_mix_the_classes(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "1.jpg").write_bytes(b"")
    (tmp_path / "src" / "cats" / "up").symlink_to("..")
    sources = scanned(tmp_path / "src")
    assert list(sources.paths) == ["cats/1.jpg", "dogs/1.jpg"]
    reason = "a link to a directory that contains this link"
    assert [(r.path, r.reason) for r in sources.rejected] == [("cats/up", reason)]


# --- Classes in file names --------------------------------------------------------------------------------------


def labels(sources: Sources) -> dict[str, str]:
    return {path: sources.class_names[label] for path, label in zip(sources.paths, sources.labels)}


@pytest.mark.parametrize(
    ("names", "class_names"),
    [
        (["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"], ("cat", "dog")),  # Kaggle's Dogs vs. Cats.
        (["american_bulldog_100.jpg", "Abyssinian_1.jpg"], ("Abyssinian", "american_bulldog")),  # Oxford's pets.
        (["cat0.jpg", "dog12.png"], ("cat", "dog")),
        (["cat 1.jpg", "dog - 2.jpg"], ("cat", "dog")),
        (["кот_1.jpg", "пёс_1.jpg"], ("кот", "пёс")),
        (["a1b_7.jpg", "c2d_7.jpg"], ("a1b", "c2d")),
    ],
)
def test_files_named_by_class(tmp_path: Path, names: list[str], class_names: tuple[str, ...]) -> None:
    sources = scanned(touch(tmp_path, *names))
    assert sources.class_names == class_names
    assert not sources.has_splits
    first = min(names)
    note = (
        f"the classes of {len(names)} images come from the names of the files, for example {labels(sources)[first]}"
        f" from {first} (see --label_regex)"
    )
    assert sources.notes == (note,)


def test_files_named_by_class_in_splits(tmp_path: Path) -> None:
    sources = scanned(
        touch(tmp_path, *(f"{side}/{name}.0.jpg" for side in ("train", "val") for name in ("cat", "dog")))
    )
    assert labels(sources) == {path: path.split("/")[1].split(".")[0] for path in sources.paths}
    assert [SPLITS[split] for split in sources.splits] == ["train", "train", "validation", "validation"]
    assert sources.has_splits


def test_files_without_class_in_their_name_are_rejected(tmp_path: Path) -> None:
    names = [f"{name}.{i}.jpg" for name in ("cat", "dog") for i in range(10)]
    sources = scanned(touch(tmp_path, *names, "sunset.jpg", "readme.txt"))
    reason = "its name does not contain a class (see --label_regex)"
    assert sources.rejected == (Rejected(path="sunset.jpg", reason=reason),)
    assert sources.notes[1] == "1 file is left out, because they are not in a class directory: readme.txt"
    assert len(sources) == 20


@pytest.mark.parametrize(
    "names",
    [
        ["IMG_0001.jpg", "IMG_0002.jpg"],  # Names that cameras give.
        ["0001.jpg", "0002.jpg"],
        ["cat.jpg", "dog.jpg"],  # Names without numbers.
        ["cat.1.jpg", "dog.2.jpg", "sunset.jpg"],  # Too few names with a class.
    ],
)
def test_file_names_without_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UserError, match=rf"{len(names)} images are not in a class directory, for example {names[0]}\."):
        scanned(touch(tmp_path, *names))


def test_class_directories_have_priority_over_file_names(tmp_path: Path) -> None:
    sources = scanned(touch(tmp_path, "a/cat.0.jpg", "b/dog.0.jpg"))
    assert (sources.class_names, sources.notes) == (("a", "b"), ())


def test_usual_layouts_have_no_notes(tmp_path: Path) -> None:
    assert scanned(two_classes(tmp_path / "1")).notes == ()
    assert scanned(touch(tmp_path / "2", "train/cats/1.jpg", "test/dogs/1.jpg")).notes == ()


# --- Regular expressions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"([a-z]+)\d", {"x/cat1.jpg": "cat", "x/y/dog2.jpg": "dog"}),
        (r"/(\w+?)\d\.jpg$", {"x/cat1.jpg": "cat", "x/y/dog2.jpg": "dog"}),
        (r"(\d)\.jpg", {"x/cat1.jpg": "1", "x/y/dog2.jpg": "2"}),
        (r"(?i)(CAT|DOG)", {"x/cat1.jpg": "cat", "x/y/dog2.jpg": "dog"}),
        (r"(x)/cat|(?:y)/(dog)", None),  # Only the first group counts: one class.
    ],
)
def test_label_regex(tmp_path: Path, pattern: str, expected: dict[str, str] | None) -> None:
    touch(tmp_path, "x/cat1.jpg", "x/y/dog2.jpg")
    if expected is None:
        with pytest.raises(UserError, match=r"there is only one class, 'x'"):
            scanned(tmp_path, label_regex=pattern)
        return
    assert labels(scanned(tmp_path, label_regex=pattern)) == expected


@pytest.mark.parametrize("pattern", [r"(cat|dog)\d", r"(cat|dog)?\d", r"(cat|dog|)\d"])
def test_files_without_label_regex_match_are_rejected(tmp_path: Path, pattern: str) -> None:
    """Also a match with an empty group is rejected."""
    sources = scanned(touch(tmp_path, "cat1.jpg", "dog2.jpg", "cow3.jpg"), label_regex=pattern)
    reason = "its name does not contain a class (see --label_regex)"
    assert sources.rejected == (Rejected(path="cow3.jpg", reason=reason),)


def test_label_regex_keeps_the_splits(tmp_path: Path) -> None:
    sources = scanned(touch(tmp_path, "train/cat1.jpg", "train/dog2.jpg", "test/dog3.jpg"), label_regex="(cat|dog)")
    assert {path: SPLITS[split] for path, split in zip(sources.paths, sources.splits)} == {
        "test/dog3.jpg": "test",
        "train/cat1.jpg": "train",
        "train/dog2.jpg": "train",
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "not inside a class directory"),
        ({"label_regex": r"(cat|dog)"}, "not inside a split directory"),
    ],
)
def test_image_beside_the_splits_is_rejected(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    inside = [f"{side}/{name}.{i}.jpg" for side in ("train", "test") for name in ("cat", "dog") for i in range(5)]
    sources = scanned(touch(tmp_path, *inside, "dog.9.jpg"), **settings)
    assert sources.has_splits
    assert sources.rejected == (Rejected(path="dog.9.jpg", reason=reason),)


def test_label_regex_that_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scanned(two_classes(tmp_path), label_regex="(birds)")
    assert str(caught.value) == (
        f"--src={tmp_path}: no usable images. 2 files cannot be used, for example cats/1.jpg:"
        " its name does not contain a class (see --label_regex)."
    )


@pytest.mark.parametrize("flag", ["label_regex", "group_regex"])
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("cat", "has no group in parentheses. Put ( ) around the part that is "),
        ("(?:cat)", "has no group in parentheses. Put ( )"),
        ("(cat", "is not a regular expression: missing ), unterminated subpattern at position 0."),
        ("*", "is not a regular expression: nothing to repeat at position 0."),
    ],
)
def test_invalid_regular_expressions_are_refused(tmp_path: Path, flag: str, pattern: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(two_classes(tmp_path), **{flag: pattern})
    assert str(caught.value).startswith(f"--{flag}={pattern}: {message}")


@pytest.mark.parametrize(("flag", "part"), [("label_regex", "the class"), ("group_regex", "the group of images")])
def test_a_regular_expression_without_parentheses_is_refused(tmp_path: Path, flag: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(two_classes(tmp_path), **{flag: "cat"})
    assert str(caught.value).endswith(f"has no group in parentheses. Put ( ) around the part that is {part}.")


def test_group_regex(tmp_path: Path) -> None:
    names = ["cats/rex_1.jpg", "cats/rex_2.jpg", "cats/tom_1.jpg", "dogs/rex_3.jpg", "dogs/nobody.jpg"]
    sources = scanned(touch(tmp_path, *names), group_regex=r"/([a-z]+)_\d")
    group = dict(zip(sources.paths, sources.groups.tolist()))
    assert group["cats/rex_1.jpg"] == group["cats/rex_2.jpg"] == group["dogs/rex_3.jpg"] != group["cats/tom_1.jpg"]
    assert group["dogs/nobody.jpg"] == NO_GROUP
    assert NO_GROUP not in (group["cats/rex_1.jpg"], group["cats/tom_1.jpg"])


def test_group_regex_that_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"--group_regex=\(z\): no path matches\. Paths look like cats/1\.jpg\. Correct the regular expression\.",
    ):
        scanned(two_classes(tmp_path), group_regex="(z)")


def test_group_hashes_do_not_depend_on_the_source(tmp_path: Path) -> None:
    """The hashes decide the splits, which must not depend on where the images are stored."""
    touch(tmp_path / "src", "cats/rex_1.jpg", "dogs/tom_1.jpg")
    (tmp_path / "list.csv").write_text("path,label,group\ncats/rex_1.jpg,cats,rex\ndogs/tom_1.jpg,dogs,tom\n")
    by_name = scanned(tmp_path / "src", group_regex=r"([a-z]+)_\d")
    by_table = scanned(tmp_path / "src", manifest=str(tmp_path / "list.csv"))
    assert by_name.groups.tolist() == by_table.groups.tolist()
    assert by_name.groups[0] == int.from_bytes(hashlib.sha256(b"rex").digest()[:8], "little")


# --- Class names that are numbers ----------------------------------------------------------------------------------


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    assert scanned(touch(tmp_path, *(f"{i}/1.jpg" for i in range(12)))).class_names == tuple(map(str, range(12)))


def test_numbers_that_are_equal_have_one_order(tmp_path: Path) -> None:
    assert scanned(touch(tmp_path, "7/1.jpg", "07/1.jpg", "007/1.jpg", "8/1.jpg")).class_names == (
        "007",
        "07",
        "7",
        "8",
    )


@pytest.mark.parametrize(
    ("names", "known", "classes"),
    [
        (["cats/1.jpg"], ["cats", "dogs"], ("cats",)),  # One class is enough. It is not around everything.
        (["pets/cats/1.jpg"], ["cats", "dogs"], ("cats",)),
        (["train/1.jpg", "bus/1.jpg", "car/1.jpg"], ["bus", "car", "train"], ("bus", "car", "train")),  # A railway.
        (["a/cats/1.jpg", "b/dogs/1.jpg"], ["cats", "dogs"], ("cats", "dogs")),  # The lower directories.
        (["cats/1.jpg", "dogs/1.jpg", "owls/1.jpg"], ["cats", "dogs"], ("cats", "dogs", "owls")),  # All are listed.
        (["cats/1.jpg", "owls/1.jpg"], ["cats", "dogs"], ("cats", "owls")),
    ],
)
def test_known_classes_decide(names: list[str], known: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    sources = scan(ScanConfig(src=str(touch(tmp_path, *names))), known_classes=known)
    assert sources.class_names == classes
    assert sorted(sources.paths) == sorted(names)
    assert [classes[label] in path for label, path in zip(sources.labels, sources.paths)] == [True] * len(names)


def test_without_known_classes_one_class_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        scanned(touch(tmp_path, "cats/1.jpg"))
