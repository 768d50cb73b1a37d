"""What would fail, before an allocation burns: accelerate launch pipeline/doctor.py [the options of train.py]."""

import os
import sys

from rich.table import Table
from rich.text import Text

from zorse.commands.local_launch import launch, ranks_to_launch
from zorse.config.command_line import parse
from zorse.config.schema import Config
from zorse.errors import UserError
from zorse.invocation import command_line
from zorse.runs.watchdog import Watchdog
from zorse.terminal import report_console, run_command
from zorse.training.preflight import FAIL, OK, WARN, examine

WHAT = (
    "Check whether a training run with these options would work: machines, data, a step, memory, disk space, duration."
)

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def doctor(config: Config) -> int:
    """Show what was found; returns the exit code."""
    if (count := ranks_to_launch(config)) > 1:
        return launch("doctor", config, sys.argv[1:], count)
    if config.data.a:
        make = command_line("shard", "--a", config.data.a, "--b", config.data.b)
        raise UserError(f"--a and --b: make the shards first, with: {make}, and give --data")
    rank = int(os.environ.get("RANK", "0"))
    findings = examine(config, Watchdog(rank, config.compute.step_timeout))
    if rank == 0:
        table = Table.grid(padding=(0, 3))
        for finding in findings:
            table.add_row(Text(finding.verdict, STYLES[finding.verdict]), finding.what, finding.found)
        report_console().print(table)
        failed, warned = (sum(finding.verdict == verdict for finding in findings) for verdict in (FAIL, WARN))
        if failed:
            print(f"{failed} of {len(findings)} checks failed, {warned} gave a warning")
        else:
            found = f"no check failed, {warned} gave a warning" if warned else "all checks passed"
            print(f"{found}; train with the same options: {command_line('train')}")
    return int(any(finding.verdict == FAIL for finding in findings))


def main() -> None:
    """Exit codes: 0 nothing would fail, 1 something would, or the data could not be reached for a while, 2 a mistake in
    the options or the data, 3 it hung, 130 Ctrl-C."""
    run_command(lambda: doctor(parse(sys.argv[1:], "doctor", WHAT)))
