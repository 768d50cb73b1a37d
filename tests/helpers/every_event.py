"""Kill a trainer at each file event, run it again each time: every_event.py FOLDER all|kinds [options of train.py].

A trainer that nobody kills says which events there are: files of a run directory opened for writing, renamed, removed.
For every event, or for the first of each kind (those that differ in numbers alone), one is killed right before it, and
another goes on in its directory. Prints a line for each: the event, and whether every loss and every tensor of the last
checkpoint are those of the one that nobody killed. Each is a process of its own, forked when torch is loaded, which
saves it seconds.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import faulty
from runs import final, losses

import zorse.training.trainer  # noqa: F401, with torch, before the forks
from zorse.checkpoints import format as checkpoint
from zorse.commands import train


def run(out: Path, log: Path, fault: str = "pace 0") -> int:
    """A trainer in a child process, to its end. Returns its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train.py", "--out", str(out), *sys.argv[3:]]
    faulty.have(fault)
    train.main()
    os._exit(70)  # main ends the process


def main() -> None:
    base = Path(sys.argv[1])
    log, events = base / "log", base / "events"
    assert run(base / "whole", log, f"events {events}") == 0, log.read_text()
    whole, failed = base / "whole", 0
    expected = losses(whole), final(whole)
    names = events.read_text().splitlines()
    kinds = {re.sub(r"[0-9a-f]{4,}|[0-9]+", "N", name): number for number, name in reversed([*enumerate(names)])}
    for number in range(len(names)) if sys.argv[2] == "all" else sorted(kinds.values()):
        name = names[number]
        out = base / f"event-{number}"
        log.write_text("")
        killed, ended = run(out, log, f"event {number}"), run(out, log)
        same = False
        if ended == 0:
            tensors = final(out)
            same = losses(out) == expected[0] and tensors.keys() == expected[1].keys()
            same = same and all(tensors[name].equal(tensor) for name, tensor in expected[1].items())
            same = (
                same
                and not list((out / "checkpoints").glob("damaged-*"))
                and not checkpoint.integrity_error(checkpoint.latest_valid(out))
            )
        held = killed == -signal.SIGKILL and same
        print(f"{'held' if held else 'FAILED'} {number} {name}", flush=True)
        if held:
            shutil.rmtree(out)
        else:
            failed += 1
            print(f"exit codes {killed}, {ended}\n{log.read_text()}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
