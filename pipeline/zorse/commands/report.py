"""One HTML page of a run, that needs no network: python pipeline/report.py RUN. The trainer renews it, too."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from jinja2 import UndefinedError

from zorse.config.command_line import options_of
from zorse.config.schema import may_be_left_out
from zorse.errors import UserError
from zorse.files import check_file
from zorse.runs.report_page import write_report


@dataclass(frozen=True)
class Options:
    """One page of a run, that needs no network: curves, samples through time, evaluations, what happened, options."""

    run: Annotated[Path, tyro.conf.Positional]
    """run directory of pipeline/train.py; the run may be going on"""
    out: Annotated[Path | None, may_be_left_out("PATH")] = None
    """HTML file to write; by default RUN/report.html"""


def main() -> None:
    """Exit codes: 0 done, 2 no run or nowhere to write, 130 Ctrl-C."""
    options = options_of(Options, "python pipeline/report.py")
    try:
        if options.out:
            check_file(options.out)
        print(f"written to {write_report(options.run, options.out)}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError, UndefinedError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        fix = "restore its .json and .jsonl files"
        print(f"error: {options.run}: its records are not what training wrote ({told}); {fix}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
