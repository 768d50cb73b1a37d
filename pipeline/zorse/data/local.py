"""Where the bytes of a data set come from: here a folder, in remote.py a remote store.

Both have the same methods. They read ranges [start, end) of bytes of a file, and know of samples only that a `block`, a
range around the one that is asked for, holds what is read with it. What fails and may pass is tried again after a
pause; what still fails ends in TransientError, and what cannot pass in OneRankError, both in one line.
"""

import errno
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import NamedTuple, TypeVar

from zorse.errors import OneRankError, TransientError
from zorse.typed_json import read_bytes

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds, give or take half of it, after the first attempts that fail
MAY_PASS = (errno.EIO, errno.ESTALE)  # of network file systems: a server that was away, a file replaced there
FIX = "copy it again, or make the shards again"


class Temporary(Exception):
    """What an attempt failed of, where another may succeed."""


class Missing(OneRankError):
    """A file that is not there."""


class File(NamedTuple):
    """A file of a data set and its size by the manifest, in bytes."""

    name: str
    size: int


def retried(where: Callable[[], str], attempt: Callable[[], T]) -> T:
    """The result of the first attempt that does not raise Temporary. Raises TransientError, saying where."""
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except Temporary as error:
            if pause is None:
                tries = len(PAUSES) + 1
                raise TransientError(f"{where()}: cannot be read ({error}), {tries} times in a row") from None
            time.sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError


@dataclass(frozen=True)
class Folder:
    """Shards on a local disk or a shared file system."""

    root: Path

    def where(self, name: str) -> str:
        return str(self.root / name)

    def read_all(self, name: str) -> bytes:
        """Read a small file. Raises Missing."""

        def attempt() -> bytes:
            try:
                return read_bytes(self.root / name)
            except OSError as error:
                raise _judged(self.where(name), error) from None

        return retried(lambda: self.where(name), attempt)

    def sizes(self, names: list[str]) -> dict[str, int]:
        """The sizes of those files that are there, asked for 16 at a time, since each may take a trip."""

        def size(name: str) -> int | None:
            try:
                return (self.root / name).stat().st_size
            except FileNotFoundError:
                return None
            except OSError as error:
                raise OneRankError(f"{self.where(name)}: cannot be read ({error.strerror}); {FIX}") from None

        with ThreadPoolExecutor(16) as pool:
            found = zip(names, pool.map(size, names), strict=True)
            return {name: size for name, size in found if size is not None}

    def check(self, file: File) -> None:
        """Raise OneRankError unless the file is there at its size."""
        retried(lambda: self.where(file.name), lambda: self._opened(file))

    def read(self, file: File, start: int, end: int, block: tuple[int, int]) -> bytes:
        def attempt() -> bytes:
            try:
                opened = self._opened(file)
                return os.pread(opened.fileno(), end - start, start)
            except OSError as error:
                raise _judged(self.where(file.name), error) from None

        return retried(lambda: self.where(file.name), attempt)

    def prefetch(self, file: File, start: int, end: int, block: tuple[int, int]) -> None:
        """Have the system read a range ahead. Any range will do that may be cached as one."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with suppress(OSError, Temporary):
                opened = self._opened(file)
                os.posix_fadvise(opened.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)

    def _opened(self, file: File) -> FileIO:
        """The open file. Who reads keeps it, since another thread may take its place among those that are kept."""
        path = self.root / file.name
        try:
            opened, found = _open(path)
        except OSError as error:
            raise _judged(str(path), error) from None
        if found != file.size:
            raise OneRankError(f"{path}: has {found} bytes, the manifest says {file.size}; {FIX}")
        return opened


@lru_cache(256)
def _open(path: Path) -> tuple[FileIO, int]:
    """An open file and its size; the least recently used of a process are closed, once nobody reads from them."""
    file = path.open("rb", buffering=0)
    return file, os.fstat(file.fileno()).st_size


def _judged(where: str, error: OSError) -> Exception:
    if error.errno in MAY_PASS:
        _open.cache_clear()  # a handle that went stale stays so
        return Temporary(error.strerror)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Missing(f"{where}: is missing; {FIX}")
    return OneRankError(f"{where}: cannot be read ({error.strerror}); {FIX}")
