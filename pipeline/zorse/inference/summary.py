"""The result of a translation command: what happened to each image, and the closing lines."""

import json
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zorse.errors import UserError
from zorse.files import write_quickly
from zorse.terminal import one_line

LISTED = 10  # files that failed
CLIPPED = 0.005  # of an image's values: more than percentiles leave out of most images
FAILED = "failed{}.jsonl"  # in the folder of the translations, each failed file in a line


class Done(NamedTuple):
    """What became of an image, `where` being what a person is told it is: translated, `failed` for a reason, or there
    already. first_frame: of several that it has. clipped: the share of its values outside its domain's range."""

    direction: str
    where: str
    failed: str | None = None
    skipped: bool = False
    first_frame: bool = False
    clipped: float = 0.0


@dataclass
class Tally:
    """totals, done: images by direction. left_out: other files, by their endings."""

    totals: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    first_frames: int = 0
    clipped: list[float] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.done[done.direction] += 1
        self.skipped += done.skipped
        self.first_frames += done.first_frame
        self.clipped += [done.clipped] * (done.clipped > 0)
        if done.failed:
            self.failed.append({"file": done.where, "reason": " ".join(done.failed.split())})

    @property
    def total(self) -> int:
        return sum(self.totals.values())

    def line(self, out: Path) -> str:
        made = self.done.total() - self.skipped - len(self.failed)
        there = f"; {self.skipped} existed already" if self.skipped else ""
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return f"{made} of {self.total} images translated to {out}{there}{failed}"

    def print_summary(self, out: Path) -> None:
        """Say what was done. Raises UserError where images failed, after a list of the first ones; a file lists all."""
        lines = [one_line(f"{failed['file']}: {failed['reason']}") for failed in self.failed]
        if self.total == 1 and self.failed:
            raise UserError(lines[0])
        print(self.line(out))
        if self.first_frames:
            print(f"{self.first_frames} with several frames or pages: the first one was translated")
        if max(self.clipped, default=0) >= CLIPPED:
            print(
                f"warning: in {len(self.clipped)} of {self.total} images some values, at most {max(self.clipped):.1%} "
                "of one, lie outside the range that the networks know; they were taken for its ends"
            )
        if self.left_out:
            kinds = ", ".join(f"{ending} {count}" for ending, count in self.left_out.most_common(LISTED))
            print(f"other files, left out: {self.left_out.total()} ({kinds})", flush=True)
        listed = self.list_failed(out)
        if self.failed:
            shown = LISTED if listed else len(lines)
            more = [f"and {len(lines) - shown} more"] if len(lines) > shown else []
            print(*lines[:shown], *more, sep="\n", file=sys.stderr)
            where = f", all listed in {listed}" if listed else ""
            raise UserError(f"{len(lines)} of {self.total} files failed{where}; fix or remove them")

    def list_failed(self, out: Path) -> Path | None:
        """List all that failed in a file in the folder `out`, in place of an earlier run's list.

        Returns the file, or None where there is nothing to list, or nowhere to write. A single image has no list.
        """
        names = [FAILED.format(number) for number in ("", *(f"-{number}" for number in range(1, 100)))]
        path = next((out / name for name in names if _is_free(out / name)), None)
        if path is None or self.total == 1:
            return None
        with suppress(OSError):
            if not self.failed:
                path.unlink(missing_ok=True)
                return None
            out.mkdir(parents=True, exist_ok=True)
            write_quickly(path, "".join(json.dumps(failed) + "\n" for failed in self.failed))
            return path
        return None


def _is_free(path: Path) -> bool:
    """Whether a list may be written there: there is nothing, or another list."""
    try:
        with path.open() as file:
            first = json.loads(file.readline())
        return set(first) == {"file", "reason"}
    except FileNotFoundError:
        return True
    except (OSError, ValueError, TypeError):
        return False
