"""pipeline/train.py with one fault in it: ZORSE_FAULT="KIND [ARGUMENTS]" python tests/helpers/faulty.py [OPTIONS].

    pace SECONDS [FILE]   every step takes so much longer, while FILE exists
    raise RANK STEP       that rank raises in its step of that number, counted from 0 in each process
    hang RANK STEP        it sleeps for ever
    kill RANK STEP        it kills itself with signal 9
    nan RANK STEP         its loss is not a number
    infinite RANK STEP    a gradient of it is infinite while its loss is finite
    hang-start            nothing happens after the options were read
    slow-save SECONDS     every file of a checkpoint takes so much longer to be written
    events FILE           rank 0 writes every file event below --out into FILE
    event NUMBER          rank 0 kills itself right before the file event of that number

With ZORSE_FAULT_ONCE=FILE, it happens only while FILE does not exist, and makes it.
"""

import os
import signal
import sys
import time
from pathlib import Path

from zorse.checkpoints import format as checkpoint
from zorse.commands.train import main
from zorse.cyclegan import step
from zorse.runs import watchdog

RANK = int(os.environ.get("RANK", "0"))
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "os.truncate")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal is on its way


def first_time() -> bool:
    once = os.environ.get("ZORSE_FAULT_ONCE")
    try:
        return once is None or bool(Path(once).open("x"))
    except FileExistsError:
        return False


def in_a_step(kind: str, arguments: list[str]) -> None:
    """Have the fault in CycleGANStep's forward."""
    forward, calls = step.CycleGANStep.forward, 0

    def faulty(self, *given):
        nonlocal calls
        calls += 1
        if kind == "pace":
            if all(Path(file).exists() for file in arguments[1:]):
                time.sleep(float(arguments[0]))
        elif [RANK, calls - 1] == [int(argument) for argument in arguments] and first_time():
            if kind == "raise":
                raise RuntimeError("this fault was asked for")
            if kind == "hang":
                time.sleep(10_000)
            if kind == "kill":
                die()
            loss, named = forward(self, *given)
            if kind == "nan":
                return loss * float("nan"), {name: value * float("nan") for name, value in named.items()}
            if kind == "infinite":
                loss.register_hook(lambda gradient: gradient * float("inf"))
                return loss, named
        return forward(self, *given)

    step.CycleGANStep.forward = faulty


def in_a_save(seconds: float) -> None:
    save_tensors = checkpoint.save_tensors

    def slow(*given):
        time.sleep(seconds)
        save_tensors(*given)

    checkpoint.save_tensors = slow


def at_the_start() -> None:
    """Hang where all ranks meet, with no time for another owner of the run directory."""
    from zorse.training import trainer

    watchdog.LOCK_PATIENCE = watchdog.SILENCE = 0
    trainer.start_accelerator = lambda **options: time.sleep(10_000)


def at_a_file_event(kind: str, argument: str) -> None:
    """Count what Python does to files below --out, and have the fault at one of these."""
    out, seen = str(Path(sys.argv[sys.argv.index("--out") + 1]).resolve()), 0

    def hook(event: str, details: tuple) -> None:
        nonlocal seen
        if event not in FILE_EVENTS or not isinstance(details[0], str | Path):
            return
        path = str(details[0])
        if not path.startswith(out + "/"):
            return
        if event == "open" and not (details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        if kind == "events":
            with Path(argument).open("a") as file:  # not below --out
                file.write(f"{event} {path.removeprefix(out)}\n")
        elif seen == int(argument) and first_time():
            die()
        seen += 1

    sys.addaudithook(hook)


def have(fault: str) -> None:
    kind, *arguments = fault.split()
    if kind == "hang-start":
        at_the_start()
    elif kind == "slow-save":
        in_a_save(float(arguments[0]))
    elif kind not in ("events", "event"):
        in_a_step(kind, arguments)
    elif RANK == 0:
        at_a_file_event(kind, arguments[0])


if __name__ == "__main__":
    have(os.environ["ZORSE_FAULT"])
    main()
