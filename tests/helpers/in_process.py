"""A command of ours, run in this process: what a process of its own would print, without its seconds of imports.

What a process has to itself, the run has to itself, too: arguments, working directory, environment, streams, signal
handlers, hooks, what is done at its end, the states of accelerate and torch. The one exception is the watchdog of
training, which would end this process: only a process of its own shows what it does.
"""

import atexit
import contextlib
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from unittest import mock

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python has it by default


class _Left(BaseException):
    """What os._exit does here."""

    def __init__(self, code):
        self.code = code


def run_here(script: Path, arguments: list, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """`python SCRIPT ARGUMENTS` in this process, to its end."""
    stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="\n", write_through=True)
        for errors in ("strict", "backslashreplace")
    )
    arguments = [str(part) for part in arguments]
    with contextlib.ExitStack() as stack:
        for what in (_restored(), contextlib.chdir(cwd), mock.patch.dict(os.environ, environment)):
            stack.enter_context(what)
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        code = _run(script)
    streams = [stream.buffer.getvalue().decode("utf-8") for stream in (stdout, stderr)]
    return subprocess.CompletedProcess([str(script), *arguments], code, *streams)


def _run(script: Path) -> int:
    """The exit code."""
    at_end = []

    def register(function, *given, **named):
        at_end.append(lambda: function(*given, **named))
        if hasattr(owner := getattr(function, "__self__", None), "_lock"):
            at_end[-1:] = [owner._lock.close, at_end[-1]]  # what else holds it is a thread that outlives the run

    this, leave_process = os.getpid(), os._exit

    def leave(code):
        if os.getpid() != this:  # a data worker, which was forked: it does end here, and does not go on as pytest
            leave_process(code)
        raise _Left(code)

    with mock.patch.object(atexit, "register", register), mock.patch.object(os, "_exit", leave):
        try:
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        except (SystemExit, _Left) as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        for function in reversed(at_end):
            function()
    return code or 0


@contextlib.contextmanager
def _restored():
    """Begin as a new process does, and leave this one as it was."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    from zorse.processes import SIGNALS
    from zorse.runs import failure
    from zorse.runs.watchdog import Watchdog

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    hooks, threads = (sys.excepthook, threading.excepthook), torch.get_num_threads()
    with (
        mock.patch.dict(os.environ),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        mock.patch.object(Watchdog, "_watch", lambda self: None),
        mock.patch.object(failure, "_started", time.time()),
        mock.patch.multiple(logging.getLogger("zorse"), handlers=[], propagate=True),
    ):
        _show_warnings()
        _forget()
        torch.set_num_threads(1)
        torch.manual_seed(0)
        try:
            yield
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            torch.set_num_threads(threads)
            sys.excepthook, threading.excepthook = hooks
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _forget()


def _show_warnings() -> None:
    """On stderr, as Python does, and not to pytest."""

    def show(message, category, file, line, _=None, text=None):
        sys.stderr.write(warnings.formatwarning(message, category, file, line, text))

    warnings.showwarning = show
    warnings.resetwarnings()
    for category in QUIET:
        warnings.simplefilter("ignore", category)


def _forget() -> None:
    """What our modules keep of files that they have read."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("zorse", "zorse_prep"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
