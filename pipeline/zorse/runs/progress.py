"""What a person sees in the terminal: the plan, progress as a live bar or as plain lines, the closing table."""

import logging
import os
import sys
from contextlib import suppress
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from zorse.terminal import is_command, itself, plain_console

log = logging.getLogger("zorse.run")
ECHO = 3  # columns left free for the ^C that a terminal shows, which would begin another line


class BestEffortStdout:
    """Standard output that a run outlives: what a closed terminal or pipe cannot take is dropped."""

    def __init__(self):
        self.file = itself(sys.stdout)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.file.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.file.flush()

    @property
    def encoding(self) -> str:
        return self.file.encoding or "utf-8"

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


class _Bar(Progress):
    """A bar as wide as the terminal allows, with counts and times that are always there, and below it the losses."""

    def __init__(self, console):
        counts = "{task.completed:,.0f}/{task.total:,.0f} pairs", "{task.percentage:.0f} %", "{task.fields[speed]}"
        columns = [TextColumn(text, markup=False) for text in counts]
        self.stopping = ""
        super().__init__(BarColumn(None, table_column=Column(ratio=1)), *columns, console=console, expand=True)

    def get_renderables(self):
        yield from super().get_renderables()
        for task in self.tasks:
            line = Text(self.stopping or task.fields["doing"] or task.fields["losses"])
            line.truncate(self.console.width - ECHO, overflow="ellipsis")
            yield line


class Display:
    """Progress for a person: a live bar on a terminal, one plain line per status elsewhere.

    In a program that uses Zorse, each line goes to the logger "zorse.run" instead. silent: shows nothing, as on all
    ranks but the first.
    """

    def __init__(self, total_pairs: int, silent: bool = False):
        self.shown, self.silent = is_command() and not silent, silent
        self.console = plain_console(file=BestEffortStdout(), quiet=not self.shown, soft_wrap=True)
        self.total = total_pairs
        self.bar = None
        if self.shown and self.console.is_terminal:
            self.bar = _Bar(self.console)
            self.task = self.bar.add_task("", total=total_pairs, speed="starting", losses="", doing="")

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stopping = ""
            self.bar.stop()

    def note(self, line: str) -> None:
        """Show a line."""
        if self.shown:
            self.console.print(line)
        elif not self.silent:
            log.log(logging.WARNING if line.startswith("warning: ") else logging.INFO, "%s", line)

    def doing(self, what: str) -> None:
        """Show what happens between two steps, until the next one."""
        if self.bar:
            self.bar.update(self.task, doing=what)

    def stopping(self, what: str) -> None:
        """Show that the run is about to stop. For a signal's handler: it takes no lock."""
        if self.bar:
            self.bar.stopping = what
        elif self.shown and os.isatty(2):
            os.write(2, f"\n{what}\n".encode())

    def advance(self, pairs_seen: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=min(pairs_seen, self.total), doing="")

    def status(self, record: dict) -> None:
        """Show a record of stats.jsonl: beside and below the bar, or in one line."""
        speed = record["pairs_per_second"]
        left = timedelta(seconds=round(max(0, self.total - record["pairs"]) / speed))

        def mean(kind: str) -> float:
            values = [value for name, value in record.items() if name.startswith(kind)]
            return sum(values) / len(values)

        losses = [("G", "adversarial"), ("D", "discriminator"), ("cycle", "cycle"), ("identity", "identity")]
        present = [(title, kind) for title, kind in losses if any(name.startswith(kind) for name in record)]
        pace = f"{speed:.1f} pairs/s  {left} left"
        means = "  ".join(f"{title} {mean(kind):.3f}" for title, kind in present)
        means += f"  data wait {record['data_wait']:.0%}"
        if "peak_memory_gb" in record:
            means += f"  peak {record['peak_memory_gb']:.1f} GB"
        if self.bar:
            done = min(record["pairs"], self.total)
            self.bar.update(self.task, completed=done, speed=pace, losses=f"epoch {record['epoch']:.2f}  {means}")
        else:
            self.note(f"{record['pairs']:>9}/{self.total} pairs  epoch {record['epoch']:.2f}  {pace}  {means}")
