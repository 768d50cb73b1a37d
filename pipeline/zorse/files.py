"""Files that are there whole or not at all, whenever a process or a machine dies; their SHA-256; locks."""

import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from zorse.errors import UserError

ABANDONED = 3600  # seconds without a write after which a temporary file of another machine is a killed process's
_numbers = itertools.count()


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once, and have it on disk on return. Where it cannot be written, nothing changes."""
    _write(path, content, durable=True)


def write_quickly(path: Path, content: str | bytes) -> None:
    """Like `write_durably`, but on return it need not be on disk: a power cut may tear it, a killed process cannot."""
    _write(path, content, durable=False)


def _write(path: Path, content: str | bytes, durable: bool) -> None:
    try:
        with replacing(path, durable) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:  # which names the temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of `path` at the end of the block; after an error nothing changes.

    durable: it is on disk afterwards, and what killed writers of this file left is removed.
    """
    if durable:
        with suppress(OSError):
            remove_stale(path.with_name(glob.escape(path.name)))
    temporary = temporary_for(path)
    try:
        with temporary.open("wb") as file:
            yield file
        if durable:
            fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # of a full disk it would take what room is left
        raise
    if durable:
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Bring what was written to a file, or which files a folder has, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, text: str) -> None:
    """Append all of the text to a file, or nothing and raise OSError."""
    with path.open("ab", buffering=0) as file:
        end, data = file.tell(), text.encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def temporary_for(path: Path) -> Path:
    """A name that no other writer uses for a file or folder in the making, beside it, so that renaming it is atomic."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}-{next(_numbers)}.tmp")


def remove_stale(path: Path) -> None:
    """Remove what killed processes left of a file or folder: the process is gone, or for an hour wrote nothing.

    The path's last part may be a pattern.
    """
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        host, _, writer = temporary.name.removesuffix(".tmp").rpartition(".")
        process = writer.partition("-")[0]
        if process.isdecimal():
            gone = host.endswith(f".{socket.gethostname()}") and not _is_alive(int(process))
            with suppress(FileNotFoundError):
                if gone or time.time() - temporary.stat().st_mtime > ABANDONED:
                    shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    with suppress(OSError):  # a killed process that nobody has waited for yet still has its number
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def write_json(path: Path, record: dict) -> None:
    """Like `write_durably`, for JSON."""
    write_durably(path, json.dumps(record, indent=1) + "\n")


def load_json(path: Path) -> dict | None:
    """A JSON object, or None where there is none."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def take_lock(file) -> bool:
    """Lock an open file, or False where another one has its lock. Raises OSError where the file system has no locks.

    file: the object or its descriptor. The system releases the lock when it is closed, or its process dies.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_file(out: Path) -> None:
    """Raise UserError where --out is no file that can be written, and make its folder."""
    if not out.name or out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written ({error.strerror}); give another --out") from None
