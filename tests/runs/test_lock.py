"""Who owns a run directory: lock and owner file, on one machine and over several."""

import errno
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest
from runs import LONG, nobody_left, start, wait_for

from zorse.errors import UserError
from zorse.runs import lock
from zorse.runs.lock import RunLock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1.5)
    monkeypatch.setattr(lock, "LOCK_PATIENCE", 0.2)
    monkeypatch.setattr(lock, "HEARTBEAT", 0.2)


def elsewhere(out, **changes):
    """An owner on another machine: its file, without a lock."""
    owner = {"process": 7, "host": "node17", "boot": "another", "job": None, "restart": 0, "token": "00"} | changes
    out.mkdir(exist_ok=True)
    (out / "owner.json").write_text(json.dumps(owner))
    return owner


@pytest.mark.fault(22)
def test_a_second_owner_is_refused_and_the_first_one_says_when_it_has_ended(tmp_path):
    first = RunLock(tmp_path / "run")
    with pytest.raises(UserError, match=f"is being trained by process {os.getpid()} on "):
        RunLock(tmp_path / "run")
    first.check()
    first._release()
    assert lock.read(tmp_path / "run" / "owner.json")["ended"]


@pytest.mark.fault(22)
def test_a_living_owner_on_another_machine_is_refused(tmp_path):
    owner, over = elsewhere(tmp_path, job="12"), threading.Event()

    def live():
        while not over.wait(0.2):
            os.utime(tmp_path / "owner.json")

    thread = threading.Thread(target=live)
    thread.start()
    notes = []
    try:
        with pytest.raises(UserError, match="is being trained by process 7 on node17, job 12"):
            RunLock(tmp_path, notes.append)
    finally:
        over.set()
        thread.join()
    assert "process 7 on node17, job 12; watching" in notes[0]
    assert lock.read(tmp_path / "owner.json") == owner


@pytest.mark.fault(22)
def test_a_dead_owner_on_another_machine_is_succeeded_after_a_while(tmp_path):
    elsewhere(tmp_path)
    began = time.monotonic()
    mine = RunLock(tmp_path, lambda line: None)
    assert time.monotonic() - began > 1
    mine.check()
    written = (tmp_path / "owner.json").stat().st_mtime
    time.sleep(1)
    assert (tmp_path / "owner.json").stat().st_mtime > written  # it says that it lives


@pytest.mark.fault(22)
@pytest.mark.parametrize("owner", [{"job": "31", "restart": 0}, {"ended": True}, "same machine"])
def test_a_predecessor_needs_no_watching(tmp_path, monkeypatch, owner):
    """An earlier start of the same job, which Slurm has ended; or of this machine, where the lock would show it."""
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    if owner == "same machine":
        own = RunLock(tmp_path / "other").me
        owner = {"host": own["host"], "boot": own["boot"]}
    elsewhere(tmp_path, **owner)
    notes = []
    RunLock(tmp_path, notes.append).check()
    assert not notes


@pytest.mark.fault(6, 22)
def test_an_earlier_start_that_lives_on_a_lost_node_is_replaced(tmp_path, monkeypatch):
    """It holds the lock, and does not know. Not so an earlier job."""
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    first = RunLock(tmp_path)
    assert not lock.superseded(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = RunLock(tmp_path)
    second.check()
    with pytest.raises(UserError, match="was taken over"):
        first.check()
    first._release()
    second.check()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert lock.superseded(tmp_path)
    second._release()
    assert lock.superseded(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "32")
    with pytest.raises(UserError, match="is being trained by"):
        RunLock(tmp_path)


@pytest.mark.fault(22)
def test_where_times_cannot_be_set_the_owner_still_shows_that_it_lives(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    mine = RunLock(tmp_path)
    written = (tmp_path / "owner.json").stat().st_mtime
    time.sleep(1)
    assert (tmp_path / "owner.json").stat().st_mtime > written
    mine.check()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.fault(22)
def test_a_file_system_that_is_away_decides_nothing(tmp_path, monkeypatch):
    mine = RunLock(tmp_path)

    def away(_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(lock, "read", away)
        mine.check()
    elsewhere(tmp_path)
    with pytest.raises(UserError, match="was taken over"):
        mine.check()


def test_an_owner_file_of_something_else_stays(tmp_path):
    (tmp_path / "owner.json").write_text('{"name": "of a repository"}')
    with pytest.raises(UserError, match=r"owner.json: already exists and holds something else; give another --out"):
        RunLock(tmp_path)
    assert (tmp_path / "owner.json").read_text() == '{"name": "of a repository"}'


@pytest.mark.fault(22)
def test_one_that_was_taken_for_dead_writes_no_more(shards, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--epochs", "9999", "--checkpoint-every", "10")
    wait_for(process, r"^ +5\d/\d+ pairs")
    saved = {path.name for path in (out / "checkpoints").glob("pairs-*")}
    owner = elsewhere(out)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and nobody_left(out)
    assert "error: " in output and "was taken over by process 7 on node17 while this process seemed dead" in output
    assert lock.read(out / "owner.json") == owner
    # At most one more checkpoint, which was on its way.
    assert len({path.name for path in (out / "checkpoints").glob("pairs-*")} - saved) <= 1


@pytest.mark.fault(25)
def test_a_newcomer_that_stood_still_does_not_take_an_owner_for_dead(tmp_path, monkeypatch):
    """By its clock the time to watch is over after one look."""
    owner, clock, looks = tmp_path / "owner.json", iter(range(0, 10_000, 100)), []

    def sleep(seconds):
        if threading.current_thread() is not threading.main_thread():  # of a lock that an earlier test held
            time.sleep(seconds)
            return
        looks.append(seconds)
        os.utime(owner, (len(looks) // 5, len(looks) // 5))

    owner.touch()
    os.utime(owner, (0, 0))
    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: next(clock)))
    assert lock.renewed(owner, 30.0) and len(looks) == 5
