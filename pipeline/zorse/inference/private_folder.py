"""A folder that no other user can read, for what visitors of the page send; it lies there for some minutes."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from zorse.files import remove_stale, temporary_for

KEPT_SECONDS, KEPT_BYTES = 600, 10**9  # of the files of all visitors
SWEEP_SECONDS = 10


class PrivateFolder(NamedTuple):
    """A folder for what visitors send. own: files in it that are the page's, and stay."""

    path: Path
    own: set[Path]


@contextmanager
def private_folder() -> Iterator[PrivateFolder]:
    """A folder that this user alone can read. Old files go from it, at the end all of it.

    gradio is to be imported within, since it reads the environment variable only then.
    """
    base = Path(tempfile.gettempdir(), f"zorse-app-{os.getuid()}")
    with suppress(OSError):  # of servers that were killed
        remove_stale(base)
    folder, over = PrivateFolder(temporary_for(base), set()), threading.Event()
    folder.path.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    sweeper = threading.Thread(target=_sweep, args=(folder, over), daemon=True)
    sweeper.start()
    try:
        yield folder
    finally:
        over.set()
        sweeper.join()
        shutil.rmtree(folder.path, ignore_errors=True)


def _sweep(folder: PrivateFolder, over: threading.Event) -> None:
    while not over.wait(SWEEP_SECONDS):
        with suppress(OSError):  # a file that went meanwhile
            remove_old(folder)


def remove_old(folder: PrivateFolder) -> None:
    """Remove visitors' files of before KEPT_SECONDS, and the oldest ones while all have more than KEPT_BYTES."""
    os.utime(folder.path)  # it is in use
    files = [(path.lstat(), path) for path in folder.path.rglob("*") if not path.is_dir() and path not in folder.own]
    files = sorted((status.st_mtime, status.st_size, path) for status, path in files)
    total, now = sum(size for _, size, _ in files), time.time()
    for written, size, path in files:
        if total > KEPT_BYTES or now - written > KEPT_SECONDS:
            path.unlink(missing_ok=True)
            total -= size
