"""Blocks of remote shards on a disk of this node, shared by its processes and bounded in bytes.

A block is one file: its bytes and their crc32. It is written under a temporary name, which is locked meanwhile, so that
of several processes that want it one fetches it, and renamed. Nothing is ever changed in place, so that whoever reads
a file that is evicted still reads it whole.

The cache deletes files, so it has a directory of its own, zorse-cache-UID, in the one the user names. Each operation
opens that directory anew, checks that it is a real directory (no link) that this user owns and nobody else can write,
and reaches files only relative to that descriptor. What is not a regular file with a block's name is left alone.
"""

import os
import re
import secrets
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zorse.errors import OneRankError
from zorse.files import take_lock, unsupported

CHECKSUM = 4  # bytes at the end of a file
TOUCH = 10.0  # seconds; a use is noted in a file's access time no more often
POLL_SECONDS = 0.02  # between two looks at a block that another process fetches
OURS = re.compile(r"[0-9a-z]+\.(block|part)")  # the only names that are ever deleted
_verified: set[tuple] = set()  # files whose checksum this process has seen to be right


@dataclass(frozen=True)
class BlockCache:
    """folder: where the cache's own directory is made; None for the system's temporary directory. limit: bytes."""

    folder: Path | None = None
    limit: int = 10 * 10**9

    @property
    def place(self) -> Path:
        return (self.folder or Path(tempfile.gettempdir())) / f"zorse-cache-{os.getuid()}"

    def has(self, key: str) -> bool:
        with suppress(FileNotFoundError), self._opened() as place:
            os.stat(f"{key}.block", dir_fd=place, follow_symlinks=False)
            return True
        return False

    def read(self, key: str, start: int, end: int, size: int) -> bytes | None:
        """Bytes [start, end) of a block of `size` bytes; None where it is not there whole.

        Raises OneRankError where the cache's directory is not this user's own.
        """
        try:
            with self._opened() as place:
                return _read(place, key, start, end, size)
        except OSError:  # not there, or a bad disk: fetched again, and if it cannot be written, that is told
            return None

    def fill(self, key: str, size: int, fetch: Callable[[], bytes], patience: float) -> bytes | None:
        """The block, fetched and kept unless another process does so first, for whom this one waits `patience` seconds.

        None when these are over. Raises OneRankError where the cache cannot be written, and what `fetch` raises.
        """
        # Whoever locks the temporary file fetches the block; the others look again until it is there.
        part, deadline = f"{key}.part", time.monotonic() + patience
        while True:
            try:
                with suppress(FileExistsError):  # a directory, or something that is told below
                    self.place.mkdir(mode=0o700, parents=True)
                with self._opened() as place, _open_part(place, part) as file:
                    # Whether this process is to fetch it.
                    try:
                        free = take_lock(file)
                    except OSError as error:
                        if not unsupported(error):
                            raise
                        free = part != f"{key}.part"
                        if not free:  # there are no locks, so that each process writes a file of its own
                            _unlink(place, part)
                            part = f"{key}{secrets.token_hex(4)}.part"
                            continue
                    # It may have come between the last look and the lock; if not, fetch it and give it its name.
                    if free and _is_at(place, part, file):  # not renamed by who had the lock before
                        try:
                            data = _read(place, key, 0, size, size)
                            if data is None:
                                data = fetch()
                                self._keep(place, file, key, data, part)
                                return data
                        except BaseException:
                            _unlink(place, part)
                            raise
                        _unlink(place, part)
                        return data
            except OSError as error:
                raise OneRankError(
                    f"--cache-dir {self.place}: cannot be written ({error.strerror}); give another, or a smaller "
                    "--cache-gb"
                ) from None
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)

    def _keep(self, place: int, file, key: str, data: bytes, part: str) -> None:
        self._make_room(place, len(data) + CHECKSUM, part)
        file.truncate(0)
        file.write(data)
        file.write(zlib.crc32(data).to_bytes(CHECKSUM, "little"))
        file.flush()
        with suppress(FileNotFoundError):  # evicted already
            os.rename(part, f"{key}.block", src_dir_fd=place, dst_dir_fd=place)

    def _make_room(self, place: int, needed: int, part: str) -> None:
        """Remove the blocks that were not used for longest, until `needed` bytes more stay within the limit."""
        found = []
        with os.scandir(place) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        state = entry.stat(follow_symlinks=False)
                        found.append((state.st_atime_ns, state.st_size, entry.name))
        total = sum(size for _, size, _ in found)
        for _, size, name in sorted(found):
            if total + needed <= self.limit:
                return
            if name != part:
                _unlink(place, name)
                total -= size

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the cache's directory. Raises OneRankError unless it is this user's own, OSError for none."""
        try:
            place = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (NotADirectoryError, PermissionError):
            raise self._not_ours("is a link or a file, or not accessible to this user") from None
        try:
            state = os.fstat(place)
            if state.st_uid != os.getuid():
                raise self._not_ours("belongs to another user")
            if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise self._not_ours("is writable by other users")
            yield place
        finally:
            os.close(place)

    def _not_ours(self, what: str) -> OneRankError:
        return OneRankError(
            f"{self.place}: {what}, so it is not used as a cache; remove it, or give another --cache-dir"
        )


def _read(place: int, key: str, start: int, end: int, size: int) -> bytes | None:
    try:
        file = os.open(f"{key}.block", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place)
    except OSError:
        return None
    try:
        state = os.fstat(file)
        if state.st_size != size + CHECKSUM or not _whole(file, key, state):
            _unlink(place, f"{key}.block")
            return None
        if time.time() - state.st_atime > TOUCH:
            with suppress(OSError):  # where times cannot be set
                os.utime(file, ns=(time.time_ns(), state.st_mtime_ns))
        data = os.pread(file, end - start, start)
        return data if len(data) == end - start else None
    finally:
        os.close(file)


def _whole(file: int, key: str, state: os.stat_result) -> bool:
    """Whether the checksum is right, which is looked at once for each file that a process meets."""
    identity = key, state.st_ino, state.st_mtime_ns
    if identity in _verified:
        return True
    data = os.pread(file, state.st_size, 0)
    if zlib.crc32(data[:-CHECKSUM]).to_bytes(CHECKSUM, "little") != data[-CHECKSUM:]:
        return False
    if len(_verified) > 100_000:
        _verified.clear()
    _verified.add(identity)
    return True


def _open_part(place: int, name: str):
    """A temporary file, made if it is not there, to append to. No link is followed."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(name, flags, 0o600, dir_fd=place), "ab")


def _is_at(place: int, name: str, file) -> bool:
    try:
        return os.stat(name, dir_fd=place, follow_symlinks=False).st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _unlink(place: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
