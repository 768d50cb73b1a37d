"""Files that are there whole or not at all: several writers at once, killed ones, full and poor disks."""

import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import threading

import pytest

from zorse.errors import UserError
from zorse.files import (
    _here,
    check_file,
    held,
    remove_stale,
    replacing,
    sha256_of,
    temporary_for,
    write_durably,
    write_quickly,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("write", [write_durably, write_quickly])
def test_writers_of_one_file_do_not_tear_it(tmp_path, write):
    path, contents = tmp_path / "owner.json", [letter * 100_000 for letter in "abcd"]

    def again(content):
        for _ in range(20):
            write(path, content)

    writers = [threading.Thread(target=again, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or path.read_text() in contents
    assert path.read_text() in contents and names_in(tmp_path) == ["owner.json"]


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    path, ended, unreaped = tmp_path / "a [1].json", subprocess.Popen(["true"]), subprocess.Popen(["true"])
    ended.wait()
    os.waitid(os.P_PID, unreaped.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as orphans are where nobody waits for them
    living, other = temporary_for(path), tmp_path / ".a [1].json.notes.tmp"
    for left in (f"{ended.pid}", f"{ended.pid}-3", f"{unreaped.pid}-1"):
        (tmp_path / f".{path.name}.{_here()}.{left}.tmp").write_text("half")
    living.write_text("somebody writes this now")
    other.write_text("and this is none of ours")
    write_durably(path, "whole")
    assert names_in(tmp_path) == sorted([path.name, living.name, other.name])
    os.utime(living, (0, 0))
    remove_stale(path)
    assert names_in(tmp_path) == sorted([path.name, other.name])


def test_processes_of_one_number_on_machines_of_one_name_do_not_meet(tmp_path):
    """In containers numbers begin anew, and their machine's name may be theirs."""
    names = {temporary_for(tmp_path / "file").name for _ in range(100)}
    assert len(names) == 100 and all(f".{_here()}.{os.getpid()}-" in name for name in names)
    elsewhere = tmp_path / ".file.0123abcd.7-00.tmp"
    elsewhere.write_text("half")
    write_durably(tmp_path / "file", "whole")
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    write_durably(tmp_path / "file", "whole")
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "\u00e4" * 127, "[" * 200])
def test_the_longest_names(tmp_path, name):
    (killed := subprocess.Popen(["true"])).wait()
    left = temporary_for(tmp_path / name)
    left = left.with_name(left.name.replace(f".{os.getpid()}-", f".{killed.pid}-"))
    left.write_text("half")
    for content in ("one", "two"):
        write_durably(tmp_path / name, content)
    assert names_in(tmp_path) == [name] and (tmp_path / name).read_text() == "two"


def test_a_folder_that_cannot_be_brought_to_the_disk_is_no_error(tmp_path, monkeypatch):
    fsync, number = os.fsync, errno.EINVAL

    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    write_durably(tmp_path / "file", "one")
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(tmp_path / "file", "two")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_a_full_quota_is_a_full_disk(tmp_path, monkeypatch, number):
    write_durably(tmp_path / "file", "one")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"/file'") as error:
        write_durably(tmp_path / "file", "two")
    assert error.value.errno == number and (tmp_path / "file").read_text() == "one"
    assert names_in(tmp_path) == ["file"]


def test_one_process_at_a_time_where_there_are_locks(tmp_path, monkeypatch):
    with held(tmp_path, "taken"), pytest.raises(UserError, match="taken"), held(tmp_path, "taken"):
        pass

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with held(tmp_path, "taken"), held(tmp_path, "taken"):
        pass


def test_a_file_for_out_is_new_or_empty_or_ours(tmp_path):
    def is_ours(path):
        return path.read_text().startswith("ours")

    for content in ("ours", ""):
        (tmp_path / "file").write_text(content)
        assert check_file(tmp_path / "file", is_ours) == tmp_path / "file"
    (tmp_path / "file").write_text("theirs")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", "pipe"):
        with pytest.raises(UserError, match=r"already exists and holds something else; give another --out"):
            check_file(tmp_path / name, is_ours)
    (tmp_path / "file").write_text("ours")
    assert check_file(tmp_path / "link", is_ours) == tmp_path / "file"
    assert check_file(tmp_path / "new" / "file", is_ours).parent.is_dir()
    with pytest.raises(UserError, match="is a folder"):
        check_file(tmp_path, is_ours)


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and names_in(tmp_path) == ["file"]
    with pytest.raises(OSError, match=r"/none/file'") as error:  # the file that was asked for, not a temporary one
        write_durably(tmp_path / "none" / "file", "")
    assert ".tmp" not in str(error.value)
    assert sha256_of(path) == hashlib.sha256(b"before").hexdigest()
