"""HTML pages that need no network: of a run, which the trainer renews, too, and of runs side by side: report.py RUN."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zorse.config.command_line import options_of
from zorse.config.schema import optional
from zorse.errors import UserError
from zorse.files import check_file
from zorse.invocation import usage
from zorse.runs.report_page import is_report, write_comparison, write_report
from zorse.terminal import run_command

COMPARISON = Path("comparison.html")


@dataclass(frozen=True)
class Options:
    """Write one self-contained page about a run: curves, samples through time, evaluations, events, options. Or about
    several runs, to compare them."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    """directory of a run, which may still be training; several to compare them"""
    out: Annotated[Path | None, optional("PATH")] = None
    """HTML file to write; of existing files, only such a page is replaced; by default RUN/report.html, and for several
    runs comparison.html here"""


def report(options: Options) -> None:
    """Write the page. Raises UserError where there is no run."""
    if not options.runs:
        raise UserError("no run; give one or more run directories")
    out = options.out or (COMPARISON if len(options.runs) > 1 else None)
    if out:
        out = check_file(out, is_report)

    def warn(line: str) -> None:
        print(f"warning: {line}", file=sys.stderr)

    several = len(options.runs) > 1
    written = write_comparison(list(options.runs), out, warn) if several else write_report(options.runs[0], out, warn)
    print(f"written to {written}")


def main() -> None:
    """Exit codes: 0 done, 2 no run or nowhere to write, 130 Ctrl-C."""
    run_command(lambda: report(options_of(Options, usage("report"))))
