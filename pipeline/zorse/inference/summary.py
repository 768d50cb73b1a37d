"""The result of a translation command: what happened to each image, and the closing lines."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zorse.errors import UserError

LISTED = 10  # files that failed


class Done(NamedTuple):
    """What became of an image, `where` being what a person is told it is: translated, `failed` for a reason, or there
    already. first_frame: of several that it has."""

    direction: str
    where: str
    failed: str | None = None
    skipped: bool = False
    first_frame: bool = False


@dataclass
class Tally:
    """totals, done: images by direction. left_out: other files, by their endings."""

    totals: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    first_frames: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.done[done.direction] += 1
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

    def print_summary(self, out: Path) -> None:
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
            raise UserError(f"{len(self.failed)} of {self.total} files failed; fix or remove them")
