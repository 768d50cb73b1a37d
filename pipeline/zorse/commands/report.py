"""One HTML page of a run, that needs no network: python pipeline/report.py RUN. The trainer renews it, too."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zorse.config.command_line import options_of
from zorse.config.schema import optional
from zorse.files import check_file
from zorse.invocation import usage
from zorse.runs.report_page import is_report, write_report
from zorse.terminal import run_command


@dataclass(frozen=True)
class Options:
    """Write one self-contained page about a run: curves, samples through time, evaluations, events, options."""

    run: Annotated[Path, tyro.conf.Positional]
    """run directory of pipeline/train.py, which may still be training"""
    out: Annotated[Path | None, optional("PATH")] = None
    """HTML file to write; of existing files, only such a page is replaced; by default RUN/report.html"""


def report(options: Options) -> None:
    """Write the page. Raises UserError where there is no run."""
    out = check_file(options.out, is_report) if options.out else None

    def warn(line: str) -> None:
        print(f"warning: {line}", file=sys.stderr)

    print(f"written to {write_report(options.run, out, warn)}")


def main() -> None:
    """Exit codes: 0 done, 2 no run or nowhere to write, 130 Ctrl-C."""
    run_command(lambda: report(options_of(Options, usage("report"))))
