"""Where rows are kept between two passes over an image (banded.py): in memory or a file; and how much memory is free.

A store holds [height, W, C], so that a band of rows is one piece of it. `read(a, b)` gives rows [a, b) on the device as
[1, C, b - a, W] in channels_last, which is that order; they are not to be changed. `write(a, rows)` puts such rows in
place of those from a on.
"""

import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

from zorse.errors import UserError

Place = Literal["device", "host", "file"]
LEFT = 0.2  # of what is free, for what else the machine does


class MemoryStore:
    """Rows in memory: that of the device `where`, which computes, or of the host."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, where: torch.device):
        self.height, self.device = shape[0], device
        self.kept = torch.empty(shape, dtype=dtype, device=where)

    def read(self, a: int, b: int) -> Tensor:
        return self.kept[None, a:b].to(self.device).permute(0, 3, 1, 2)

    def write(self, a: int, rows: Tensor) -> None:
        self.kept[None, a : a + rows.shape[2]].copy_(rows.permute(0, 2, 3, 1))


class FileStore:
    """Rows in an open file, from `start` on. It is not mapped, or its pages would count as this process's memory."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, file: FileIO, start: int):
        self.height, self.row, self.dtype, self.device = shape[0], shape[1:], dtype, device
        self.file, self.start = file, start

    def read(self, a: int, b: int) -> Tensor:
        rows = torch.empty(1, b - a, *self.row, dtype=self.dtype)
        self._each_piece(a, rows, self.file.readinto)
        return rows.to(self.device).permute(0, 3, 1, 2)

    def write(self, a: int, rows: Tensor) -> None:
        self._each_piece(a, rows.permute(0, 2, 3, 1).to("cpu", self.dtype).contiguous(), self.file.write)

    def _each_piece(self, a: int, rows: Tensor, move: Callable[[memoryview], int]) -> None:
        """move: reads or writes a beginning of what is left, at most 2 GB on Linux, and returns its size."""
        left = memoryview(rows.view(-1).view(torch.uint8).numpy())
        self.file.seek(self.start + a * rows[0, 0].nbytes)
        while left:
            moved = move(left)
            if not moved:
                raise OSError("the temporary file ends too early")
            left = left[moved:]


Store = MemoryStore | FileStore


@contextmanager
def open_stores(
    count: int, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, place: Place
) -> Iterator[list[Store]]:
    """Stores of [height, W, C]. Raises UserError where a file has no room.

    The file has no name, so that it is gone when this ends, and also when the process is killed.
    """
    if place != "file":
        where = device if place == "device" else torch.device("cpu")
        yield [MemoryStore(shape, dtype, device, where) for _ in range(count)]
        return
    size, folder = math.prod(shape) * dtype.itemsize, temporary_folder()
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
            reserve(file, count * size)
        except OSError as error:
            raise UserError(
                f"{folder}: no room for {count * size / 1e9:.2g} GB of temporary files ({error.strerror}); "
                "free some, or set TMPDIR to a folder on a larger disk"
            ) from None
        yield [FileStore(shape, dtype, device, file, i * size) for i in range(count)]


def reserve(file: FileIO, size: int) -> None:
    """Raises OSError where the file system, or a quota on it, has no room for so many bytes."""
    free = os.statvfs(file.fileno())
    if free.f_bavail * free.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of file systems that cannot reserve
                raise


def temporary_folder() -> str:
    """TMPDIR, or else /var/tmp, which lies on a disk where /tmp may lie in memory."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())


def place_for(size: int, working: int, device: torch.device) -> Place:
    """Where stores of `size` bytes in all go: to the device, if its memory also holds `working` bytes, or to the host's
    memory, or into files."""
    if device.type == "cpu":
        return "host" if size + working < (1 - LEFT) * free_memory() else "file"
    if size + working < (1 - LEFT) * free_on(device):
        return "device"
    return "host" if size < (1 - LEFT) * free_memory() else "file"


def free_on(device: torch.device) -> int:
    """Bytes that tensors on a device may still take."""
    if device.type != "cuda":
        return free_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of the host's memory that this process may still take: what is available, or what cgroups leave of it."""
    return max(0, min([psutil.virtual_memory().available, *left_in_cgroups(root)]))


def left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes that each limit on this process leaves, of either version of cgroups; files in memory do not count."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            mount, names = "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "", "")
            names = (*names[:2], "total_inactive_file", "total_active_file")
        else:
            continue
        group = root / mount / path.lstrip("/")
        for folder in (group, *group.parents):  # each has a limit of its own
            limit, used, *files = names
            try:
                most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
                parts = dict(part.split() for part in (folder / "memory.stat").read_text().splitlines())
            except OSError:  # above the mount, or of another namespace
                continue
            if most != "max":
                yield int(most) - now + sum(int(parts[name]) for name in files)
