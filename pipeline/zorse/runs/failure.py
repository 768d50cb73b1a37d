"""How a rank that fails says so: a start shows its first failure, and not the thousand that follow from it."""

import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

from zorse.errors import first_sentence
from zorse.runs.lock import superseded

FILE = "failure.txt"
WAIT = 3.0  # seconds that a rank which only lost contact waits for the one that knows why
_started = time.time()


def start(out: Path) -> None:
    """On rank 0: what an earlier start left may be as young as clocks differ, and must not pass for this one's."""
    with suppress(OSError):
        if (left := (out / FILE).stat().st_mtime) <= _started:
            os.utime(out / FILE, (left - 2, left - 2))


def report(error: Exception, out: Path | None, rank: int) -> str:
    """What this rank is to print of an error: nothing when another has told already. The first is kept in failure.txt.

    A lost connection to another rank is a consequence: it is told only when nobody tells its cause.
    """
    if not _lost_contact(error):
        text = f"rank {rank} failed:\n{''.join(traceback.format_exception(error))}"
        return text if first(out, text) else ""
    deadline = time.monotonic() + WAIT
    while out and time.monotonic() < deadline:
        if _told(out / FILE):
            return ""
        time.sleep(0.1)
    text = f"error: rank {rank} lost contact with another rank, which perhaps was killed ({first_sentence(error)})\n"
    return text if first(out, text) else ""


def first(out: Path | None, text: str) -> bool:
    """Whether no rank of this start has failed before; then keeps `text` in the run directory."""
    if out is None or not out.is_dir():
        return True
    if superseded(out):
        return False
    file = out / FILE
    try:
        if file.exists() and not _told(file):
            file.unlink(missing_ok=True)
        with file.open("x") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    except OSError:
        pass  # what cannot be kept can be shown
    return True


def _told(file: Path) -> bool:
    """Whether the file stems from this start. A second for clocks that differ."""
    try:
        return _started - 1 < file.stat().st_mtime < time.time() + 1
    except OSError:
        return False


def _lost_contact(error: Exception) -> bool:
    from torch.distributed import DistError  # here, since options are checked before the seconds that torch takes

    return isinstance(error, DistError) or "gloo" in str(error)
