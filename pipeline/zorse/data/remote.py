"""Shards at a URL, read in blocks through a cache on this node.

Drivers differ in what they raise and how long they wait, so every attempt runs in a thread, for a bounded time, and
what it fails of is told apart here.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from zorse.data.block_cache import BlockCache
from zorse.data.local import FIX, File, Missing, Temporary, retried
from zorse.errors import OneRankError

REFUSED = (401, 403)  # of HTTP


@dataclass(frozen=True)
class Remote:
    """Shards at a URL of a kind that fsspec knows. Blocks are fetched whole, into a cache of the node.

    timeout: seconds that one attempt may take. generation: stands for the contents, so that others are never used.
    """

    url: str
    cache: BlockCache
    timeout: float
    generation: str = ""

    def where(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def read_all(self, name: str) -> bytes:
        """Read a small file. Raises Missing."""
        return self._ask(name, lambda fs, path: fs.cat_file(path))

    def sizes(self, names: list[str]) -> dict[str, int] | None:
        """The sizes of all files there, from one listing; None where the store has none to give."""

        def listing(fs, root: str) -> dict[str, int] | None:
            if "http" in fs.protocol:  # its driver would search a page for links
                return None
            try:
                found = fs.ls(root.rstrip("/"), detail=True, refresh=True)
            except (PermissionError, NotImplementedError):
                return None
            return {entry["name"].rstrip("/").rpartition("/")[2]: entry["size"] for entry in found}

        return self._ask("", listing, patience=10)

    def check(self, file: File) -> None:
        """Raise OneRankError unless the file is there at its size, as far as the store knows sizes."""
        found = self._ask(file.name, lambda fs, path: fs.info(path)["size"])
        if found not in (None, file.size):
            raise OneRankError(f"{self.where(file.name)}: has {found} bytes, the manifest says {file.size}; {FIX}")

    def read(self, file: File, start: int, end: int, block: tuple[int, int]) -> bytes:
        first, last = block
        key = self._key(file, block)
        data = self.cache.read(key, start - first, end - first, last - first)
        if data is None:

            def fetch() -> bytes:
                return retried(lambda: self.where(file.name), lambda: self._get(file, block))

            whole = self.cache.fill(key, last - first, fetch, self.timeout) or fetch()
            data = whole[start - first : end - first]
        return data

    def prefetch(self, file: File, start: int, end: int, block: tuple[int, int]) -> None:
        """Fetch a block into the cache. Tried once: who reads it will try again, and say what failed."""
        key = self._key(file, block)
        if not self.cache.has(key):
            with suppress(Temporary):
                self.cache.fill(key, block[1] - block[0], lambda: self._get(file, block), patience=0)

    def _key(self, file: File, block: tuple[int, int]) -> str:
        parts = self.url, self.generation, file.name, *map(str, block)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]

    def _get(self, file: File, block: tuple[int, int]) -> bytes:
        start, end = block
        data = self._attempt(file.name, lambda fs, path: fs.cat_file(path, start=start, end=end))
        if len(data) != end - start:
            raise Temporary(f"{len(data)} bytes came where {end - start} were asked for")
        return data

    def _ask(self, name: str, call: Callable, patience: int = 1) -> object:
        return retried(lambda: self.where(name), lambda: self._attempt(name, call, patience))

    def _attempt(self, name: str, call: Callable, patience: int = 1) -> object:
        """call(file system, path) in a thread of its own, which is left behind when it takes too long."""
        future = Future()

        def work() -> None:
            try:
                fs, root = _file_system(self.url, os.getpid())
                future.set_result(call(fs, f"{root.rstrip('/')}/{name}"))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            return future.result(patience * self.timeout)
        except OneRankError:
            raise
        except FileNotFoundError:
            raise Missing(f"{self.where(name)}: is missing; {FIX}") from None
        except Exception as error:  # drivers have classes of their own
            without = "Credentials" in type(error).__name__  # of botocore and google.auth: none, or not all of them
            if isinstance(error, PermissionError) or without or getattr(error, "status", None) in REFUSED:
                raise OneRankError(
                    f"{self.where(name)}: access denied ({_reason(error)}); set up its driver's credentials"
                ) from None
            if future.done():
                raise Temporary(_reason(error)) from None
            _file_system.cache_clear()  # its connections may all hang
            raise Temporary(f"no answer within {patience * self.timeout:g} s") from None


@lru_cache(4)
def _file_system(url: str, process: int) -> tuple:
    """The driver of a URL and the path there; made anew after a fork, which their connections do not survive."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        fix = "pip install that package" if isinstance(error, ImportError) else "give a folder, or another URL"
        raise OneRankError(f"--data {url}: cannot be opened ({error}); {fix}") from None


def _reason(error: BaseException) -> str:
    """One line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
