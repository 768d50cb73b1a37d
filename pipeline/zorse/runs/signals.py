"""Stopping a run on a signal: it sets a stop flag, and all ranks agree on it and stop after the same step."""

import signal
from collections.abc import Callable
from types import FrameType

import torch
import torch.distributed as dist

from zorse.processes import launcher_is_gone, on_signals

STOPPING = "stopping after this step; another Ctrl-C ends at once, without saving"


class StopRequest:
    """The stop flag of this process, set by a signal from the moment this is made.

    On several ranks the flags are all-reduced on the CPU while the next step is computed, so that nobody waits for it,
    and all ranks see the result at the same step. A launcher that is gone counts as SIGTERM, so that a killed launcher
    leaves no trainer behind. In a thread of another program no signal sets the flag. tell: is called with STOPPING at
    the first Ctrl-C, in the signal's handler.
    """

    def __init__(self, world_size: int, tell: Callable[[str], None]):
        self._received, self._tell = 0, tell
        self._pending = None
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None
        on_signals(self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C aborts at once
        if not self._received and number == signal.SIGINT:
            self._tell(STOPPING)
        self._received = number

    def agreed(self) -> int:
        """The signal on which all ranks stop now, 0 for none. Every rank must call this once between two steps."""
        if launcher_is_gone():
            self._received = self._received or signal.SIGTERM
        if self._group is None:
            return self._received
        agreed = 0
        if self._pending:
            flag, work = self._pending
            work.wait()
            agreed = int(flag)
        flag = torch.tensor(self._received)
        self._pending = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed
