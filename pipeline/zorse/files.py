"""Files that are there whole or not at all, whenever a process or a machine dies; their SHA-256; locks.

What a file system cannot do is no error here where it costs nothing but safety against a power cut: bringing a folder
to the disk, which some network and FUSE file systems refuse.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from zorse.errors import UserError
from zorse.typed_json import convert, parse, plain, read_bytes

ABANDONED = 3600  # seconds without a write after which a temporary file of another machine is a killed process's
LONGEST = 80  # bytes of a file's name in that of its temporary file; file systems take 143 or 255 bytes
# What file systems answer that cannot do something, and some that forbid it.
UNSUPPORTED = {
    errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM, errno.EACCES, errno.EMLINK,
    errno.EXDEV, errno.EMFILE, errno.ENOLCK,
}  # fmt: skip


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once, and have it on disk on return. Where it cannot be written, nothing changes."""
    _write(path, content, durable=True)


def write_quickly(path: Path, content: str | bytes) -> None:
    """Like `write_durably`, but on return it need not be on disk: a power cut may tear it, a killed process cannot."""
    _write(path, content, durable=False)


def _write(path: Path, content: str | bytes, durable: bool) -> None:
    with replacing(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of `path` at the end of the block; after an error nothing changes.

    durable: it is on disk afterwards, and what killed writers of this file left is removed.
    """
    if durable:
        with suppress(OSError):
            remove_stale(path)
    temporary = temporary_for(path)
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                _sync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()  # of a full disk it would take what room is left
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None  # the file that was asked for
        raise
    if durable:
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Bring what was written to a file, or which files a folder has, to the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not unsupported(error):
            raise


def unsupported(error: OSError) -> bool:
    """Whether an error says that the file system cannot do what was asked, rather than that it failed or is full."""
    return error.errno in UNSUPPORTED


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
    return path.with_name(f".{_shortened(path.name)}.{_here()}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_stale(path: Path) -> None:
    """Remove what killed processes left of a file or folder: the process is gone, or for an hour wrote nothing."""
    remove_all_stale(path.parent, glob.escape(_shortened(path.name)))


def remove_all_stale(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of all files or folders whose names match."""
    for temporary in folder.glob(f".{pattern}.*.tmp"):
        where, _, writer = temporary.name.removesuffix(".tmp").rpartition(".")
        process = writer.partition("-")[0]
        if process.isdecimal():
            gone = where.endswith(f".{_here()}") and not _is_alive(int(process))
            with suppress(FileNotFoundError):
                if gone or time.time() - temporary.lstat().st_mtime > ABANDONED:
                    link = temporary.is_symlink()
                    shutil.rmtree(temporary) if temporary.is_dir() and not link else temporary.unlink()


def _shortened(name: str) -> str:
    """A name, or, where that of a temporary file would be too long with it, its beginning and its SHA-256."""
    data = os.fsencode(name)
    if len(data) <= LONGEST:
        return name
    return f"{data[: LONGEST // 2].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:16]}"


@cache
def _here() -> str:
    """A short name of where process numbers mean the same: this machine since its start, in this container.

    Machines may share their names, and containers both their machine's name and their numbers.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):  # on Linux alone
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


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
    """Like `write_durably`, for JSON; a dataclass becomes an object."""
    write_durably(path, json.dumps(record, indent=1, default=plain) + "\n")


def load_json(path: Path) -> dict | None:
    """A JSON object, or None where there is none."""
    try:
        return convert(parse(read_bytes(path)), dict) if path.is_file() else None
    except (FileNotFoundError, ValueError):
        return None


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


@contextmanager
def held(folder: Path, refusal: str) -> Iterator[None]:
    """Lock a folder meanwhile. Raises UserError where another process has it, as far as the file system can tell."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = True
        with suppress(OSError):  # no locks there
            free = take_lock(descriptor)
        if not free:
            raise UserError(refusal)
        yield
    finally:
        os.close(descriptor)


def check_file(out: Path, ours: Callable[[Path], bool]) -> Path:
    """The file to write for --out, where a link is followed; makes its folder.

    Raises UserError where it cannot be written, and where something else is there: ours(path) says whether a file is
    one that this command wrote before, and so may be replaced. An empty file is nobody's.
    """
    if not out.name or out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file to write")
    out = out.resolve() if out.is_symlink() else out
    if _is_taken(out, ours):
        raise UserError(f"--out {out}: already exists and holds something else; give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written ({error.strerror}); give another --out") from None
    return out


def _is_taken(path: Path, ours: Callable[[Path], bool]) -> bool:
    """Whether something is there that is not ours, or cannot be read."""
    try:
        size = path.stat().st_size
    except OSError:  # nothing there, or what writing will tell of
        return False
    try:
        return not (path.is_file() and (size == 0 or ours(path)))
    except OSError:
        return True
