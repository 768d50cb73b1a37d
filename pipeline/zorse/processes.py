"""The processes of a run: signals that they leave to others."""

import signal

# Slurm's warning before a time limit, its preemption and Kubernetes' eviction, a person's Ctrl-C.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def ignore_signals(worker: int = 0) -> None:
    """For data workers, which get the signals of their process group: their trainer says when they end. And for a
    trainer that is leaving."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
