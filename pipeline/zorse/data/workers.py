"""Worker processes of a data loader: how they hand images over, how they end, and what is told of their troubles."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zorse.errors import OneRankError, TransientError

DEV_SHM = Path("/dev/shm")
SHARED_MEMORY = "give it more (docker run --shm-size 1g; in Kubernetes an emptyDir of medium Memory at /dev/shm)"


def handed_over(batch: dict) -> dict:
    """A message as a worker sends it: tensors in shared memory, or where that is full arrays, which go through a pipe.

    Done here and not by the loader, whose thread would print a traceback and lose the message.
    """
    images = {name: batch[name] for name in ("a", "b")}
    try:
        if has_room(sum(tensor.nbytes for tensor in images.values())):
            for tensor in images.values():
                tensor.share_memory_()
            return batch
    except RuntimeError as error:  # another process took the room
        if "No space left" not in str(error):
            raise
        if left := re.search(r"</(torch_\w+)>", str(error)):  # an empty file, which torch leaves there for good
            (DEV_SHM / left[1]).unlink(missing_ok=True)
    return batch | {name: tensor.numpy() for name, tensor in images.items()}


def has_room(size: int) -> bool:
    """Whether shared memory holds so many bytes, and enough is left for the locks of other ranks' workers and NCCL."""
    if not DEV_SHM.is_dir():  # as on macOS
        return True
    there = shutil.disk_usage(DEV_SHM)
    return there.free - size > max(there.total / 8, 2**20)


def as_sent(message: dict) -> dict:
    return message


def forget_unmade(error: Exception) -> None:
    """Drop what an error's traceback holds. A loader that could not be made complains when it is dropped: unheard."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    error.__traceback__ = None
    sys.unraisablehook = hook


@contextmanager
def workers_explained() -> Iterator[None]:
    """Raise as a OneRankError what torch raises about data workers.

    The death of one becomes a RuntimeError wherever this process is at that moment, so that this belongs around
    everything that is done while there are workers.
    """
    try:
        yield
    except RuntimeError as error:
        if line := explained(error):
            raise line from None
        raise


def explained(error: RuntimeError) -> OneRankError | None:
    """The line for an error about data workers, None for any other. A death is a TransientError."""
    text = str(error)
    if "Too many open files" in text or "ancdata" in text:
        return OneRankError(
            "the data workers hit the limit of open files; raise it (ulimit -n), or give fewer --workers"
        )
    if not (worker := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", text)):
        return None
    if "Bus error" in text:
        return TransientError(f"a data worker ran out of shared memory; {SHARED_MEMORY}, or give fewer --workers")
    killed = re.search(r"killed by signal: ([\w ]+)", text)
    how = f"was ended by a signal ({killed[1]})" if killed else "ended unexpectedly"
    fix = "if the system ran out of memory (see its log), add memory or give fewer --workers"
    return TransientError(f"a data worker, process {worker[1]}, {how}; {fix}")


def end_workers(messages: Iterator) -> None:
    """End a loader's workers, whatever they are doing.

    Nothing else may do it: an exception that somebody keeps holds the loader, too, and Python's exit would wait for
    ever for a process that ignores SIGTERM.
    """
    try:
        messages._shutdown_workers()  # in an orderly way, for some seconds
    finally:
        for worker in messages._workers:
            worker.kill()
            worker.join()
