"""Ending a run that is told to stop, or that hangs.

A signal becomes a wish, on which all ranks act between the same two steps. A rank that makes no progress says where it
hangs and ends itself; the launcher then ends the others.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType

import torch
import torch.distributed as dist

from pipeline.ownership import LOCK_PATIENCE, SILENCE

# Slurm's warning before a time limit, its preemption and Kubernetes' eviction, a person's Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # set by accelerate launch and torchrun


class StopRequest:
    """Takes the signals of this process from its making on.

    On several ranks the wish travels by a reduction on the CPU that runs while the next step is computed, so that
    nobody waits for it, and all ranks learn of it at the same step. A launcher that is gone counts as SIGTERM, so that
    a killed one leaves no trainer behind.
    """

    def __init__(self, world_size: int):
        self._received = 0
        self._pending = None
        self._launcher = os.getppid() if any(name in os.environ for name in LAUNCHED) else None
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._received = number

    def agreed(self) -> int:
        """The signal on which all ranks stop now, 0 for none. To be called once between steps, by every rank."""
        if self._launcher not in (None, os.getppid()):
            self._received = self._received or signal.SIGTERM
        if self._group is None:
            return self._received
        agreed = 0
        if self._pending:
            wish, work = self._pending
            work.wait()
            agreed = int(wish)
        wish = torch.tensor(self._received)
        self._pending = wish, dist.all_reduce(wish, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed


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


def ignore_signals(worker: int = 0) -> None:
    """For data workers, which get the signals of their process group: their trainer says when they end. And for a
    trainer that is leaving."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
