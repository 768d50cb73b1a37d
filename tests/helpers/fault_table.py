"""`make faults`: which faults are tried, which are survived, and how long recovery takes.

A test that shows a row of the table is marked @pytest.mark.fault(ROW). It may record_property("tries", N), and for each
recovery record_property("recovery_s", SECONDS) from the fault to the first new step.
"""

import statistics
from collections import defaultdict

from rich.console import Console
from rich.table import Table

ROWS = {
    1: "kill -9 of the run, of one rank, of the launcher",
    2: "kill -9 at every file event of a run",
    3: "Slurm: signal before the time limit",
    4: "Slurm: preempted by a more urgent job",
    5: "Slurm: scontrol requeue; scancel",
    6: "Slurm: a node killed; a cable pulled",
    7: "a rank hangs",
    8: "a rank raises",
    9: "a mistake in the options, under a batch script",
    10: "disk full while saving",
    11: "run directory read-only, not there, not a directory",
    12: "newest checkpoint cut, changed, without a file, without a manifest",
    13: "all checkpoints damaged",
    14: "shard missing, cut, or not what its index says",
    15: "corrupt image, odd modes",
    16: "evil names inside archives",
    17: "pickles inside shards and checkpoints",
    18: "image bomb, gzip bomb",
    19: "NaN or infinity on one rank",
    20: "wrong options",
    21: "resume with another number of ranks",
    22: "two runs on one directory, over nodes too",
    23: "uneven shards",
    24: "resume with other options, other data",
    25: "all processes stand still and go on: Ctrl-Z, a frozen machine",
    26: "shared memory too small; a data worker killed",
    27: "launcher killed during the start; a start that hangs",
    28: "disk full for a moment, and for good",
    29: "terminal closed",
}


def pytest_addoption(parser) -> None:
    parser.addoption("--fault-table", action="store_true", help="print the table of faults at the end")


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        rows = [row for mark in item.iter_markers("fault") for row in mark.args]
        unknown = set(rows) - set(ROWS)
        assert not unknown, f"{item.nodeid}: no such rows of the fault table: {unknown}"
        item.user_properties += [("fault", row) for row in rows]


def pytest_terminal_summary(terminalreporter, config) -> None:
    if not config.getoption("--fault-table"):
        return
    tries, held, skipped, recoveries = (defaultdict(list) for _ in range(4))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = report.user_properties
            count = dict(properties).get("tries", 1)
            for row in (value for name, value in properties if name == "fault"):
                if outcome == "skipped":
                    skipped[row].append(report.longrepr[2].removeprefix("Skipped: "))
                    continue
                tries[row].append(count)
                held[row].append(count if outcome == "passed" else 0)
                recoveries[row] += [value for name, value in properties if name == "recovery_s"]
    table = Table(title="faults", title_style="bold")
    for name in ("row", "fault", "tries", "held", "to the first new step"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for row, title in ROWS.items():
        seconds = recoveries[row]
        took = f"{statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s" if seconds else ""
        if tries[row]:
            good, all_ = sum(held[row]), sum(tries[row])
            shown = f"{good}" if good == all_ else f"[red]{good}[/red]"
            table.add_row(str(row), title, str(all_), shown, took)
        else:
            table.add_row(str(row), title, "", skipped[row][0] if skipped[row] else "not tried", "")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    tried = [row for row in ROWS if tries[row]]
    survived = sum(sum(held[row]) == sum(tries[row]) for row in tried)
    console.print(f"{survived} of {len(tried)} faults survived; {len(ROWS) - len(tried)} not tried")
