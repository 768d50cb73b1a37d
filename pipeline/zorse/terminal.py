"""What a person sees of a command in the terminal: text and tables, and at the end its last line and exit code.

No text of a user's is ever markup here, and no control character of it, such as a file's name may hold, gets through.
"""

import errno
import io
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

from rich.console import Console
from rich.text import Text

from zorse.errors import OneRankError, UserError, of_system
from zorse.invocation import NAMES

REPORT_WIDTH = 200  # characters of a line in a log, where tables should not be broken
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
STOPPED = "stopped; run the same command again to finish"
CTRL_C, READER_GONE = 130, 141  # exit codes, 128 + the signal, as shells have them

# Control characters but for tab and newline, and those that turn the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Commands in a message, which are there to be pasted: how they begin, and words that can be their arguments.
COMMANDS = re.compile(
    rf"""(?<!\S)(\S*\bzorse[ ]({"|".join(NAMES)})\b | (\S*python[0-9.]*[ ])?\S+\.py\b | \S*pip[ ]install\b
    | accelerate[ ]launch\b | \S*launch/\S+ | make[ ](install|demo|gpu-\w+))
    ((?<![;,)])[ ](?!(explains|to|and|or|in|has|holds)\b)('[^']*'|\S)+)*""",
    re.VERBOSE,
)
# What progress bars of libraries write between their texts, to move from line to line.
MOVES = re.compile(r"(\n|\x1b\[A)*")


def run_command(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and end the process: a mistake becomes one line on stderr and an exit code, never a traceback.

    command: returns its exit code, None for 0. A UserError has its own exit code; an OSError exits with 2; Ctrl-C with
    130, after the text of the KeyboardInterrupt, if any; a reader of stdout that went away with 141. Of several ranks,
    the first one prints the line, except for a OneRankError, which the rank that met it prints.
    """
    protect_terminal()
    try:
        code = command() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READER_GONE
    except (UserError, OSError) as error:
        code = _report(error)
        if isinstance(error, OneRankError) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sys.stdout.flush()
            os._exit(code)  # at once: leaving in an orderly way may wait for the other ranks
    except KeyboardInterrupt as stop:
        if _is_first_rank():
            print(str(stop) or STOPPED, file=sys.stderr, flush=True)
        code = CTRL_C
    sys.exit(code)


def protect_terminal() -> None:
    """From now on, show what is printed to stdout and stderr as text alone, and on stderr what our loggers are told.

    For commands of ours. In a program that uses Zorse, logging.getLogger("zorse") is its to show or to silence.
    """
    if not is_command():
        log = logging.getLogger("zorse")
        log.addHandler(_ToStderr())
        log.propagate = False
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no UTF-8
            setattr(sys, name, _TextOnly(stream))


class _ToStderr(logging.Handler):
    """Each record as a line of its message alone."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def is_command() -> bool:
    """Whether this process is a command of ours, which has the terminal to itself, and no program that uses Zorse."""
    return any(isinstance(handler, _ToStderr) for handler in logging.getLogger("zorse").handlers)


def printable(text: str) -> str:
    """Text whose control characters are shown as Python writes them, such as \\x1b; tabs and newlines stay."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Like `printable`, for what is one line, or a part of one: a file's name may hold newlines, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


class _TextOnly:
    """A stream for text without control characters. rich writes to the stream itself, with what moves and colours."""

    def __init__(self, stream: TextIO):
        self.rich_proxied_file = stream  # the name that rich looks for

    def write(self, text: str) -> int:
        start = text if MOVES.fullmatch(text) else "\r" if text.startswith("\r") else ""
        return self.rich_proxied_file.write(start + printable(text[len(start) :]))

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self.rich_proxied_file, name)


class _PlainConsole(Console):
    """A console that takes no text for markup, and lets no control character through."""

    def render_str(self, text: str, **options) -> Text:
        plain = {"markup": False, "emoji": False, "highlight": False, "highlighter": None}
        return super().render_str(printable(text), **{**options, **plain})


def plain_console(**options) -> Console:
    """A console of rich's for tables and lines, on stdout unless it is given a `file`; see the head of this file."""
    return _PlainConsole(**{"file": itself(sys.stdout), **options})


def itself(stream: TextIO) -> TextIO:
    """A stream below what keeps control characters from it, for those who need them: rich, and what shows help."""
    while hasattr(stream, "rich_proxied_file"):
        stream = stream.rich_proxied_file
    return stream


def _report(error: UserError | OSError) -> int:
    """Print a mistake's line, and return its exit code."""
    if isinstance(error, UserError):
        line, code = str(error), error.exit_code
    else:
        fix = "free disk space or fix permissions" if error.errno in OF_THE_DISK else "fix this"
        line, code = f"{of_system(error)}; {fix}, and run the same command again", 2
    line = error_line(line)
    if _is_first_rank() or isinstance(error, OneRankError):
        print_error(line)
    tell_launcher(line)
    return code


def error_line(text: object) -> str:
    """An error as one line."""
    return f"error: {' '.join(str(text).split())}"


def print_error(line: str) -> None:
    """Print an error on stderr, in one line; on a terminal broken between words, but for those of a command."""
    if itself(sys.stderr).isatty():
        width, line = shutil.get_terminal_size().columns, COMMANDS.sub(lambda found: found[0].replace(" ", "\0"), line)
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False).replace("\0", " ")
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more, or a disk is full; the exit code is still ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def tell_launcher(line: str) -> None:
    """Have torchrun, which speaks last where it launched this rank, name `line` as the cause in its report."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        message = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):  # the line itself has been printed
            Path(path).write_text(json.dumps({"message": message}))


def _is_first_rank() -> bool:
    rank = os.environ.get("RANK", "")
    return not rank.isdecimal() or int(rank) == 0


def report_console() -> Console:
    """A console for tables: as wide as the terminal, and in a log wide enough to break no line."""
    console = plain_console()
    if not console.is_terminal:
        console.width = REPORT_WIDTH
    return console
