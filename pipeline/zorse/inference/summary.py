"""What a person is told of a translation: what became of many images, and how far a large one is."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zorse.errors import UserError
from zorse_prep import display

LISTED = 10  # files that failed


class Done(NamedTuple):
    """What became of an image, `where` being what a person is told it is: translated, `failed` for a reason, or there
    already. first_frame: of several that it has."""

    way: str
    where: str
    failed: str | None = None
    skipped: bool = False
    first_frame: bool = False


@dataclass
class Tally:
    """totals, done: images by way. left_out: other files, by their endings."""

    totals: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    first_frames: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.done[done.way] += 1
        self.skipped += done.skipped
        self.first_frames += done.first_frame
        if done.failed:
            self.failed.append(f"{done.where}: {' '.join(done.failed.split())}")

    @property
    def total(self) -> int:
        return sum(self.totals.values())

    def line(self, out: Path) -> str:
        made = self.done.total() - self.skipped - len(self.failed)
        there = f"; {self.skipped} were there already" if self.skipped else ""
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return f"{made} of {self.total} images translated to {out}{there}{failed}"

    def tell(self, out: Path) -> None:
        """Say what was done. Raises UserError where images failed, after a list of the first ones."""
        if self.total == 1 and self.failed:
            raise UserError(self.failed[0])
        print(self.line(out))
        if self.first_frames:
            print(f"{self.first_frames} with several frames or pages: the first one was translated")
        if self.left_out:
            kinds = ", ".join(f"{ending} {count}" for ending, count in self.left_out.most_common(LISTED))
            print(f"other files, left out: {self.left_out.total()} ({kinds})", flush=True)
        if self.failed:
            more = len(self.failed) - LISTED
            print(*self.failed[:LISTED], *([f"and {more} more"] if more > 0 else []), sep="\n", file=sys.stderr)
            raise UserError(f"{len(self.failed)} of {self.total} files failed; mend or remove them")


@contextmanager
def bands_shown() -> Iterator[Callable[[int, int], None]]:
    """Yields show(done, total) for the bands of one large image: a bar on a terminal, and elsewhere a line at times."""
    columns = TextColumn("bands"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(), transient=True, disable=not sys.stdout.isatty()) as bars:
        row, started = bars.add_task("", total=None, visible=False), time.monotonic()
        shown = started

        def show(done: int, total: int) -> None:
            nonlocal shown
            bars.update(row, completed=done, total=total, visible=True)
            if bars.disable and time.monotonic() - shown > display.LINE_SECONDS:
                shown = time.monotonic()
                left = timedelta(seconds=round((shown - started) * (total - done) / done))
                print(f"{done} of {total} bands, {left} left", flush=True)

        yield show
