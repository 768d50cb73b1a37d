"""Ending a process that hangs, after it has printed where; the launcher then ends the other ranks."""

import faulthandler
import os
import sys
import threading
import time

from zorse.runs.lock import LOCK_PATIENCE, SILENCE


class Watchdog:
    """Ends this process when `progress` was not called for too long, after printing the stacks of all threads.

    seconds: the longest that a step may take. Anything else, such as a checkpoint or the first step, may take four
    times that, and the start also the time to wait for another owner of the run directory.
    """

    HUNG = 3  # the exit code

    def __init__(self, rank: int, seconds: float):
        self.rank, self.seconds = rank, seconds
        self.progress("start", 0, LOCK_PATIENCE + SILENCE)
        threading.Thread(target=self._watch, daemon=True).start()

    def progress(self, section: str, pair: int, extra: float = 0.0) -> None:
        """Report that a section begins: "step", or any other name, which may take `extra` seconds more."""
        allowed = self.seconds if section == "step" else 4 * self.seconds + extra
        self._now = section, pair, allowed, time.monotonic() + allowed

    def _watch(self) -> None:
        while True:
            section, pair, allowed, deadline = self._now
            if time.monotonic() > deadline:
                where = f"rank {self.rank} made no progress for {allowed:g} s, in the {section} at pair {pair}"
                print(f"error: {where}; its stacks follow", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(2)  # lets ranks that wait for this one print their stacks, too
                os._exit(self.HUNG)
            time.sleep(min(1.0, self.seconds / 4))
