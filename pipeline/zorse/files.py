"""Files that are there whole or not at all, whenever a process or a machine dies."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from zorse.errors import UserError


def append(path: Path, text: str) -> None:
    """All of it, or nothing and OSError."""
    with path.open("ab", buffering=0) as file:
        end, data = file.tell(), text.encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


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


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once, and have it on disk on return. Where it cannot be written, nothing changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        fsync(temporary)
        temporary.rename(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    fsync(path.parent)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
