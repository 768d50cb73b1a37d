"""Ending a process that hangs, after it has printed where; the launcher then ends the other ranks."""

import faulthandler
import os
import signal
import sys
import threading
import time

from zorse.processes import launcher_is_gone
from zorse.runs.lock import LOCK_PATIENCE, SILENCE

START = "start"  # the section before the first that is reported


class Watchdog:
    """Ends this process when `progress` was not called for too long, after printing the stacks of all threads.

    seconds: the longest that a step may take. Anything else, such as a checkpoint or the first step, may take four
    times that, and the start also the time to wait for another owner of the run directory. The time in which the whole
    process stood still, as after Ctrl-Z, does not count. During the start, when there is nothing to save yet, it also
    ends a process whose launcher is gone; later that is up to StopRequest.
    """

    HUNG = 3  # the exit code

    def __init__(self, rank: int, seconds: float):
        self.rank, self.seconds, self._ended = rank, seconds, threading.Event()
        self.progress(START, 0, LOCK_PATIENCE + SILENCE)
        threading.Thread(target=self._watch, daemon=True).start()

    def progress(self, section: str, pair: int, extra: float = 0.0) -> None:
        """Report that a section begins: "step", or any other name, which may take `extra` seconds more."""
        allowed = self.seconds if section == "step" else 4 * self.seconds + extra
        self._now = section, pair, allowed

    def end(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _watch(self) -> None:
        pause, last, waited, looked_at = min(1.0, self.seconds / 4), time.monotonic(), 0.0, None
        while not self._ended.wait(pause):
            # A pause that took much longer is one in which this process was stopped.
            since, last = time.monotonic() - last, time.monotonic()
            now = self._now
            waited, looked_at = waited + min(since, 2 * pause) if now is looked_at else 0.0, now
            section, pair, allowed = now
            if section == START and launcher_is_gone():
                print(
                    "error: the launcher exited during start-up, so this process exits, too",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(128 + signal.SIGTERM)
            if waited > allowed:
                where = f"rank {self.rank} made no progress for {allowed:g} s, in the {section} at pair {pair}"
                print(f"error: {where}; its stacks follow", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(2)  # lets ranks that wait for this one print their stacks, too
                os._exit(self.HUNG)
