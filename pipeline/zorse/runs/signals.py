"""Ending a run that is told to stop, or that hangs.

A signal becomes a wish, on which all ranks act between the same two steps. A rank that makes no progress says where it
hangs and ends itself; the launcher then ends the others.
"""

import os
import signal
from types import FrameType

import torch
import torch.distributed as dist

from zorse.processes import SIGNALS

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
