"""The processes of a run: what rank 0 does for all of them, and the signals that data workers ignore."""

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from zorse.errors import TransientError, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
# Slurm's warning before a time limit, its preemption and Kubernetes' eviction, a person's Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def from_rank0(call: Callable[[], T], accelerator: "Accelerator") -> T:
    """Call on rank 0 alone, and return its result on every rank.

    A UserError ends all ranks: it is raised on rank 0, which prints it, and the others exit with the same code.
    """
    from accelerate.utils import broadcast_object_list

    found = problem = None
    if accelerator.is_main_process:
        try:
            found = call()
        except UserError as error:
            problem = error
    found, problem = broadcast_object_list([found, problem])
    if problem is None:
        return found
    if accelerator.is_main_process:
        raise problem
    sys.exit(1 if isinstance(problem, TransientError) else 2)


def rank0_first(call: Callable[[], T], accelerator: "Accelerator") -> T:
    """Call on every rank, once rank 0 has succeeded, such as in a download. A UserError there ends all ranks."""
    mine = []
    from_rank0(lambda: mine.append(call()), accelerator)
    return mine[0] if mine else call()


def ignore_signals(worker: int = 0) -> None:
    """Ignore SIGNALS from now on.

    Data workers do so since the whole process group gets a signal, and their trainer says when they end; a trainer does
    so when it is leaving.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
