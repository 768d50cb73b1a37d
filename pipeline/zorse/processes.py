"""The processes of a run: what rank 0 does for all of them, which signals stop them, and who outlives whom."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from zorse.errors import TransientError, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
# Slurm's warning before a time limit, its preemption and Kubernetes' eviction, a person's Ctrl-C, a closed terminal.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # set by accelerate launch and torchrun
TRUE = ("1", "true", "yes", "on", "y", "t")  # as accelerate reads its variables
SET_PARENT_DEATH_SIGNAL = 1  # as linux/prctl.h numbers it
# Who started this process. Noted when it is imported, before the seconds that torch takes, in which it may be killed.
_parents = {os.getpid(): os.getppid()}


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


def launcher_is_gone() -> bool:
    """Whether accelerate launch or torchrun started this process, and has ended since."""
    parent = _parents.setdefault(os.getpid(), os.getppid())  # a notebook's launcher forks after the import
    return parent != os.getppid() and any(name in os.environ for name in LAUNCHED)


def on_signals(act: Callable | signal.Handlers) -> None:
    """Have SIGNALS call `act` from now on; signal.SIG_IGN ignores them.

    A hangup that is ignored, as under nohup, stays so. In a thread nothing changes, since only the main thread, and so
    the program that it belongs to, may set what signals do.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, act)


def become_data_worker(number: int = 0) -> None:
    """Ignore SIGNALS, and end with the trainer, however it ends.

    The whole process group gets a signal, and it is the trainer that says when its workers end. One that outlived a
    killed trainer would hold the lock of its run directory for seconds.
    """
    on_signals(signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere torch looks every 5 seconds whether the trainer is there
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
