"""Processes that hold one object each and do what they are asked over a pipe, one at a time."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LAST_LINES = 4


class WorkerError(Exception):
    """A worker that ended while it was asked something; the text says how, with the last lines that it printed."""


class Worker:
    """A process that calls `make` and holds what it returns. What it prints goes into `log`."""

    def __init__(self, name: str, make: Callable[[], Any], log: Path):
        self.name, self.log = name, log
        log.touch()
        context = get_context("spawn")  # CUDA does not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, str(log)))
        self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments) -> Any:
        """What a method of the held object returns. Raises WorkerError if the process ends instead."""
        try:
            self.pipe.send((method, arguments))
            wait([self.pipe, self.process.sentinel])
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            pass
        self.close()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last = "".join(f"\n  {line}" for line in lines[-LAST_LINES:])
        raise WorkerError(f"{self.name} {_ending(self.process.exitcode)} in {method!r}; its last lines:{last}")

    def close(self) -> None:
        self.pipe.close()
        self.process.join(5)
        self.process.kill()
        self.process.join()


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: Connection, make: Callable[[], Any], log: str) -> None:
    """Answer until the other end closes. An exception ends the process, its traceback being the log's last lines."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    held = make()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(held, method)(*arguments))


@contextmanager
def workers(makers: dict[str, Callable[[], Any]]) -> Iterator[dict[str, Worker]]:
    """One worker for each name, all ended on leaving."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = {}
        for number, (name, make) in enumerate(makers.items()):
            started[name] = Worker(name, make, folder / f"{number}.log")
            stack.callback(started[name].close)
        yield started
