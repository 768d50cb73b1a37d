"""Stopping a run from outside: a signal becomes a wish, and all ranks act on it between the same two steps."""

import os
import signal
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

# Slurm's warning before a time limit, its preemption and Kubernetes' eviction, a person's Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Takes the signals of this process from its making on.

    On several ranks the wish travels by a reduction on the CPU that runs while the next step is computed, so that
    nobody waits for it, and all ranks learn of it at the same step.
    """

    def __init__(self, world_size: int):
        self._received = 0
        self._pending = None
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._received = number

    def agreed(self) -> int:
        """The signal on which all ranks stop now, 0 for none. To be called once between steps, by every rank."""
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


def ignore_signals(worker: int) -> None:
    """For data workers, which get the signals of their process group: their trainer says when they end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def journal(event: str) -> None:
    """Tell the batch script, if one asked by naming a file in ZORSE_JOURNAL; exit codes do not reach it whole."""
    path = os.environ.get("ZORSE_JOURNAL")
    if path:
        with Path(path).open("a") as file:
            file.write(event + "\n")
