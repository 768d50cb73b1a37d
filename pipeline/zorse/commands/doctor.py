"""What would fail, before an allocation burns: accelerate launch pipeline/doctor.py [the options of train.py]."""

import os
import sys

from rich.console import Console
from rich.table import Table

from zorse.config.command_line import parse
from zorse.errors import OneRankError, UserError
from zorse.training.preflight import BAD, examine

WHAT = "Look for what would fail in a training run with these options: machines, data, a step, memory, disk, length."


def main() -> None:
    """Exit codes: 0 nothing would fail, 1 something would, 2 a mistake in the options or the data, 130 Ctrl-C."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        findings = examine(parse(sys.argv[1:], "doctor.py", WHAT))
    except (UserError, OSError) as error:
        if rank == 0 or isinstance(error, OneRankError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        # At once where ranks differ: leaving in an orderly way may wait for the others.
        leave = os._exit if isinstance(error, OneRankError) else sys.exit
        leave(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    if rank == 0:
        table = Table.grid(padding=(0, 3))
        for finding in findings:
            table.add_row(*finding)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 200
        console.print(table)
    sys.exit(any(finding.verdict == BAD for finding in findings))
