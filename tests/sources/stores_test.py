"""Tests of stores: directories, zip and tar archives, damaged archives, ignored files, size limits."""

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
    """Write like a program that cannot seek: sizes and checksums follow the data."""

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
    """Return split -> (path, label, image) of each record."""
    data = open_dataset(out)
    return {
        split: [(r["path"], r["label"], r["image"]) for r in (rows[i] for i in range(len(rows)))]
        for split in data.splits
        for rows in [data.records(split)]
    }


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and validation, and all kinds of file names."""
    root = with_splits(tmp_path_factory.mktemp("stores") / "pets", train=3, validation=2)
    for name in ("cats/a b.jpg", "cats/été 猫.jpg", "dogs/deep/er/1.jpg", "dogs/deep.jpg", "dogs/back\\slash.jpg"):
        path = root / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(name))
    return root


@pytest.fixture(scope="module")
def reference(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int, bytes]]]:
    """The records that the directory `pets` is converted to."""
    out = tmp_path_factory.mktemp("reference") / "out"
    converted(pets, out)
    return records(out)


def small(root: Path) -> dict[str, bytes]:
    return contents(tree(root, {"cats": 2, "dogs": 2}))


def read_all(listing: Listing) -> dict[str, bytes]:
    return {path: listing.store.read(path, span).data for path, span in zip(listing.paths, listing.spans)}


def refusal(src: Path) -> str:
    with pytest.raises(UserError) as caught:
        list_store(str(src))
    return str(caught.value)


# --- Same images in every kind of archive ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("top", ["", "holiday/"], ids=["bare", "enclosed"])
def test_archive_gives_the_records_of_the_directory(
    pets: Path, reference: dict[str, Any], tmp_path: Path, name: str, top: str
) -> None:
    PACKED[name](tmp_path / name, {top + path: data for path, data in sorted(contents(pets).items())})
    listing = list_store(str(tmp_path / name))
    assert listing.top == top
    assert listing.paths == list_store(str(pets)).paths  # In the same order.
    converted(tmp_path / name, tmp_path / "out")
    assert records(tmp_path / "out") == reference


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", ".//./"])
def test_long_names_in_tar(tmp_path: Path, form: int, prefix: str) -> None:
    members = {LONG: b"one", "dogs/1.jpg": b"two"}
    pack_tar(tmp_path / "a.tar", members, form, prefix)
    assert read_all(list_store(str(tmp_path / "a.tar"))) == members


def test_automatic_split_equals_that_of_the_directory(tmp_path: Path) -> None:
    members = contents(tree(tmp_path / "pets", {"cats": 15, "dogs": 15}))
    pack_zip(tmp_path / "pets.zip", members)
    facts = [
        converted(tmp_path / src, tmp_path / f"out{number}", validation_fraction=0.4, test_fraction=0.2)
        for number, src in enumerate(["pets", "pets.zip"])
    ]
    assert facts[0]["digest"] == facts[1]["digest"]
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")


def test_single_split_directory_is_kept(tmp_path: Path) -> None:
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


def test_backslashes_of_dos_separate_directories(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("pets\\", "pets\\cats\\1.jpg", "pets\\dogs\\1.jpg"):
            member = zipfile.ZipInfo(name)
            member.create_system = 0
            archive.writestr(member, b"")
    listing = list_store(str(tmp_path / "a.zip"))
    assert (listing.paths, listing.rejected) == (["cats/1.jpg", "dogs/1.jpg"], [])


@pytest.mark.parametrize("name", ["stored.zip", "pax.tar"])
def test_hidden_and_system_files_are_ignored(tmp_path: Path, name: str) -> None:
    litter = [
        "cats/.DS_Store",
        "cats/Thumbs.db",
        "__MACOSX/cats/._1.jpg",
        ".git/x",
        "cats/.x/1.jpg",
        "dogs/desktop.ini",
    ]
    PACKED[name](tmp_path / name, dict.fromkeys(["cats/1.jpg", *litter, "../up/1.jpg", "/dogs/1.jpg"], b"x"))
    listing = list_store(str(tmp_path / name))
    assert (listing.paths, listing.rejected) == (["cats/1.jpg", "dogs/1.jpg"], [])  # No path leaves the archive.


@pytest.mark.parametrize("name", ["stored.zip", "pax.tar"])
def test_last_member_of_one_name_is_used(tmp_path: Path, name: str) -> None:
    """The same happens when the archive is unpacked."""
    PACKED[name](tmp_path / name, {"cats/1.jpg": b"old!", "dogs/1.jpg": b"dog"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicate name.
        if name.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / name, "a") as archive:
                archive.writestr("cats/1.jpg", b"new")
        else:
            with tarfile.open(tmp_path / name, "a") as tar:
                member = tarfile.TarInfo("cats/1.jpg")
                member.size = 3
                tar.addfile(member, io.BytesIO(b"new"))
    listing = list_store(str(tmp_path / name))
    assert read_all(listing) == {"cats/1.jpg": b"new", "dogs/1.jpg": b"dog"}
    assert listing.sizes.tolist() == [3, 3]


def test_tar_that_contains_a_zip(tmp_path: Path) -> None:
    pack_zip(tmp_path / "inner.zip", {"x": b""})
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"", "dogs/inner.zip": (tmp_path / "inner.zip").read_bytes()})
    assert list_store(str(tmp_path / "a.tar")).paths == ["cats/1.jpg", "dogs/inner.zip"]


def test_sizes_and_times(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"four", "dogs/1.jpg": b"1"}, zipfile.ZIP_DEFLATED)
    os.utime(tmp_path / "a.zip", ns=(5, 1_700_000_000_123_456_789))
    listing = list_store(str(tmp_path / "a.zip"))
    assert listing.sizes.tolist() == [4, 1]
    assert listing.mtimes_ns.tolist() == [1_700_000_000_123_456_789] * 2
    content = listing.store.read(listing.paths[0], listing.spans[0])
    assert (content.data, content.size, content.mtime_ns) == (b"four", 4, 1_700_000_000_123_456_789)


@pytest.mark.parametrize("name", ["pets", "a.zip", "a.tar", "pixels.csv"])
def test_pickled_stores_are_small(tmp_path: Path, name: str) -> None:
    members = small(tmp_path / "pets")
    pack_zip(tmp_path / "a.zip", members)
    pack_tar(tmp_path / "a.tar", members)
    (tmp_path / "pixels.csv").write_text("label,1x1\n" + "a,1\n" * 1000)
    listing = list_store(str(tmp_path / name))
    sent = pickle.dumps(listing.store)
    assert len(sent) < 500
    path, span = listing.paths[0], listing.spans[0]
    assert pickle.loads(sent).read(path, span) == listing.store.read(path, span)


# --- Damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stored.zip", "deflated.zip", "streamed.zip"])
def test_flipped_byte_in_a_zip_is_reported(tmp_path: Path, name: str) -> None:
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
        (0, "damaged archive: its table of contents lists a file where there is none"),  # The signature.
        (26, "damaged archive: wrong checksum"),  # The length of the name.
    ],
)
def test_damaged_header_of_a_zip_member(tmp_path: Path, position: int, message: str) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"data" * 50, "dogs/1.jpg": b""})
    flip(tmp_path / "a.zip", position, 0x03)
    listing = list_store(str(tmp_path / "a.zip"))
    with pytest.raises(ReadError, match=message):
        listing.store.read(listing.paths[0], listing.spans[0])


def test_flipped_byte_in_a_tar_is_found_in_the_image(tmp_path: Path) -> None:
    """tar has no checksums of the data, but PNG has."""
    members = {f"{name}/{i}.png": image(f"{name}{i}", "PNG") for name in ("cats", "dogs") for i in range(2)}
    pack_tar(tmp_path / "a.tar", members)
    data = members["dogs/1.png"]
    flip(tmp_path / "a.tar", (tmp_path / "a.tar").read_bytes().index(data) + len(data) // 2)
    assert converted(tmp_path / "a.tar", tmp_path / "out", max_bad=0.5, validation_fraction=0)["records"] == 3
    assert "dogs/1.png,damaged image" in (tmp_path / "out/rejected.csv").read_text().replace('"', "")


@pytest.mark.parametrize(
    ("name", "share", "message"),
    [
        ("stored.zip", 0.5, "the zip archive is incomplete: the list of files at its end is missing."),
        ("stored.zip", 0.97, "the zip archive is incomplete"),  # Cut within the directory.
        ("pax.tar", 0.02, "the tar archive is damaged: unexpected end of data."),  # Cut within the data of a member.
        ("pax.tar", 0.45, "the tar archive is damaged: "),  # Cut at another position.
    ],
)
def test_cut_archive_is_refused(tmp_path: Path, name: str, share: float, message: str) -> None:
    members = {path: data * 40 for path, data in small(tmp_path / "pets").items()}
    PACKED[name](tmp_path / name, members)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    error = refusal(tmp_path / name)
    assert error.startswith(f"--src={tmp_path / name}: {message}")
    assert error.endswith(
        "Download the archive again. Or unpack the part that can be read, and pass that directory as --src."
    )


def tar_headers(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


def test_damaged_header_of_a_tar_member_is_refused(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.tar", small(tmp_path / "pets"), tarfile.USTAR_FORMAT)
    third = tar_headers(tmp_path / "a.tar")[2]
    flip(tmp_path / "a.tar", third + 3)
    assert (
        f"a.tar: the tar archive is damaged: at byte {third:,} neither a file nor the end of the archive begins."
        " Download" in refusal(tmp_path / "a.tar")
    )


def test_tar_cut_between_members_is_refused(tmp_path: Path) -> None:
    """Without the check, nobody would notice the missing images."""
    pack_tar(tmp_path / "a.tar", small(tmp_path / "pets"), tarfile.USTAR_FORMAT)
    third = tar_headers(tmp_path / "a.tar")[2]
    os.truncate(tmp_path / "a.tar", third)
    assert f"at byte {third:,} neither a file nor the end of the archive begins" in refusal(tmp_path / "a.tar")


def directory_of_a_zip(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


@pytest.mark.parametrize(
    ("at", "bits", "message"),
    [
        (0, 0x10, "Bad magic number for central directory"),
        (6, 0xF0, "zip file version 2"),  # The version that is needed to unpack.
        (28, 0x70, "Truncated|Bad magic"),  # The length of a name.
    ],
)
def test_damaged_directory_of_a_zip_is_refused(tmp_path: Path, at: int, bits: int, message: str) -> None:
    pack_zip(tmp_path / "a.zip", small(tmp_path / "pets"))
    flip(tmp_path / "a.zip", directory_of_a_zip(tmp_path / "a.zip") + at, bits)
    error = refusal(tmp_path / "a.zip")
    assert "a.zip: the zip archive is damaged: " in error
    assert any(part in error for part in message.split("|"))
    assert error.endswith(
        "Download the archive again. Or unpack the part that can be read, and pass that directory as --src."
    )


def test_name_in_a_zip_with_a_wrong_utf8_flag(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/é.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace("é".encode(), b"\xe9\xe9"))
    assert "the zip archive is damaged: 'utf-8' codec can't decode" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("flag", [0, 0x800])
def test_name_in_a_zip_of_unix(tmp_path: Path, flag: int) -> None:
    """Info-ZIP writes UTF-8, but does not set the flag for it."""
    pack_zip(tmp_path / "a.zip", {"Große Katzen/1.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    assert b"PK\x01\x02\x14\x03" in data  # The mark of an archive from Unix.
    for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = data.split(header)
        data = header.join([parts[0], *(p[: at - 4] + flag.to_bytes(2, "little") + p[at - 2 :] for p in parts[1:])])
    (tmp_path / "a.zip").write_bytes(data)
    if flag:  # The other name is ASCII and does not change.
        assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["Große Katzen/1.jpg", "dogs/1.jpg"]
    assert list_store(str(tmp_path / "a.zip")).paths == ["Große Katzen/1.jpg", "dogs/1.jpg"]


def test_name_in_a_zip_of_old_windows(tmp_path: Path) -> None:
    """Names without the UTF-8 flag should be in code page 437, but programs used local code pages."""
    pack_zip(tmp_path / "a.zip", {"cats/__.jpg": b"", "dogs/1.jpg": b""})
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"__.jpg", b"\x82\x94.jpg"))
    error = refusal(tmp_path / "a.zip")
    assert (
        "file name b'cats/\\x82\\x94.jpg' is not in UTF-8, and the archive does not say which encoding the name has"
        in error
    )
    assert "In common encodings, the name is: cp949 'cats/굱.jpg', " in error
    assert error.endswith("Pass the right encoding as --zip_encoding.")
    assert list_store(str(tmp_path / "a.zip"), zip_encoding="cp437").paths[0] == "cats/éö.jpg"
    with pytest.raises(UserError, match=r"--zip_encoding=ascii: the file name b'cats/.* is not in this encoding"):
        list_store(str(tmp_path / "a.zip"), zip_encoding="ascii")


def test_name_in_a_tar_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.tar", {"cats/caf\udce9.jpg": b"", "dogs/1.jpg": b""}, tarfile.GNU_FORMAT)
    listing = list_store(str(tmp_path / "a.tar"))
    assert listing.paths == ["dogs/1.jpg"]
    assert listing.rejected == [Rejected(path=r"cats/caf\xe9.jpg", reason="the name is not valid UTF-8: rename it")]


# --- Members that are not plain files ----------------------------------------------------------------


def encrypted(path: Path) -> None:
    """Set the flags for encryption. The data stay as they are, since they are not read."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
    flip(path, 6, 0x01)
    flip(path, entry + 8, 0x01)


def test_encrypted_member_is_rejected(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    encrypted(tmp_path / "a.zip")
    listing = list_store(str(tmp_path / "a.zip"))
    assert listing.paths == ["dogs/1.jpg"]
    assert listing.rejected == [Rejected(path="cats/1.jpg", reason="encrypted: unpack the archive first")]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_of_zip_is_rejected(tmp_path: Path, method: int) -> None:
    pack_zip(tmp_path / "a.zip", {"top/cats/1.jpg": b"x", "top/dogs/1.jpg": b"y"}, method)
    listing = list_store(str(tmp_path / "a.zip"))
    reason = "unsupported zip compression: unpack the archive first"
    assert listing.rejected == [Rejected(path=f"{name}/1.jpg", reason=reason) for name in ("cats", "dogs")]
    with pytest.raises(UserError) as caught:
        converted(tmp_path / "a.zip", tmp_path / "out")
    assert str(caught.value) == (
        f"--src={tmp_path}/a.zip: no usable images. 2 files cannot be used, for example cats/1.jpg: {reason}."
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_rejected(tmp_path: Path, kind: bytes) -> None:
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("cats/2.jpg")
        link.type, link.linkname = kind, "cats/1.jpg"
        archive.addfile(link)
    listing = list_store(str(tmp_path / "a.tar"))
    reason = "a link or a device, not a file: unpack the archive first"
    assert listing.rejected == [Rejected(path="cats/2.jpg", reason=reason)]
    assert listing.paths == ["cats/1.jpg", "dogs/1.jpg"]


def test_link_in_a_zip_is_rejected(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"})
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        link = zipfile.ZipInfo("cats/2.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "1.jpg")
    assert [r.path for r in list_store(str(tmp_path / "a.zip")).rejected] == ["cats/2.jpg"]


def test_sparse_file_in_a_tar_is_rejected(tmp_path: Path) -> None:
    """A sparse file: its bytes in the archive are not those of the file."""
    pack_tar(tmp_path / "a.tar", {"cats/1.jpg": b"x", "dogs/1.jpg": b"y"}, tarfile.GNU_FORMAT)
    header = bytearray((tmp_path / "a.tar").read_bytes()[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (4095, 1)  # One byte at position 4095.
    header[483:495] = b"%011o\0" % 4096  # The file has 4096 bytes.
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    (tmp_path / "a.tar").write_bytes(bytes(header) + (tmp_path / "a.tar").read_bytes()[512:])
    listing = list_store(str(tmp_path / "a.tar"))
    assert listing.rejected == [Rejected(path="cats/1.jpg", reason="a sparse file: unpack the archive first")]


@pytest.mark.parametrize(
    ("name", "compress", "command"),
    [
        ("a.tar.gz", gzip.compress, "gunzip -k"),
        ("a.tgz", gzip.compress, "gunzip -k"),
        ("a.tar.bz2", bz2.compress, "bunzip2 -k"),
        ("a.tar.xz", lzma.compress, "unxz -k"),
        ("a.tar.zst", lambda data: b"\x28\xb5\x2f\xfd" + data, "unzstd"),
        ("my pets.gz", gzip.compress, "gunzip -k"),  # The name must be quoted.
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
        f"--src={name}: images cannot be read from a compressed file. Run `{command} {quoted}` first, and pass the"
        " result."
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
    error = refusal(tmp_path / "file")
    assert f"--src={tmp_path}/file: must be a directory, a zip or tar archive, or a CSV of pixels (" in error
    assert f"of pixels (header label,1x1,1x2,…). The file begins with {shown} (" in error
    assert error.endswith(").")


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_empty_archive(tmp_path: Path, pack: Pack) -> None:
    pack(tmp_path / "a", {})
    assert list_store(str(tmp_path / "a")).paths == []
    with pytest.raises(UserError, match=r"--src=.*/a: no images in class directories\. Expected"):
        converted(tmp_path / "a", tmp_path / "out")


# --- Limits --------------------------------------------------------------------------------------------------------


def read_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of bytes of every read."""
    sizes: list[int] = []
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: (sizes.append(count), original(fd, count, at))[1])
    return sizes


@pytest.mark.parametrize("name", ["pets", "stored.zip", "deflated.zip", "pax.tar"])
def test_huge_member_is_read_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
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
    listing = list_store(str(tmp_path / name))
    sizes = read_sizes(monkeypatch)
    content = listing.store.read(listing.paths[0], listing.spans[0])
    assert (content.data, content.size) == (huge[:1001], 5120)  # The extra byte shows that the file is too large.
    assert listing.store.read(listing.paths[1], listing.spans[1]).data == huge[:1000]
    assert max(sizes, default=0) <= 1001


def test_member_of_a_zip_with_a_wrong_size_is_not_unpacked(tmp_path: Path) -> None:
    deflated(tmp_path / "a.zip", {"cats/1.jpg": bytes(10_000_000), "dogs/1.jpg": b""})
    listing = list_store(str(tmp_path / "a.zip"))
    listing.spans["size"][0] = 100
    with pytest.raises(ReadError, match="damaged archive: wrong checksum"):
        listing.store.read(listing.paths[0], listing.spans[0])


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
def test_archive_that_changes_during_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    members = small(tmp_path / "pets")
    PACKED[name](tmp_path / name, members)
    original = convert_module.make_plan

    def plan_and_change(*args: Any) -> Any:
        plan = original(*args)
        PACKED[name](tmp_path / name, {path: image(f"other {path}") for path in members})
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "make_plan", plan_and_change)
        with pytest.raises(UserError, match=message):
            converted(tmp_path / name, tmp_path / "out", validation_fraction=0)
    assert not (tmp_path / "out").exists()
    converted(tmp_path / name, tmp_path / "out", validation_fraction=0, restart=True)
    assert {path: data for path, _, data in records(tmp_path / "out")["train"]} == {
        path: image(f"other {path}") for path in members
    }


def test_archive_that_is_cut_after_listing(tmp_path: Path) -> None:
    pack_zip(tmp_path / "a.zip", {"cats/1.jpg": b"x" * 100, "dogs/1.jpg": b"y" * 100})
    listing = list_store(str(tmp_path / "a.zip"))
    for size, message in [(100, "wrong checksum"), (20, "its table of contents lists a file where there is none")]:
        os.truncate(tmp_path / "a.zip", size)
        with pytest.raises(ReadError, match=message):
            listing.store.read(listing.paths[0], listing.spans[0])


# --- Files in a manifest ---------------------------------------------------------------------------------------------


def stat_all(root: Path, names: Iterable[str]) -> dict[str, str]:
    return {r.path: r.reason for r in directory.stat_files(str(root), list(names)).rejected}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.jpg", "listed in the manifest, but not found: No such file or directory"),
        ("cats/000.jpg/x", "listed in the manifest, but not found: Not a directory"),
        ("cats", "a directory, not a file"),
        ("a\0b", "listed in the manifest, but not a valid file name: embedded null byte"),
    ],
)
def test_missing_files_are_rejected(tmp_path: Path, name: str, reason: str) -> None:
    small(tmp_path)
    assert stat_all(tmp_path, ["cats/000.jpg", name]) == {name: reason}
