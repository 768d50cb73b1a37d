"""Files which are there whole or not at all, whatever kills the process that writes them."""

import json
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path


def write_json(path: Path, record: dict) -> None:
    """As `write_bytes`, for JSON."""
    write_bytes(path, json.dumps(record, indent=1).encode() + b"\n")


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file so that, after a crash and, if `durable`, after a power cut, it is there whole or not at all."""
    temporary = temporary_for(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # of a full disk it would take what room is left
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync(file) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def temporary_for(path: Path) -> Path:
    """This process's own name for a file in the making, in the same folder, so that renaming it is atomic."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_stale(path: Path) -> None:
    """Remove what killed processes left of a file or folder: the process is gone, or for an hour wrote nothing.

    The path's last part may be a pattern.
    """
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        host, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
        gone = host.endswith(f".{socket.gethostname()}") and not _is_alive(int(pid))
        with suppress(FileNotFoundError):
            if gone or time.time() - temporary.stat().st_mtime > 3600:
                shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def load_json(path: Path) -> dict | None:
    """A JSON object, or None where there is none."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None
