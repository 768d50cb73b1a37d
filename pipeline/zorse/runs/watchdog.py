"""Ending a process that hangs."""

import faulthandler
import os
import sys
import threading
import time

from zorse.runs.lock import LOCK_PATIENCE, SILENCE


class Watchdog:
    """Ends this process when no `progress` was made for some time, after writing what each of its threads was doing.

    seconds: the longest a step may take. What else happens, such as a save or the first step, may take four times that,
    and the start as much more as an owner of the run directory is waited for.
    """

    HUNG = 3  # the exit code

    def __init__(self, rank: int, seconds: float):
        self.rank, self.seconds = rank, seconds
        self.progress("start", 0, LOCK_PATIENCE + SILENCE)
        threading.Thread(target=self._watch, daemon=True).start()

    def progress(self, section: str, pair: int, extra: float = 0.0) -> None:
        """Say what begins now: "step", or anything else, which may take `extra` seconds more."""
        allowed = self.seconds if section == "step" else 4 * self.seconds + extra
        self._now = section, pair, allowed, time.monotonic() + allowed

    def _watch(self) -> None:
        while True:
            section, pair, allowed, deadline = self._now
            if time.monotonic() > deadline:
                where = f"rank {self.rank} made no progress for {allowed:g} s, in the {section} at pair {pair}"
                print(f"error: {where}; its stacks follow", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(2)  # until ranks that wait for this one have told the same of themselves
                os._exit(self.HUNG)
            time.sleep(min(1.0, self.seconds / 4))
