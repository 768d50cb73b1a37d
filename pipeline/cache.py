"""Blocks of remote shards on a disk of this node, shared by its processes and bounded in bytes.

A block is one file: its bytes and their crc32. It is written under a temporary name, which is locked meanwhile, so that
of several processes that want it one fetches it, and renamed. Nothing is ever changed in place, so that whoever reads
a file that is evicted still reads it whole.
"""

import fcntl
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import OneRankError

CHECKSUM = 4  # bytes at the end of a file
TOUCH = 10.0  # seconds; a use is noted in a file's access time no more often
LOOK = 0.02  # seconds between looks at a block that another fetches
_verified: set[tuple] = set()  # files whose checksum this process has seen to be right


@dataclass(frozen=True)
class BlockCache:
    """folder: None for one of the user's in the system's temporary directory. limit: bytes."""

    folder: Path | None = None
    limit: int = 10 * 10**9

    @property
    def place(self) -> Path:
        return self.folder or Path(tempfile.gettempdir()) / f"zorse-cache-{os.getuid()}"

    def has(self, key: str) -> bool:
        return (self.place / key).exists()

    def read(self, key: str, start: int, end: int, size: int) -> bytes | None:
        """Bytes [start, end) of a block of `size` bytes; None where it is not there whole."""
        path = self.place / key
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            state = os.fstat(file)
            if state.st_size != size + CHECKSUM or not _whole(file, key, state):
                path.unlink(missing_ok=True)
                return None
            if time.time() - state.st_atime > TOUCH:
                os.utime(file, ns=(time.time_ns(), state.st_mtime_ns))
            data = os.pread(file, end - start, start)
            return data if len(data) == end - start else None
        except OSError:  # a bad disk: fetched again, and if it cannot be written, that is told
            return None
        finally:
            os.close(file)

    def fill(self, key: str, size: int, fetch: Callable[[], bytes], patience: float) -> bytes | None:
        """The block, fetched and kept unless another process does so first, for whom this one waits `patience` seconds.

        None when these are over. Raises OneRankError where the cache cannot be written, and what `fetch` raises.
        """
        self._prepare()
        part, deadline = self.place / f"{key}.part", time.monotonic() + patience
        while True:
            try:
                with part.open("ab") as file:
                    if _locked(file) and _is_at(part, file):  # not renamed by who had the lock before
                        try:
                            data = self.read(key, 0, size, size)
                            if data is None:
                                data = fetch()
                                self._keep(file, part, key, data)
                                return data
                        except BaseException:
                            part.unlink(missing_ok=True)
                            raise
                        part.unlink()
                        return data
            except OSError as error:
                raise self._unusable(error) from None
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOK)

    def _keep(self, file, part: Path, key: str, data: bytes) -> None:
        self._make_room(len(data) + CHECKSUM, part)
        file.truncate(0)
        file.write(data)
        file.write(zlib.crc32(data).to_bytes(CHECKSUM, "little"))
        file.flush()
        with suppress(FileNotFoundError):  # evicted already
            part.rename(self.place / key)

    def _make_room(self, needed: int, part: Path) -> None:
        """Remove what was not used for longest, until `needed` bytes more stay within the limit."""
        found = []
        with os.scandir(self.place) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found.append((state.st_atime_ns, state.st_size, entry.name))
        total = sum(size for _, size, _ in found)
        for _, size, name in sorted(found):
            if total + needed <= self.limit:
                return
            if name != part.name:
                (self.place / name).unlink(missing_ok=True)
                total -= size

    def _prepare(self) -> None:
        try:
            self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder is None and self.place.stat().st_uid != os.getuid():
                raise OneRankError(f"{self.place}: is another user's; give --cache-dir")
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> OneRankError:
        return OneRankError(
            f"--cache-dir {self.place}: cannot be written ({error.strerror}); give another, or a smaller --cache-gb"
        )


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


def _locked(file) -> bool:
    """Whether this open file has its lock now; the system releases it with the file or the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, file) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
