"""Tests of where images lie: the same as a directory, a zip and a tar archive; damage, litter, limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents, converted, flip, image, tree, with_splits

from tfrecord_tools import convert as convert_module
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import archives, directory
from tfrecord_tools.sources.base import Listing, ReadError
from tfrecord_tools.sources.stores import list_store

LONG = "Großes " + "n" * 110 + "/" + "m" * 120 + ".jpg"  # Longer than a tar header's 100 bytes, in both parts.
Pack = Callable[[Path, dict[str, bytes]], None]


pytestmark = pytest.mark.usefixtures("no_fsync")


def pack_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED, zip64: bool = False) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)


def pack_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT, prefix: str = "") -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def deflated(path: Path, members: dict[str, bytes]) -> None:
    pack_zip(path, members, zipfile.ZIP_DEFLATED)


def streamed(path: Path, members: dict[str, bytes]) -> None:
    """As programs write that cannot go back: sizes and checksum follow the data."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.file = open(path, "wb")  # noqa: SIM115

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return self.file.write(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    pipe.file.close()


def with_comment(path: Path, members: dict[str, bytes]) -> None:
    pack_zip(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"from a camera " * 100


def self_extracting(path: Path, members: dict[str, bytes]) -> None:
    pack_zip(path, members)
    path.write_bytes(b"MZ a program" * 50 + path.read_bytes())


def reversed_members(path: Path, members: dict[str, bytes]) -> None:
    pack_tar(path, dict(reversed(members.items())))


def with_directories(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted({f"{name.rpartition('/')[0]}/" for name in members}):
            archive.writestr(name, b"")
        for name, data in members.items():
            archive.writestr(name, data)


PACKED = {
    "stored.zip": pack_zip,
    "deflated.zip": deflated,
    "zip64.zip": lambda path, members: pack_zip(path, members, zip64=True),
    "streamed.zip": streamed,
    "comment.zip": with_comment,
    "self_extracting.exe": self_extracting,
    "directories.zip": with_directories,
    "pax.tar": pack_tar,
    "gnu.tar": lambda path, members: pack_tar(path, members, tarfile.GNU_FORMAT),
    "ustar.tar": lambda path, members: pack_tar(path, members, tarfile.USTAR_FORMAT),
    "dot.tar": lambda path, members: pack_tar(path, members, prefix="./"),
    "reversed.tar": reversed_members,
    "ending_says_nothing.bin": pack_tar,
}


def records(out: Path) -> dict[str, list[tuple[str, int, bytes]]]:
    """Returns split -> (path, label, image) of each record."""
    data = open_dataset(out)
    return {
        split: [(r["path"], r["label"], r["image"]) for r in (rows[i] for i in range(len(rows)))]
        for split in data.splits
        for rows in [data.records(split)]
    }


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train and validation, with names of every kind that a directory can have."""
    root = with_splits(tmp_path_factory.mktemp("stores") / "pets", train=3, validation=2)
    for name in ("cats/a b.jpg", "cats/été 猫.jpg", "dogs/deep/er/1.jpg", "dogs/deep.jpg", "dogs/back\\slash.jpg"):
        path = root / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(name))
    return root


@pytest.fixture(scope="module")
def reference(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int, bytes]]]:
    """What the directory `pets` is converted into."""
    out = tmp_path_factory.mktemp("reference") / "out"
    converted(pets, out)
    return records(out)


def small(root: Path) -> dict[str, bytes]:
    return contents(tree(root, {"cats": 2, "dogs": 2}))


def read_all(found: Listing) -> dict[str, bytes]:
    return {path: found.store.read(path, span).data for path, span in zip(found.paths, found.spans)}


def refusal(src: Path) -> str:
    with pytest.raises(UserError) as caught:
        list_store(str(src))
    return str(caught.value)


# --- The same images, however they are packed ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("top", ["", "holiday/"], ids=["bare", "enclosed"])
def test_archive_becomes_the_records_of_the_directory(
    pets: Path, reference: dict[str, Any], tmp_path: Path, name: str, top: str
) -> None:
    PACKED[name](tmp_path / name, {top + path: data for path, data in sorted(contents(pets).items())})
    found = list_store(str(tmp_path / name))
    assert found.top == top
    assert found.paths == list_store(str(pets)).paths  # In the same order.
    converted(tmp_path / name, tmp_path / "out")
    assert records(tmp_path / "out") == reference


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", ".//./"])
def test_long_names_in_tar(tmp_path: Path, form: int, prefix: str) -> None:
    members = {LONG: b"one", "dogs/1.jpg": b"two"}
    pack_tar(tmp_path / "a.tar", members, form, prefix)
    assert read_all(list_store(str(tmp_path / "a.tar"))) == members


def test_made_splits_are_those_of_the_directory(tmp_path: Path) -> None:
    members = contents(tree(tmp_path / "pets", {"cats": 15, "dogs": 15}))
    pack_zip(tmp_path / "pets.zip", members)
    facts = [
        converted(tmp_path / src, tmp_path / f"out{number}", validation_fraction=0.4, test_fraction=0.2)
        for number, src in enumerate(["pets", "pets.zip"])
    ]
    assert facts[0]["digest"] == facts[1]["digest"]
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")


def test_a_single_split_is_no_enclosing_directory(tmp_path: Path) -> None:
    members = {f"Train/{path}": data for path, data in contents(tree(tmp_path / "x", {"cats": 3, "dogs": 3})).items()}
    pack_zip(tmp_path / "pets.zip", members)
    assert list_store(str(tmp_path / "pets.zip")).paths == sorted(members)
    assert converted(tmp_path / "pets.zip", tmp_path / "out")["splits"] == {"train": {"records": 6, "shards": 1}}


def test_two_top_directories_stay(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"", "dogs/1.jpg": b""})
    assert list_store(str(tmp_path / "a.zip")).paths == ["cats/1.jpg", "dogs/1.jpg"]


def test_file_beside_the_directory_keeps_it(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"pets/cats/1.jpg": b"", "license.txt": b""})
    assert list_store(str(tmp_path / "a.zip")).paths == ["license.txt", "pets/cats/1.jpg"]


def test_backslashes_of_dos_part_directories(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("pets\\", "pets\\cats\\1.jpg", "pets\\dogs\\1.jpg"):
            member = zipfile.ZipInfo(name)
            member.create_system = 0
            archive.writestr(member, b"")
    found = list_store(str(tmp_path / "a.zip"))
    assert (found.paths, found.rejected) == (["cats/1.jpg", "dogs/1.jpg"], [])


@pytest.mark.parametrize("name", ["stored.zip", "pax.tar"])
def test_hidden_and_litter_members_are_passed_over(tmp_path: Path, name: str) -> None:
    litter = [
        "cats/.DS_Store",
        "cats/Thumbs.db",
        "__MACOSX/cats/._1.jpg",
        ".git/x",
        "cats/.x/1.jpg",
        "dogs/desktop.ini",
    ]
    PACKED[name](tmp_path / name, dict.fromkeys(["cats/1.jpg", *litter, "../up/1.jpg", "/dogs/1.jpg"], b"x"))
    found = list_store(str(tmp_path / name))
    assert (found.paths, found.rejected) == (["cats/1.jpg", "dogs/1.jpg"], [])  # Nothing leads out of the archive.


@pytest.mark.parametrize("name", ["stored.zip", "pax.tar"])
def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path, name: str) -> None:
    """As when they are unpacked."""
    PACKED[name](tmp_path / name, {"cats/1.jpg": b"old!", "dogs/1.jpg": b"dog"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the name.
        if name.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / name, "a") as archive:
                archive.writestr("cats/1.jpg", b"new")
        else:
            with tarfile.open(tmp_path / name, "a") as tar:
                member = tarfile.TarInfo("cats/1.jpg")
                member.size = 3
                tar.addfile(member, io.BytesIO(b"new"))
    found = list_store(str(tmp_path / name))
    assert read_all(found) == {"cats/1.jpg": b"new", "dogs/1.jpg": b"dog"}
    assert found.sizes.tolist() == [3, 3]


def test_tar_of_which_a_member_is_a_zip_is_a_tar(tmp_path: Path) -> None:
    pack_zip(tmp_path / "inner.zip", {"x": b""})
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"", "dogs/inner.zip": (tmp_path / "inner.zip").read_bytes()})
    assert list_store(str(tmp_path / "a.tar")).paths == ["cats/1.jpg", "dogs/inner.zip"]


def test_sizes_and_times(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"four", "dogs/1.jpg": b"1"}, zipfile.ZIP_DEFLATED)
    os.utime(tmp_path / "a.zip", ns=(5, 1_700_000_000_123_456_789))
    found = list_store(str(tmp_path / "a.zip"))
    assert found.sizes.tolist() == [4, 1]
    assert found.mtimes_ns.tolist() == [1_700_000_000_123_456_789] * 2
    content = found.store.read(found.paths[0], found.spans[0])
    assert (content.data, content.size, content.mtime_ns) == (b"four", 4, 1_700_000_000_123_456_789)


@pytest.mark.parametrize("name", ["pets", "a.zip", "a.tar", "pixels.csv"])
def test_stores_reach_other_processes_small(tmp_path: Path, name: str) -> None:
    members = small(tmp_path / "pets")
    pack_zip(tmp_path / "a.zip", members)
    pack_tar(tmp_path / "a.tar", members)
    (tmp_path / "pixels.csv").write_text("label,1x1\n" + "a,1\n" * 1000)
    found = list_store(str(tmp_path / name))
    sent = pickle.dumps(found.store)
    assert len(sent) < 500
    path, span = found.paths[0], found.spans[0]
    assert pickle.loads(sent).read(path, span) == found.store.read(path, span)


# --- Damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stored.zip", "deflated.zip", "streamed.zip"])
def test_flipped_byte_in_a_zip_is_found_and_told(tmp_path: Path, name: str) -> None:
    members = small(tmp_path / "pets")
    PACKED[name](tmp_path / name, members)
    with zipfile.ZipFile(tmp_path / name) as archive:
        info = archive.getinfo("cats/001.jpg")
    flip(tmp_path / name, info.header_offset + 30 + len(info.filename) + info.compress_size // 2)
    facts = converted(tmp_path / name, tmp_path / "out", max_bad=0.5, validation_fraction=0)
    assert facts["records"] == 3
    assert "cats/001.jpg,damaged archive: " in (tmp_path / "out/rejected.csv").read_text().replace('"', "")


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (0, "damaged archive: no member where its directory says"),  # The signature.
        (26, "damaged archive: wrong checksum"),  # The length of the name.
    ],
)
def test_damaged_header_of_a_zip_member(tmp_path: Path, position: int, message: str) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"data" * 50, "dogs/1.jpg": b""})
    flip(tmp_path / "a.zip", position, 0x03)
    found = list_store(str(tmp_path / "a.zip"))
    with pytest.raises(ReadError, match=message):
        found.store.read(found.paths[0], found.spans[0])


def test_flipped_byte_in_a_tar_is_left_to_the_image(tmp_path: Path) -> None:
    """tar has no checksums of the data; those of PNG find it."""
    members = {f"{name}/{i}.png": image(f"{name}{i}", "PNG") for name in ("cats", "dogs") for i in range(2)}
    pack_tar(tmp_path / "a.tar", members)
    data = members["dogs/1.png"]
    flip(tmp_path / "a.tar", (tmp_path / "a.tar").read_bytes().index(data) + len(data) // 2)
    assert converted(tmp_path / "a.tar", tmp_path / "out", max_bad=0.5, validation_fraction=0)["records"] == 3
    assert "dogs/1.png,damaged image" in (tmp_path / "out/rejected.csv").read_text().replace('"', "")


@pytest.mark.parametrize(
    ("name", "kept", "message"),
    [
        ("stored.zip", 0.5, "a zip archive that was cut off: its directory, which is at the end, is missing."),
        ("stored.zip", 0.97, "a zip archive that was cut off"),  # Within its directory.
        ("pax.tar", 0.02, "a damaged tar archive: unexpected end of data."),  # Within a member's data ...
        ("pax.tar", 0.45, "a damaged tar archive: "),  # ... and somewhere.
    ],
)
def test_cut_archive_is_refused(tmp_path: Path, name: str, kept: float, message: str) -> None:
    members = {path: data * 40 for path, data in small(tmp_path / "pets").items()}
    PACKED[name](tmp_path / name, members)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
    told = refusal(tmp_path / name)
    assert told.startswith(f"--src={tmp_path / name}: {message}")
    assert told.endswith("Fetch it again, or unpack what can be read of it and give that directory.")


def tar_headers(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


def test_damaged_header_of_a_tar_member_does_not_hide_what_follows(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.tar", small(tmp_path / "pets"), tarfile.USTAR_FORMAT)
    third = tar_headers(tmp_path / "a.tar")[2]
    flip(tmp_path / "a.tar", third + 3)
    assert (
        f"a.tar: a damaged tar archive: neither a member nor the end of the archive at byte {third:,}. Fetch"
        in refusal(tmp_path / "a.tar")
    )


def test_tar_cut_between_members_is_refused(tmp_path: Path) -> None:
    """Else nobody would notice the images that are missing."""
    pack_tar(tmp_path / "a.tar", small(tmp_path / "pets"), tarfile.USTAR_FORMAT)
    third = tar_headers(tmp_path / "a.tar")[2]
    os.truncate(tmp_path / "a.tar", third)
    assert f"neither a member nor the end of the archive at byte {third:,}" in refusal(tmp_path / "a.tar")


def directory_of_a_zip(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


@pytest.mark.parametrize(
    ("at", "bits", "message"),
    [
        (0, 0x10, "Bad magic number for central directory"),
        (6, 0xF0, "zip file version 2"),  # Needed to unpack.
        (28, 0x70, "Truncated|Bad magic"),  # The length of a name.
    ],
)
def test_damaged_directory_of_a_zip_is_refused(tmp_path: Path, at: int, bits: int, message: str) -> None:
    pack_zip(tmp_path / "a.zip", small(tmp_path / "pets"))
    flip(tmp_path / "a.zip", directory_of_a_zip(tmp_path / "a.zip") + at, bits)
    told = refusal(tmp_path / "a.zip")
    assert "a.zip: a damaged zip archive: " in told
    assert any(part in told for part in message.split("|"))
    assert told.endswith("Fetch it again, or unpack what can be read of it and give that directory.")


def test_name_in_a_zip_that_only_claims_to_be_utf8(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/é.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace("é".encode(), b"\xe9\xe9"))
    assert "a damaged zip archive: 'utf-8' codec can't decode" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("flag", [0, 0x800])
def test_name_in_a_zip_of_unix(tmp_path: Path, flag: int) -> None:
    """Info-ZIP writes UTF-8 and does not set the flag that says so."""
    pack_zip(tmp_path / "a.zip", {"Große Katzen/1.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    assert b"PK\x01\x02\x14\x03" in data  # Made on Unix.
    for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = data.split(header)
        data = header.join([parts[0], *(p[: at - 4] + flag.to_bytes(2, "little") + p[at - 2 :] for p in parts[1:])])
    (tmp_path / "a.zip").write_bytes(data)
    if flag:  # Of the other name too, which is ASCII and so the same.
        assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["Große Katzen/1.jpg", "dogs/1.jpg"]
    assert list_store(str(tmp_path / "a.zip")).paths == ["Große Katzen/1.jpg", "dogs/1.jpg"]


def test_name_in_a_zip_of_old_windows(tmp_path: Path) -> None:
    """Without the mark of UTF-8, the format says code page 437; programs wrote the code page of their country."""
    pack_zip(tmp_path / "a.zip", {"cats/__.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"__.jpg", b"\x82\x94.jpg"))
    told = refusal(tmp_path / "a.zip")
    assert "the archive does not say in which encoding its names are, and b'cats/\\x82\\x94.jpg' is not UTF-8" in told
    assert "Pass --zip_encoding=NAME. It reads as: cp949 'cats/굱.jpg', " in told
    assert list_store(str(tmp_path / "a.zip"), zip_encoding="cp437").paths[0] == "cats/éö.jpg"
    with pytest.raises(UserError, match=r"--zip_encoding=ascii: the name b'cats/.* is not in this encoding"):
        list_store(str(tmp_path / "a.zip"), zip_encoding="ascii")


def test_name_in_a_tar_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.tar", {"cats/caf\udce9.jpg": b"", "dogs/1.jpg": b""}, tarfile.GNU_FORMAT)
    found = list_store(str(tmp_path / "a.tar"))
    assert found.paths == ["dogs/1.jpg"]
    assert found.rejected == [Rejected(path=r"cats/caf\xe9.jpg", reason="the name is not valid UTF-8: rename it")]


# --- What an archive may hold that is no plain file ----------------------------------------------------------------


def encrypted(path: Path) -> None:
    """The bit that says so; the data need not be, since nobody reads it."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
    flip(path, 6, 0x01)
    flip(path, entry + 8, 0x01)


def test_encrypted_member_is_rejected(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    encrypted(tmp_path / "a.zip")
    found = list_store(str(tmp_path / "a.zip"))
    assert found.paths == ["dogs/1.jpg"]
    assert found.rejected == [Rejected(path="cats/1.jpg", reason="encrypted: unpack the archive first")]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_of_zip_is_rejected(tmp_path: Path, method: int) -> None:
    pack_zip(tmp_path / "a.zip", {"top/cats/1.jpg": b"x", "top/dogs/1.jpg": b"y"}, method)
    found = list_store(str(tmp_path / "a.zip"))
    reason = "an unusual compression of zip: unpack the archive first"
    assert found.rejected == [Rejected(path=f"{name}/1.jpg", reason=reason) for name in ("cats", "dogs")]
    with pytest.raises(UserError) as caught:
        converted(tmp_path / "a.zip", tmp_path / "out")
    assert str(caught.value) == (
        f"--src={tmp_path}/a.zip: no image of any class; 2 files cannot be used, such as cats/1.jpg: {reason}."
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_rejected(tmp_path: Path, kind: bytes) -> None:
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("cats/2.jpg")
        link.type, link.linkname = kind, "cats/1.jpg"
        archive.addfile(link)
    found = list_store(str(tmp_path / "a.tar"))
    reason = "a link or a device in the archive, no file: unpack the archive first"
    assert found.rejected == [Rejected(path="cats/2.jpg", reason=reason)]
    assert found.paths == ["cats/1.jpg", "dogs/1.jpg"]


def test_link_in_a_zip_is_rejected(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        link = zipfile.ZipInfo("cats/2.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "1.jpg")
    assert [r.path for r in list_store(str(tmp_path / "a.zip")).rejected] == ["cats/2.jpg"]


def test_file_with_holes_in_a_tar_is_rejected(tmp_path: Path) -> None:
    """Its bytes in the archive are not those of the file."""
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"}, tarfile.GNU_FORMAT)
    header = bytearray((tmp_path / "a.tar").read_bytes()[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (4095, 1)  # One byte at 4095 ...
    header[483:495] = b"%011o\0" % 4096  # ... of a file of 4096.
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    (tmp_path / "a.tar").write_bytes(bytes(header) + (tmp_path / "a.tar").read_bytes()[512:])
    found = list_store(str(tmp_path / "a.tar"))
    assert found.rejected == [Rejected(path="cats/1.jpg", reason="stored with holes: unpack the archive first")]


@pytest.mark.parametrize(
    ("name", "compress", "command"),
    [
        ("a.tar.gz", gzip.compress, "gunzip -k"),
        ("a.tgz", gzip.compress, "gunzip -k"),
        ("a.tar.bz2", bz2.compress, "bunzip2 -k"),
        ("a.tar.xz", lzma.compress, "unxz -k"),
        ("a.tar.zst", lambda data: b"\x28\xb5\x2f\xfd" + data, "unzstd"),
        ("my pets.gz", gzip.compress, "gunzip -k"),  # To be quoted.
    ],
)
def test_compressed_tar_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compress: Callable[[bytes], bytes], command: str
) -> None:
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    (tmp_path / name).write_bytes(compress((tmp_path / "a.tar").read_bytes()))
    monkeypatch.chdir(tmp_path)
    quoted = f"'{name}'" if " " in name else name
    assert refusal(Path(name)) == (
        f"--src={name}: a compressed file, of which nothing can be read at random. Run `{command} {quoted}` first."
    )


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", "b''"),
        (b"\x89PNG\r\n\x1a\n and so on", r"b'\x89PNG\r\n\x1a\n and so '"),
        (b"7z\xbc\xaf", r"b'7z\xbc\xaf'"),
    ],
)
def test_any_other_file_is_refused(tmp_path: Path, data: bytes, shown: str) -> None:
    (tmp_path / "file").write_bytes(data)
    told = refusal(tmp_path / "file")
    assert f"--src={tmp_path}/file: neither a directory, nor a zip or tar archive (" in told
    assert told.endswith(f"nor a CSV of pixels (header label,1x1,1x2,…). It starts with {shown}.")


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_empty_archive(tmp_path: Path, pack: Pack) -> None:
    pack(tmp_path / "a", {})
    assert list_store(str(tmp_path / "a")).paths == []
    with pytest.raises(UserError, match=r"--src=.*/a: no images in class directories\. Expected"):
        converted(tmp_path / "a", tmp_path / "out")


# --- Limits --------------------------------------------------------------------------------------------------------


def read_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many bytes are asked for at once."""
    asked: list[int] = []
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: (asked.append(count), original(fd, count, at))[1])
    return asked


@pytest.mark.parametrize("name", ["pets", "stored.zip", "deflated.zip", "pax.tar"])
def test_huge_member_is_not_read_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    huge = bytes(range(256)) * 20
    members = {"cats/1.jpg": huge, "dogs/1.jpg": huge[:1000]}
    if name == "pets":
        for path, data in members.items():
            (tmp_path / name / path).parent.mkdir(parents=True)
            (tmp_path / name / path).write_bytes(data)
    else:
        PACKED[name](tmp_path / name, members)
    for module in (archives, directory):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    found = list_store(str(tmp_path / name))
    asked = read_sizes(monkeypatch)
    content = found.store.read(found.paths[0], found.spans[0])
    assert (content.data, content.size) == (huge[:1001], 5120)  # One more tells that it is too large.
    assert found.store.read(found.paths[1], found.spans[1]).data == huge[:1000]
    assert max(asked, default=0) <= 1001


def test_member_of_a_zip_that_is_larger_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    deflated(tmp_path / "a.zip", {"cats/1.jpg": bytes(10_000_000), "dogs/1.jpg": b""})
    found = list_store(str(tmp_path / "a.zip"))
    found.spans["size"][0] = 100
    with pytest.raises(ReadError, match="damaged archive: wrong checksum"):
        found.store.read(found.paths[0], found.spans[0])


# --- Changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "stored.zip",
            r"(cats|dogs)/00\d\.\w+: the file (has changed since it was inspected\."
            r" .*|was inspected, but can no longer )",
        ),
        ("pax.tar", r"(cats|dogs)/00\d\.\w+: the file has changed since it was inspected\. .*--restart"),
    ],
)
def test_archive_that_changes_between_survey_and_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    members = small(tmp_path / "pets")
    PACKED[name](tmp_path / name, members)
    original = convert_module.make_plan

    def plan(*args: Any) -> Any:
        decided = original(*args)
        PACKED[name](tmp_path / name, {path: image(f"other {path}") for path in members})
        return decided

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "make_plan", plan)
        with pytest.raises(UserError, match=message):
            converted(tmp_path / name, tmp_path / "out", validation_fraction=0)
    assert not (tmp_path / "out").exists()
    converted(tmp_path / name, tmp_path / "out", validation_fraction=0, restart=True)
    assert {path: data for path, _, data in records(tmp_path / "out")["train"]} == {
        path: image(f"other {path}") for path in members
    }


def test_cut_after_listing_is_no_silent_empty_file(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x" * 100, "dogs/1.jpg": b"y" * 100})
    found = list_store(str(tmp_path / "a.zip"))
    for kept, message in [(100, "wrong checksum"), (20, "no member where its directory says")]:
        os.truncate(tmp_path / "a.zip", kept)
        with pytest.raises(ReadError, match=message):
            found.store.read(found.paths[0], found.spans[0])


# --- Given files ---------------------------------------------------------------------------------------------------


def stat_all(root: Path, names: Iterable[str]) -> dict[str, str]:
    return {r.path: r.reason for r in directory.stat_files(str(root), list(names)).rejected}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.jpg", "named by the manifest, but cannot be found: No such file or directory"),
        ("cats/000.jpg/x", "named by the manifest, but cannot be found: Not a directory"),
        ("cats", "a directory, no file"),
        ("a\0b", "named by the manifest, but no name of a file: embedded null byte"),
    ],
)
def test_named_files_that_are_none(tmp_path: Path, name: str, reason: str) -> None:
    small(tmp_path)
    assert stat_all(tmp_path, ["cats/000.jpg", name]) == {name: reason}
