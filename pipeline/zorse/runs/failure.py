"""How a failing rank reports it: each launch shows its first failure, not the thousand that follow from it."""

import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

from zorse.errors import first_sentence
from zorse.files import write_quickly
from zorse.runs.lock import superseded

FILE = "failure.txt"
WAIT = 2.0  # seconds that a rank which only lost contact waits for the rank that knows why
_started = time.time()


def start(out: Path) -> None:
    """Age, on rank 0, what an earlier launch left: clocks differ, and it must not pass for a report of this one."""
    with suppress(OSError):
        if (left := (out / FILE).stat().st_mtime) <= _started:
            os.utime(out / FILE, (left - 2, left - 2))


def report(error: Exception, out: Path | None, rank: int) -> str:
    """What this rank should print about an error: nothing if another rank has reported one already.

    The first report is kept in failure.txt. A lost connection to another rank is a consequence, and is reported only
    when no rank reports its cause.
    """
    if not _lost_contact(error):
        text = f"rank {rank} failed:\n{''.join(traceback.format_exception(error))}"
        return text if claim_failure_report(out, text) else ""
    deadline = time.monotonic() + WAIT
    while out and time.monotonic() < deadline:
        if _is_from_this_launch(out / FILE):
            return ""
        time.sleep(0.1)
    text = f"error: rank {rank} lost contact with another rank, which perhaps was killed ({first_sentence(error)})\n"
    return text if claim_failure_report(out, text) else ""


def claim_failure_report(out: Path | None, text: str) -> bool:
    """Whether this is the first failure of this launch; then `text` is kept in the run directory."""
    if out is None or not out.is_dir():
        return True
    if superseded(out):
        return False
    file = out / FILE
    try:
        if file.exists() and not _is_from_this_launch(file):
            file.unlink(missing_ok=True)
        file.open("x").close()  # the first one makes it, and then fills it at once
        write_quickly(file, text)
    except FileExistsError:
        return False
    except OSError:
        pass  # a report that cannot be kept is still shown
    return True


def _is_from_this_launch(file: Path) -> bool:
    """Whether the file was written by this launch, give or take a second, by which clocks may differ."""
    try:
        return _started - 1 < file.stat().st_mtime < time.time() + 1
    except OSError:
        return False


def _lost_contact(error: Exception) -> bool:
    from torch.distributed import DistError  # here, since options are checked before the seconds that torch takes

    return isinstance(error, DistError) or "gloo" in str(error)
