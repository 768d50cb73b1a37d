"""One live run per directory: OUT/lock, held by rank 0 while it lives, and OUT/owner.json, which says who that is.

The lock decides on one machine, and on several where their file system passes locks on. Where it does not, owner.json
decides: the owner renews its time, a newcomer watches whether that goes on, and an owner that finds another's name in
it writes no more.
"""

import atexit
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from zorse.errors import UserError
from zorse.files import take_lock, write_durably, write_quickly
from zorse.typed_json import convert, parse, read_bytes

LOCK_PATIENCE = 15.0  # seconds
HEARTBEAT = 5.0  # seconds between renewals
SILENCE = 30.0  # seconds without one after which an owner on another machine counts as dead


class Owner(TypedDict, total=False):
    """owner.json: who owns a run directory, and whether it has given it up."""

    process: int
    host: str
    boot: str
    job: str | None
    restart: int
    token: str
    ended: bool


class RunLock:
    """Makes a run directory and owns it until this process ends, however it ends. For rank 0 alone.

    Raises UserError where another process has it and lives, or where nothing can be written.
    """

    def __init__(self, out: Path, note: Callable[[str], None] = print):
        self.path = out / "owner.json"
        boot = Path("/proc/sys/kernel/random/boot_id")
        self.me = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "boot": boot.read_text().strip() if boot.exists() else "",
            "job": os.environ.get("SLURM_JOB_ID"),
            "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "token": secrets.token_hex(4),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = (out / "lock").open("a")  # stays open as long as this object, and so stays locked
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from None
        locked = self._take_lock(out)
        owner = read(self.path)
        if owner and "process" not in owner:
            raise UserError(f"{self.path}: already exists and holds something else; give another --out")
        if owner and not owner.get("ended") and not self._surely_dead(owner, locked):
            note(f"{out} belongs to {describe(owner)}; watching for {SILENCE:g} s whether it is alive")
            if renewed(self.path, SILENCE):
                raise UserError(f"{out} is being trained by {describe(owner)}; stop it, or give another --out")
        try:
            write_durably(self.path, json.dumps(self.me) + "\n")
        except OSError as error:  # such as of file systems without renaming
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from None
        atexit.register(self._release)
        threading.Thread(target=self._renew, daemon=True).start()

    def check(self) -> None:
        """Raise UserError where another process has taken the run directory over."""
        try:
            owner = read(self.path)
        except OSError:  # a file system away for a while, to which nothing is written, either
            return
        if owner != self.me:
            if owner is None:
                raise UserError(f"{self.path} was removed while this process trained; it exits without saving")
            by = describe(owner)
            raise UserError(
                f"{self.path.parent} was taken over by {by} while this process seemed dead; it exits without saving"
            )

    def _take_lock(self, out: Path) -> bool:
        """Whether nobody else has the lock; False where the file system has none, and where an earlier start of this
        job holds it on a node that Slurm has lost. Waits a little for a holder that is ending: the data workers of a
        killed trainer take seconds to notice, and until then they hold what it held.
        """
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                if take_lock(self._lock):
                    return True
            except OSError:
                return False
            owner = read(self.path) or {}
            if time.monotonic() < deadline:
                time.sleep(0.5)
            elif self._replaces(owner):
                return False  # it cannot be ended from here, but it writes no more once it sees the new owner
            else:
                raise UserError(f"{out} is being trained by {describe(owner)}; stop it, or give another --out")

    def _surely_dead(self, owner: dict, locked: bool) -> bool:
        """Whether an owner needs no watching: an earlier start of this job, or of this machine without its lock."""
        here = all(owner.get(name) == self.me[name] for name in ("host", "boot"))
        return self._replaces(owner) or (locked and here)

    def _replaces(self, owner: dict) -> bool:
        """Slurm has ended that start of this job before it began this one, or has lost its node."""
        same_job = self.me["job"] is not None and owner.get("job") == self.me["job"]
        return same_job and owner.get("restart", 0) < self.me["restart"]

    def _renew(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            with suppress(OSError):  # a file system away for a while; check() has the say
                if read(self.path) != self.me:
                    return
                try:
                    os.utime(self.path)
                except OSError:  # where times cannot be set
                    write_quickly(self.path, json.dumps(self.me) + "\n")

    def _release(self) -> None:
        with suppress(OSError):
            if os.getpid() == self.me["process"] and read(self.path) == self.me:
                write_durably(self.path, json.dumps(self.me | {"ended": True}) + "\n")


def read(path: Path) -> dict | None:
    """The owner; None for nobody, {} for a file of another kind."""
    try:
        return convert(parse(read_bytes(path)), Owner)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def superseded(out: Path) -> bool:
    """Whether a later start of this Slurm job owns a run directory: this process runs on a node that Slurm has lost."""
    job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    try:
        owner = read(out / "owner.json") or {}
    except OSError:
        return False
    return job is not None and owner.get("job") == job and owner.get("restart", 0) > restart


def renewed(path: Path, seconds: float) -> bool:
    """Whether a file's time changes within so many seconds. One that goes away was given up by its owner.

    Looks are counted, and not the time, in which this process may have stood still.
    """
    times = set()
    for _ in range(math.ceil(seconds)):
        try:
            with path.open() as file:  # opened, since a network file system may answer stat from memory
                times.add(os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return False
        if len(times) > 1:
            return True
        time.sleep(1)
    return False


def describe(owner: dict | None) -> str:
    if not owner:
        return "an unknown process"
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('process')} on {owner.get('host')}{job}"
