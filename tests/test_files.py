"""Files that are there whole or not at all: several writers at once, killed ones, full disks."""

import glob
import hashlib
import os
import socket
import subprocess
import threading

import pytest

from zorse.files import remove_stale, replacing, sha256_of, temporary_for, write_durably, write_quickly


def names(folder):
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
    assert path.read_text() in contents and names(tmp_path) == ["owner.json"]


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    path, ended, unreaped = tmp_path / "a [1].json", subprocess.Popen(["true"]), subprocess.Popen(["true"])
    ended.wait()
    os.waitid(os.P_PID, unreaped.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as orphans are where nobody waits for them
    living, other = temporary_for(path), tmp_path / ".a [1].json.notes.tmp"
    for left in (f"{ended.pid}", f"{ended.pid}-3", f"{unreaped.pid}-1"):
        (tmp_path / f".{path.name}.{socket.gethostname()}.{left}.tmp").write_text("half")
    living.write_text("somebody writes this now")
    other.write_text("and this is none of ours")
    write_durably(path, "whole")
    assert names(tmp_path) == sorted([path.name, living.name, other.name])
    os.utime(living, (0, 0))
    remove_stale(path.with_name(glob.escape(path.name)))
    assert names(tmp_path) == sorted([path.name, other.name])


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and names(tmp_path) == ["file"]
    with pytest.raises(OSError, match=r"/none/file'") as error:  # the file that was asked for, not a temporary one
        write_durably(tmp_path / "none" / "file", "")
    assert ".tmp" not in str(error.value)
    assert sha256_of(path) == hashlib.sha256(b"before").hexdigest()
