"""Tests of atomic writes, exchanged directories, locks, links, and paths with `~`."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from image_sources import REPOSITORY, contents, with_splits

from tfrecord_tools.base import files
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError, refusal
from tfrecord_tools.records import open_dataset


class Crash(BaseException):
    """Stops the work in the middle, like a signal."""


def test_atomic_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.atomic(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert contents(tmp_path) == {"file": b"half and half"}


@pytest.mark.parametrize("error", [OSError, Crash])
def test_failed_write_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), files.atomic(path) as file:  # noqa: PT012  The failure in the block is the test.
        file.write(b"new")
        raise error
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        (lambda file: file.write(b"x" * (2 << 20)), "write"),
        (lambda file: file.write(b"x" * 2000), "write"),  # It stays in memory until the end of the block.
        (lambda file: file.truncate(2000), "truncate"),
    ],
)
def test_an_error_of_the_file_has_its_name(tmp_path: Path, operation: Callable[[BinaryIO], object], call: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=rf"File too large \({call}\)") as caught,
            files.atomic(tmp_path / "f") as file,
        ):
            operation(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == f"{tmp_path}/f.tmp"


def test_an_error_about_another_file_is_unchanged(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError) as caught, files.atomic(tmp_path / "file"):
        os.write(writer, b"x")  # The system does not name the pipe.
    os.close(writer)
    assert caught.value.filename is None
    assert contents(tmp_path) == {}


def test_atomic_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    with files.atomic(tmp_path / "file") as file:
        file.write(b"data")
    assert steps == ["fsync", "rename", "fsync"]  # The content, the name, the directory.


@pytest.mark.parametrize("answer", ["started", "an error", "no function", "no library"])
def test_a_large_file_is_written_to_disk_from_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    started: list[int] = []

    class Library:
        def __init__(self, *_: object, **__: object):
            if answer == "no library":
                raise TypeError("Windows needs a name")
            if answer != "no function":
                self.sync_file_range = self.start

        def start(self, descriptor: int, *_: object) -> int:
            started.append(os.fstat(descriptor).st_size)
            return -1 if answer == "an error" else 0

    monkeypatch.setattr(files.ctypes, "CDLL", Library)
    pieces = [bytes([number]) * 300_000 for number in range(10)]
    with files.atomic(tmp_path / "file") as file:
        file.writelines(pieces)
        before = list(started)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    if answer in ("started", "an error"):
        assert before[0] < started[-1] == 3_000_000
    else:
        assert not started


def test_exchange_swaps(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    if not files.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert contents(tmp_path) == {"a/file": b"b", "b/file": b"a"}


def test_exchange_with_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "gone")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("answer", ["EINVAL", "no function"])
def test_exchange_returns_false_where_it_is_not_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    class Library:
        def __init__(self, *_: object, **__: object):
            if answer == "EINVAL":
                self.renameat2 = lambda *_: -1

    monkeypatch.setattr(files.ctypes, "CDLL", Library)
    monkeypatch.setattr(files.ctypes, "get_errno", lambda: files.errno.EINVAL)
    assert not files.exchange(tmp_path / "a", tmp_path / "b")


def test_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    second = files.lock(tmp_path / "lock", "in use: wait")
    with files.lock(tmp_path / "lock", "in use"), pytest.raises(UserError, match=r"^in use: wait$"), second:
        pass
    with files.lock(tmp_path / "lock", "in use"):
        pass  # Free again.


def test_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a killed run hold the lock for a moment longer."""
    holder = files.hold(tmp_path / "lock")
    assert holder is not None
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            with holder:
                pass  # The lock is released here.

    monkeypatch.setattr(time, "sleep", sleep)
    with files.lock(tmp_path / "lock", "in use"):
        assert len(waits) == 3


def test_lock_of_another_process_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from tfrecord_tools.base import files\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "with files.lock(directory / 'lock', ''):\n"
        "    print('held', flush=True); time.sleep(0.3); (directory / 'done').touch()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with files.lock(tmp_path / "lock", "in use"):
            assert (tmp_path / "done").exists()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from tfrecord_tools.base import files\n"
        "with files.lock(pathlib.Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=REPOSITORY, check=False)
    assert process.returncode == -9
    with files.lock(tmp_path / "lock", "in use"):
        pass


def test_lock_that_is_deleted_while_it_is_opened_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder deletes the lock file at the end, perhaps just after another process has opened it."""
    path = tmp_path / "partial" / "lock"
    flock = fcntl.flock
    removed: list[Path] = []

    def remove_first(file: int, how: int) -> None:
        if not removed:
            removed.append(path)
            path.unlink()
            path.parent.rmdir()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with files.lock(path, "in use"):
        assert path.exists()
    assert removed


def test_an_error_under_the_lock_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), files.lock(tmp_path / "lock", "in use"):
        raise FileNotFoundError("mine")


# --- Systems without some functions --------------------------------------------------------------------------------

NO_FLOCK = "import errno, fcntl, os\ndef refuse(*_): raise OSError(errno.ENOTSUP, 'no')\nfcntl.flock = refuse\n"


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOTSUP))
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_flock_a_file_replaces_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(code))
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    path = tmp_path / "lock"
    with files.lock(path, "in use: wait."):
        assert set(contents(tmp_path)) == files.lock_names("lock") == {"lock", "lock.owner"}
        with pytest.raises(UserError) as caught, files.lock(path, "in use: wait."):
            pass
    message = str(caught.value)
    assert message.startswith(f"in use: wait. The directory is in use by process {os.getpid()} on ")
    assert message.endswith(f". If that process does not run any more, delete {path}.owner.")
    assert set(contents(tmp_path)) == {"lock"}
    with files.lock(path, "in use", keep=lambda: False):
        pass  # Free again.
    assert contents(tmp_path) == {}


def test_other_errors_of_flock_name_file_and_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="flock") as caught, files.lock(tmp_path / "lock", ""):
        pass
    assert refusal(caught.value) == f"{tmp_path}/lock: Input/output error (flock)"


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = NO_FLOCK + (
        "import pathlib, sys; from tfrecord_tools.base import files\n"
        "with files.lock(pathlib.Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "lock"
    process = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False)
    assert process.returncode == -9
    assert path.with_name("lock.owner").exists()
    with files.lock(path, "in use"):
        assert str(os.getpid()) in path.with_name("lock.owner").read_text()


@pytest.mark.usefixtures("no_flock")
def test_without_flock_an_owner_on_another_machine_is_named(tmp_path: Path) -> None:
    """This machine cannot know whether the process on the other machine runs."""
    owner = tmp_path / "lock.owner"
    owner.write_text("4711\nnode17\n")
    os.utime(owner, (0, 0))
    message = (
        r"^in use\. The directory is in use by process 4711 on node17\. If that process does not run any more, delete"
        rf" {owner}\.$"
    )
    with pytest.raises(UserError, match=message), files.lock(tmp_path / "lock", "in use."):
        pass
    owner.unlink()
    with files.lock(tmp_path / "lock", "in use."):
        pass


@pytest.mark.usefixtures("no_flock")
def test_without_flock_two_processes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process adds 1 to a number several times, under the lock."""
    (tmp_path / "number").write_text("0")
    code = NO_FLOCK + (
        "import pathlib, sys; from tfrecord_tools.base import files\n"
        "files._LOCK_SECONDS = 60; number = pathlib.Path(sys.argv[1])\n"
        "for _ in range(20):\n"
        "  with files.lock(number.with_name('lock'), ''): number.write_text(str(int(number.read_text()) + 1))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "number")]
    processes = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "number").read_text() == "40"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS])
def test_files_that_cannot_be_synced_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(code))
    with files.atomic(tmp_path / "file") as file:
        file.write(b"data")
    assert contents(tmp_path) == {"file": b"data"}


def test_directories_that_cannot_be_opened_are_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows cannot open directories."""
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    files.sync(tmp_path)


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="fsync") as caught, files.atomic(tmp_path / "file"):
        pass
    assert refusal(caught.value) == f"{tmp_path}/file.tmp: Input/output error (fsync)"


def test_a_full_disk_names_the_file() -> None:
    with (
        pytest.raises(OSError, match="write") as caught,
        files.naming("out/x", "write"),
        open("/dev/full", "wb", 0) as file,
    ):
        file.write(b"data")
    assert refusal(caught.value) == "out/x: No space left on device (write)"


def test_an_error_without_a_file_names_the_call() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        os.fsync(999_999)
    assert refusal(caught.value) == "Bad file descriptor (os.fsync(999_999))"


@pytest.mark.parametrize("how", [os.link, os.symlink])
@pytest.mark.parametrize("code", [None, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_links_or_copies(tmp_path: Path, how: Callable[..., None], code: int | None) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    source.write_bytes(b"data")
    path.write_bytes(b"what was there")
    assert files.link(source, path, refusing(code) if code else how) == (code is None)
    assert path.read_bytes() == b"data"
    assert os.path.samefile(source, path) == (code is None)


def test_a_link_that_fails_for_another_reason_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link(tmp_path / "gone", tmp_path / "path", os.link)


@pytest.mark.parametrize("pread", [True, False])
def test_read_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pread: bool) -> None:
    """Several threads read with one descriptor."""
    if not pread:
        monkeypatch.delattr(os, "pread")
        monkeypatch.delattr(os, "preadv")
    (tmp_path / "file").write_bytes(bytes(range(256)))
    wrong: list[int] = []
    descriptor = files.open_descriptor(tmp_path / "file")

    def read(start: int) -> None:
        for offset in range(start, 250):
            if files.read_at(descriptor, 4, offset) != bytes(range(offset, offset + 4)):
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 200, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert files.read_at(descriptor, 10, 250) == bytes(range(250, 256))  # The end.
    assert files.read_at(descriptor, 10, 300) == b""
    buffer = memoryview(bytearray(10))
    for offset, count in ((3, 10), (250, 6), (300, 0)):
        assert files.read_into(descriptor, [buffer], offset) == count
        assert buffer[:count] == bytes(range(256))[offset : offset + 10]
    parts = [bytearray(3), bytearray(0), bytearray(5)]
    assert files.read_into(descriptor, parts, 250) == 6
    assert b"".join(parts) == bytes(range(250, 256)) + bytes(2)
    os.close(descriptor)


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP, "missing"])
def test_space_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | str | None) -> None:
    if code == "missing":
        monkeypatch.delattr(os, "posix_fallocate")
    elif isinstance(code, int):
        monkeypatch.setattr(os, "posix_fallocate", refusing(code))
    with open(tmp_path / "file", "wb") as file:
        files.allocate(file, 3_000_000)
    status = (tmp_path / "file").stat()
    assert status.st_size == 3_000_000
    assert status.st_blocks * 512 >= 3_000_000


def test_exchange_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(*_: object, **__: object) -> None:
        raise TypeError("Windows needs a name")

    monkeypatch.setattr(files.ctypes, "CDLL", no_library)
    assert not files.exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~/x", "HOME/x"),
        ("~", "HOME"),
        ("~root/x", "/root/x"),
        ("a/~/x", "a/~/x"),  # Only at the start, as in shells.
        ("./~/x", "./~/x"),
        ("", ""),
        ("s3://bucket/~x", "s3://bucket/~x"),
        ("~here/x", "~here/x"),  # A file with this name exists.
    ],
)
def test_home_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~here").mkdir()
    assert files.expand_user(path) == expected.replace("HOME", str(tmp_path))


def test_the_home_of_an_unknown_user_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = (
        r"^--out=~nobody-here/x: user 'nobody-here' does not exist\."
        r" For a file name that starts with ~, write \./~nobody-here/x\."
    )
    with pytest.raises(UserError, match=message):
        files.expand_user("~nobody-here/x", "--out=")


def test_home_directories_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with_splits(tmp_path / "pets")
    convert(ConvertConfig(src="~/pets", out="~/out", workers=1), log=lambda line: None)
    assert len(open_dataset("~/out").records("train")) == 10
    with pytest.raises(UserError, match=r"^--out=~nobody-here/x: user 'nobody-here' does not exist"):
        ConvertConfig(src="~/pets", out="~nobody-here/x")


def test_a_staged_directory_appears_complete(tmp_path: Path) -> None:
    out = tmp_path / "a/b/out"
    with files.staged(out, "last.txt") as directory:
        (directory / "last.txt").write_text("new")
        (directory / "plots").mkdir()
        (directory / "plots/one.png").write_text("one")
        assert not out.exists()
    assert {path.relative_to(out).as_posix() for path in out.rglob("*")} == {"last.txt", "plots", "plots/one.png"}
    assert list((tmp_path / "a/b").iterdir()) == [out]


def test_staged_files_replace_those_of_an_existing_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out/plots").mkdir(parents=True)
    for name in ("a.txt", "z.txt", "mine.txt", "plots/old.png"):
        (tmp_path / "out" / name).write_text("old")
    replaced: list[str] = []
    replace = files.os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (replaced.append(new.name), replace(old, new)))
    with files.staged(tmp_path / "out", "a.txt") as directory:
        for name in ("a.txt", "z.txt"):
            (directory / name).write_text("new")
        (directory / "plots").mkdir()
        assert (tmp_path / "out/a.txt").read_text() == "old"
    assert replaced[-1] == "a.txt"
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert found == {"a.txt": "new", "z.txt": "new", "mine.txt": "old"}
    assert list((tmp_path / "out/plots").iterdir()) == []  # A subdirectory is replaced as a whole.


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("old")

    def fail(out: Path) -> None:
        with files.staged(out, "a.txt") as directory:
            (directory / "a.txt").write_text("new")
            raise ValueError("no")

    for out in (tmp_path / "out", tmp_path / "new/deeper"):
        with pytest.raises(ValueError, match="no"):
            fail(out)
    assert (tmp_path / "out/a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
